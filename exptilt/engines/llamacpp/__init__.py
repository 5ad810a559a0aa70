"""GGUF models inside llama.cpp: quantised weights on a CPU or GPU, without torch.

backend.py is what `exptilt.engines.language` draws with; decode.py the batch that the scheduler drives; memory.py which
sequence holds which key-values; network.py llama.cpp's own functions; tokenizer.py the file's vocabulary and chat template.
"""

from exptilt.engines.llamacpp.backend import Weights

__all__ = ["Weights"]
