"""Any causal language model of transformers as an engine.

engine.py is the engine itself; text.py turns prompts into tokens and tokens into text; law.py is temperature, top-k,
top-p and the draw; network.py runs the model, and cache.py keeps its key-values; decode.py is the batch that the
scheduler drives; loading.py finds and converts weights.
"""

from exptilt.engines.hf.engine import HFEngine, Weights

__all__ = ["HFEngine", "Weights"]
