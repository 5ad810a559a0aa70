"""What an object is, as JSON values: the part of a results file that says which run it belongs to."""

from exptilt.describe.walk import LATER, describe

__all__ = ["LATER", "describe"]
