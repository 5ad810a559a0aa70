"""GGUF models inside llama.cpp as an engine: quantised weights on a CPU or GPU, without torch.

engine.py is the engine itself; decode.py the batch that the scheduler drives; memory.py who holds which key-values;
network.py llama.cpp's own functions; law.py temperature, top-k, top-p and the draw; tokenizer.py the file's vocabulary
and chat template.
"""

from exptilt.engines.llamacpp.engine import LlamaCppEngine, Weights

__all__ = ["LlamaCppEngine", "Weights"]
