"""vLLM in this process as an engine: no server, no HTTP, drafts in the model's own token ids.

engine.py is the law; batch.py turns what it wants into requests that run together; loading.py starts vLLM and is the
only module that imports it.
"""

from exptilt.engines.vllm.engine import Model, VLLMEngine

__all__ = ["Model", "VLLMEngine"]
