"""What the contracts of engines, samplers and rewards share."""

from __future__ import annotations


class ContractError(AssertionError):
    """A part does not keep its contract; the message says what was found and what was promised."""


def require(kept: bool, message: str) -> None:
    """Raise ContractError unless `kept`. Not an `assert`, which `python -O` leaves out."""
    if not kept:
        raise ContractError(message)
