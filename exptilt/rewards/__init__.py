"""Rewards r(x, y): functions of a prompt and its drafts, and recipes that become such functions for each prompt.

Any callable `(prompt, drafts) -> floats` is a reward. These are the ready-made ones: rules about the text, agreement with
other samples, tests of generated code, the engine's own likelihood and certainty, models that rate texts, and rewards
of pictures.
"""

from exptilt.rewards.agreement import Agreement, RunningMajority
from exptilt.rewards.arithmetic import Arithmetic
from exptilt.rewards.calls import CallsLike
from exptilt.rewards.code import OutputAgreement, UnitTests
from exptilt.rewards.columns import TRL
from exptilt.rewards.isolated import Isolated
from exptilt.rewards.likelihood import LogProb, NegativeEntropy, Power, SelfCertainty
from exptilt.rewards.model import (
    FORMATS,
    ClassifierReward,
    EndpointReward,
    Judge,
    PairwiseJudge,
    ProcessReward,
    StepFormat,
)
from exptilt.rewards.model.pictures import ImageClassifier, TextSimilarity
from exptilt.rewards.pictures import ClassifierFree, Ink, JpegSize, OfPictures, Symmetry
from exptilt.rewards.rules import Each, Format, Matches, Sum, Zero

__all__ = [
    "TRL",
    "Agreement",
    "Arithmetic",
    "CallsLike",
    "ClassifierFree",
    "ClassifierReward",
    "Each",
    "EndpointReward",
    "FORMATS",
    "Format",
    "ImageClassifier",
    "Ink",
    "Isolated",
    "JpegSize",
    "Judge",
    "LogProb",
    "Matches",
    "NegativeEntropy",
    "OfPictures",
    "OutputAgreement",
    "PairwiseJudge",
    "Power",
    "ProcessReward",
    "RunningMajority",
    "SelfCertainty",
    "StepFormat",
    "Sum",
    "Symmetry",
    "TextSimilarity",
    "UnitTests",
    "Zero",
]
