"""Everything that has a name on the command line, and how names become the parts of a run.

    target("tiny", "agreement", 0.1, max_tokens=64)      sampler("ets", candidates=4)      select("vote", "number")

A part has a short name if it is exptilt's own, or if an installed package offers it under an entry point of the
group `exptilt.samplers`, `exptilt.rewards`, `exptilt.selects`, `exptilt.stop_rules`, `exptilt.answers` or
`exptilt.utilities`. Any other object has a long one, FILE.py:NAME or package.module:NAME. A wrong name raises UsageError,
which lists the right ones. The command line and the model of lm-evaluation-harness are built on these functions.
"""

from __future__ import annotations

from exptilt.names.answers import ANSWERS, UTILITIES
from exptilt.names.samplers import ALIASES, SAMPLERS, Alias, Chosen, choose_sampler, known_samplers, sampler
from exptilt.names.selects import SELECTS, select
from exptilt.names.stop_rules import RULES, STOP_RULES, stop_rule
from exptilt.names.targets import MODEL_REWARDS, REWARDS, engine, find_reward, model_options, target

__all__ = [
    "ALIASES",
    "ANSWERS",
    "MODEL_REWARDS",
    "REWARDS",
    "RULES",
    "SAMPLERS",
    "SELECTS",
    "STOP_RULES",
    "UTILITIES",
    "Alias",
    "Chosen",
    "choose_sampler",
    "engine",
    "find_reward",
    "known_samplers",
    "model_options",
    "sampler",
    "select",
    "stop_rule",
    "target",
]
