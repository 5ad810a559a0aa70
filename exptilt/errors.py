"""Every error that exptilt raises on purpose. Each message says what was wrong, with the value, and the cure."""

from __future__ import annotations


class ExptiltError(Exception):
    """Base of every error that exptilt raises on purpose; the message says what was wrong and the cure."""


class PromptError(ExptiltError):
    """The prompt is empty, or leaves no room for an answer in the model's context."""


class ModelError(ExptiltError):
    """The model cannot be found, read or run."""


class AnswerError(ExptiltError):
    """A server gave no usable answer to one request, or refused it: that prompt fails, and the others go on.

    status: of a refusal, as HTTP numbers them; 0 where the server refused nothing. said: the server's own words.
    """

    status: int = 0
    said: str = ""


class RewardError(ExptiltError):
    """The reward raised, or returned NaN, +inf or the wrong number of values. Never turned into a score."""


class SelectError(ExptiltError):
    """The select raised, or returned something else than a draft."""


class SandboxError(ExptiltError):
    """The sandbox for generated programs cannot be built, or broke. Never turned into a score."""


class TargetError(ExptiltError):
    """The parts of a target, or a target and a sampler, do not fit together."""


class CapabilityError(TargetError):
    """The engine cannot do what the sampler needs."""


class WeightsError(ExptiltError):
    """A population was given log-weights that are NaN or +inf."""


class AllWeightsZero(ExptiltError):
    """Every draft has weight zero: the reward excludes everything that was drawn."""


class BudgetSpent(ExptiltError):
    """The budget ended before the first complete population."""


class StoreError(ExptiltError):
    """The results file is corrupt, or belongs to a run with other settings."""


class ClusterError(ExptiltError):
    """The Ray cluster cannot be reached, has no room, or lost its last worker."""


def error_named(name: str, message: str) -> ExptiltError:
    """The error that was recorded by the name of its class, such as "RewardError", and its message."""
    kind = globals().get(name, ExptiltError)
    return kind(message) if isinstance(kind, type) and issubclass(kind, ExptiltError) else ExptiltError(message)
