"""Any causal language model of transformers.

backend.py is what `exptilt.engines.language` draws with; network.py runs the model; decode.py is the batch that the scheduler
drives; loading.py finds and converts weights.
"""

from exptilt.engines.hf.backend import Weights

__all__ = ["Weights"]
