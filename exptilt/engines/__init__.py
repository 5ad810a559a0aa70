"""Engines: distributions p(y|x) to draw from. The exact toys are here; `exptilt.load` makes the others from a model's name."""

from exptilt.engines.masked_table import MaskedTableEngine
from exptilt.engines.table import TableEngine

__all__ = ["MaskedTableEngine", "TableEngine"]
