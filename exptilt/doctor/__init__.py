"""Before a long run: is the reward fit for it, which β, which sampler, and what will it cost?

    from exptilt.doctor import Goal, examine

    found = examine(xt.load("tiny", max_tokens=96), xt.rewards.Arithmetic(), prompts, Goal(ess=8))
    found.beta, found.chosen.sampler, found.why, found.bill(found.chosen, problems=1000), found.warnings

`pilot.py` says what is drawn, `tilt.py` what that tells about β, `plans.py` what samplers would cost for the same result,
`checks.py` and `findings.py` what speaks against the reward and the draws. Everything is an estimate with an interval.
"""

from exptilt.doctor.examine import Bill, Examination, Goal, examine

__all__ = ["Bill", "Examination", "Goal", "examine"]
