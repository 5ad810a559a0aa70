"""Rewards from models: classifiers, process reward models, services behind a URL, and language models as judges.

    classifier.py   ClassifierReward: one score for a whole response, by a model of transformers in this process
    process.py      ProcessReward: a score after every step of it
    endpoint.py     EndpointReward: the score of a service
    judge.py        Judge, PairwiseJudge: what an engine says when it is asked
    pairs.py        what they share: scores remembered by text, texts cut to fit, score vectors made one number
    network.py      forward passes of all callers together; loading.py: models read and checked. These two import torch,
                    and are imported when a local model is loaded.

Each is a fixed function of a prompt and a response's text, unfinished or not, so π exists and every sampler is exact for it.
docs/rewards.md shows how to use them.
"""

from exptilt.rewards.model.classifier import ClassifierReward
from exptilt.rewards.model.endpoint import EndpointReward
from exptilt.rewards.model.judge import Judge, PairwiseJudge
from exptilt.rewards.model.process import FORMATS, ProcessReward, StepFormat

__all__ = ["FORMATS", "ClassifierReward", "EndpointReward", "Judge", "PairwiseJudge", "ProcessReward", "StepFormat"]
