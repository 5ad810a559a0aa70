"""exptilt draws from π(y|x) ∝ p(y|x)·exp(r(x,y)/β), the policy that RL would train, while the model stays frozen.

    import exptilt as xt

    engine = xt.load("tiny")                                             # p: a model with its sampling parameters
    target = xt.Target(engine, xt.rewards.Arithmetic(), beta=0.1)        # π: p, a reward r, and β
    result = xt.sample(target, "Tom has 3 apples ...", xt.ETS(candidates=8, rollouts=2, block=16), seed=0)
    result.text, result.log_z, result.population, result.usage

A *target* is the mathematics, a *sampler* yields weighted *populations* for it, a *select* picks one answer from them.
"""

from exptilt import answers, engines, rewards, testing
from exptilt.blocks import Block
from exptilt.core import Target
from exptilt.draft import Chat, Draft, Turn
from exptilt.engines.loading import load
from exptilt.errors import (
    AllWeightsZero,
    AnswerError,
    BudgetSpent,
    Cancelled,
    CapabilityError,
    ClusterError,
    ExptiltError,
    ModelError,
    PromptError,
    RewardError,
    SelectError,
    StoreError,
    TargetError,
    TrainError,
    WeightsError,
)
from exptilt.keys import Key
from exptilt.moved import install as _install_moved
from exptilt.populations import until
from exptilt.populations.calibrate import choose_beta
from exptilt.populations.population import Population
from exptilt.populations.select import best, draw, mbr, vote
from exptilt.running.ask import Asked, ask
from exptilt.running.cluster import Cluster
from exptilt.running.example import Example
from exptilt.running.examples import read_examples as examples
from exptilt.running.result import Failure, Partial, Result
from exptilt.running.results import Results, read_results
from exptilt.running.run import asample, run, sample, stream
from exptilt.running.stream import Stream
from exptilt.samplers import ETS, SMC, Beam, Independent, Metropolised, ParticleGibbs, Rejection, SuffixMCMC
from exptilt.usage import Budget

_install_moved()

__version__ = "0.1.0"

__all__ = [
    "ETS",
    "SMC",
    "AllWeightsZero",
    "AnswerError",
    "Asked",
    "Beam",
    "Block",
    "Budget",
    "BudgetSpent",
    "Cancelled",
    "CapabilityError",
    "Chat",
    "Cluster",
    "ClusterError",
    "Draft",
    "Example",
    "ExptiltError",
    "Failure",
    "Independent",
    "Key",
    "Metropolised",
    "ModelError",
    "Partial",
    "ParticleGibbs",
    "Population",
    "PromptError",
    "Rejection",
    "Result",
    "Results",
    "RewardError",
    "SelectError",
    "StoreError",
    "Stream",
    "SuffixMCMC",
    "Target",
    "TargetError",
    "TrainError",
    "Turn",
    "WeightsError",
    "answers",
    "asample",
    "ask",
    "best",
    "choose_beta",
    "draw",
    "engines",
    "examples",
    "load",
    "mbr",
    "read_results",
    "rewards",
    "run",
    "sample",
    "stream",
    "testing",
    "until",
    "vote",
]
