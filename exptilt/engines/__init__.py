"""Engines: distributions p(y|x) to draw from. The exact toys are here; `exptilt.load` makes the others from a model's name."""

from exptilt.engines.table import MaskedTableEngine, TableEngine

__all__ = ["MaskedTableEngine", "TableEngine"]
