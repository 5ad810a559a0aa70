"""Before a long run: is the reward fit for it, which β, how many draws, and what will they cost?

    from exptilt.doctor import Goal, examine

    found = examine(xt.load("tiny", max_tokens=96), xt.rewards.Arithmetic(), prompts, Goal(ess=8))
    found.beta, found.plan.sampler, found.why, found.bill(found.plan, problems=1000), found.warnings

`pilot.py` says what is drawn, `tilt.py` what that says about β, `checks.py` and `findings.py` what the reward and the draws
are like, `warnings.py` what speaks against them. Everything is an estimate with an interval.
"""

from exptilt.doctor.examination import Bill, Examination, Goal, Plan
from exptilt.doctor.examine import examine

__all__ = ["Bill", "Examination", "Goal", "Plan", "examine"]
