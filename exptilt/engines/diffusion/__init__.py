"""Any masked-diffusion language model of transformers.

backend.py is what `exptilt.engines.language` draws with; layout.py how its drafts become rows; sampling.py says what fixes the
distribution, and which positions are decided next; network.py runs the model on padded batches and gives logits where they are
wanted; cache.py keeps keys and values; row.py is one response in progress, evaluation.py what the network sees of all rows,
decisions.py how that becomes tokens; decode.py is the batch that the scheduler drives; loading.py reads models and finds their
mask and end-of-text tokens.
"""

from exptilt.engines.diffusion.backend import MaskedWeights
from exptilt.engines.diffusion.sampling import DiffusionSampling

__all__ = ["DiffusionSampling", "MaskedWeights"]
