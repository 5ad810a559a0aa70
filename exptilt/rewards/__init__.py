"""Rewards r(x, y): functions of a prompt and its drafts, and recipes that become such functions for each prompt.

Any callable `(prompt, drafts) -> floats` is a reward. These are the ready-made ones that need no second model:
rules about the text, agreement with other samples, and the engine's own likelihood and certainty.
"""

from exptilt.rewards.agreement import Agreement, RunningMajority
from exptilt.rewards.arithmetic import Arithmetic
from exptilt.rewards.calls import CallsLike
from exptilt.rewards.code import OutputAgreement, UnitTests
from exptilt.rewards.likelihood import LogProb, NegativeEntropy, Power, SelfCertainty
from exptilt.rewards.rules import Each, Format, Matches, Sum

__all__ = [
    "Agreement",
    "Arithmetic",
    "CallsLike",
    "Each",
    "Format",
    "LogProb",
    "Matches",
    "NegativeEntropy",
    "OutputAgreement",
    "Power",
    "RunningMajority",
    "SelfCertainty",
    "Sum",
    "UnitTests",
]
