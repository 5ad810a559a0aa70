"""Every error that exptilt raises on purpose. Each message says what was wrong, with the value, and the cure."""

from __future__ import annotations

import os
import shlex
import sysconfig
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class ExptiltError(Exception):
    """Base of every error that exptilt raises on purpose; the message says what was wrong and the cure."""


class UsageError(ExptiltError):
    """A name, a flag, a setting or a file of prompts cannot be understood."""


class PromptError(ExptiltError):
    """The prompt is empty, or leaves no room for an answer in the model's context."""


class ModelError(ExptiltError):
    """The model cannot be found, read or run."""


class AnswerError(ExptiltError):
    """A server gave no usable answer to one request, or refused it: that prompt fails, and the others go on.

    status: of a refusal, as HTTP numbers them; 0 where the server refused nothing.
    said: the server's own words.
    """

    status: int = 0
    said: str = ""


class RewardError(ExptiltError):
    """The reward raised, or returned NaN, +inf or the wrong number of values. Never turned into a score."""


class SelectError(ExptiltError):
    """The select raised or did not return a draft, or the stop rule raised or did not return True or False."""


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


class Cancelled(ExptiltError):
    """The run was cancelled before it had an answer."""


class StoreError(ExptiltError):
    """The results file is corrupt, or belongs to a run with other settings."""


class TrainError(ExptiltError):
    """A training run cannot begin, go on or be written: its message says what to change, and what is kept."""


class ClusterError(ExptiltError):
    """The Ray cluster cannot be reached, has no room, or lost its last worker."""


def error_named(name: str, message: str) -> ExptiltError:
    """The error that was recorded by the name of its class, such as "RewardError", and its message."""
    kind = globals().get(name, ExptiltError)
    return kind(message) if isinstance(kind, type) and issubclass(kind, ExptiltError) else ExptiltError(message)


def install(extra: str) -> str:
    """The command that installs an extra: that of the clone that this is, or of the released package."""
    clone = Path(__file__).parents[1]
    of_clone = (clone / "pyproject.toml").is_file()
    return f"pip install {'-e ' * of_clone}{shlex.quote(f'{clone if of_clone else __package__}[{extra}]')}"


def did_you_mean(word: str, offered: Iterable[str]) -> str:
    """A sentence with the offered word that is spelled most like `word`, after a space; empty where none is near."""
    spelled = {each.lower(): each for each in offered}
    near = get_close_matches(word.lower(), list(spelled), 1)
    return f" Did you mean {spelled[near[0]]}?" if near else ""


_NOT_THE_USERS = (f"{Path(__file__).parent}{os.sep}", sysconfig.get_path("stdlib"), "<frozen")


def raised_at(error: BaseException) -> str:
    """The last line of the user's own code that the error came through, as " (FILE, line N)".

    Where all of it is libraries', the last line outside of exptilt; empty where there is none.
    """
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_USERS[0])]
    users = [frame for frame in outside if not (frame.filename.startswith(_NOT_THE_USERS) or "site-packages" in frame.filename)]
    found = users or outside
    return f" ({found[-1].filename}, line {found[-1].lineno})" if found else ""
