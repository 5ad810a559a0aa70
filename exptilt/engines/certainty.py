"""How sure a language model was at each token: the measurement behind the internal rewards.

`Certainty` is what an engine with the capability "certainty" returns for a draft, and what `SelfCertainty` and
`NegativeEntropy` of `exptilt.rewards.likelihood` average. It is measured on the model's own distribution p_t over the
whole vocabulary, after temperature and *before* top-p or top-k, because KL(U‖p_t) is infinite once a token is cut off.
All values are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from exptilt.draft import Draft
from exptilt.keys import Floats


@dataclass(frozen=True, eq=False)
class Certainty:
    """Per-token certainty of one draft, one entry for each decision and in the order of the decisions.

    entropy: H(p_t), float64 [tokens], between 0 and log V for a vocabulary of V tokens.
    kl_to_uniform: KL(p_t‖U) = log V - H(p_t), float64 [tokens].
    kl_from_uniform: KL(U‖p_t) = -log V - (1/V) Σ_v log p_t(v), float64 [tokens]; inf where p_t has a zero.
    """

    entropy: Floats
    kl_to_uniform: Floats
    kl_from_uniform: Floats

    @classmethod
    def of(cls, log_probs: np.ndarray[Any, Any]) -> Certainty:
        """Measure normalised log-probabilities [tokens, vocabulary]; sums run in float64. -inf stands for zero.

        Raises ValueError where the array is not two-dimensional or a row is not a probability distribution.
        """
        logs = np.asarray(log_probs, dtype=np.float64)
        if logs.ndim != 2 or logs.shape[1] == 0:
            raise ValueError(f"log_probs has shape {logs.shape}: give one row of log-probabilities per token")
        probabilities = np.exp(logs)
        sums = probabilities.sum(axis=1)
        if not np.allclose(sums, 1.0, atol=1e-3):
            raise ValueError(f"probabilities sum to {sums[np.argmax(np.abs(sums - 1))]:.6g}: give log_softmax of the logits")
        entropy = -np.sum(np.where(probabilities > 0, probabilities * np.where(probabilities > 0, logs, 0.0), 0.0), axis=1)
        log_size = math.log(logs.shape[1])
        return cls(entropy, log_size - entropy, -log_size - logs.mean(axis=1))


@runtime_checkable
class CertainEngine(Protocol):
    """An engine that can measure certainty; it lists "certainty" in its `can`."""

    def certainty(self, drafts: Sequence[Draft]) -> list[Certainty]:
        """The certainty of every decision of each draft, given the decisions before it."""
        ...
