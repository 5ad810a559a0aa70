"""vLLM in this process: no server, no HTTP, drafts in the model's own token ids.

backend.py is what `exptilt.engines.language` draws with; batch.py turns what it wants into requests that run together; loading.py
starts vLLM and is the only module that imports it.
"""

from exptilt.engines.vllm.backend import Model

__all__ = ["Model"]
