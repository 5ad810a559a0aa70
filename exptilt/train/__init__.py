"""Learning from populations, without reinforcement learning: what runs have paid for already becomes weights of a model.

    lessons.py    results files as lessons: the drafts of each prompt with weights that sum to one
    fitting.py    one training run by transformers' Trainer: checkpoints, exact resume, plain errors
    models.py     models and tokenizers as training reads them
    align.py      a model fitted to π by weighted maximum likelihood; rounds.py: drawing and fitting in turn
    value.py      what each next token is worth, learned from rollouts; head.py: the network that says it
    twisted.py    proposals that look ahead with such a value, or with any function where the model is a table
    image.py      a diffusion model fitted to a reward of its pictures, and the RL-like loss beside it
    reward.py     Bradley-Terry reward models from pairs of drafts, by TRL

Needs the extra `exptilt[train]`; docs/train.md shows how to use it.
"""

from exptilt.train.lessons import Form, Lessons, Power, Tilt, read_lessons
from exptilt.train.settings import Fit
from exptilt.train.twisted import TwistedEngine

__all__ = ["Fit", "Form", "Lessons", "Power", "Tilt", "TwistedEngine", "read_lessons"]
