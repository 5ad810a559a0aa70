"""Claims that other scripts of reproduce/ have measured: their committed results, read again and judged."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from exptilt.evaluation.evaluate import paired_difference  # noqa: E402
from reproduce.claims.cells import interval, points, sure  # noqa: E402
from reproduce.claims.finding import Finding, judged, keep  # noqa: E402
from reproduce.frontier_page import excess  # noqa: E402
from reproduce.frontier_page import interval as over_problems  # noqa: E402
from reproduce.learned_reward_page import off_the_limit, verdict  # noqa: E402
from reproduce.methods import Results  # noqa: E402
from reproduce.table_tiny import RESULTS as TABLE  # noqa: E402
from reproduce.table_tiny import scores_of  # noqa: E402


@cache
def read(name: str) -> Any:
    return json.loads((ROOT / "reproduce" / "results" / f"{name}.json").read_text())


# --------------------------------------------------------------------------------------------------- equal tokens


def at_equal_tokens() -> list[Finding]:
    results, found = Results(TABLE), []
    for reward, why in (
        ("true reward", ""),
        ("agreement reward", "half of its tokens go to a pilot, whose majority is all that it knows"),
    ):
        gaps = {}
        for samples in (4, 8, 16, 32):
            scores = scores_of(results, reward, samples)
            ets, vote = scores["ETS, all rollouts vote"], scores["majority vote"]
            gaps[samples] = (ets.accuracy, vote.accuracy, *paired_difference(ets, vote))
        told = "; ".join(
            f"{n} samples: {e:.1%} against {v:.1%}, {100 * gap:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            for n, (e, v, gap, low, high) in gaps.items()
        )
        ahead = [n for n, (*_, low, _) in gaps.items() if low > 0]
        found.append(
            Finding(
                f"ETS is above the vote at equal tokens, with {reward}",
                "ETS, Table 1",
                "tiny, 900 held-out word problems, 3 seeds",
                "above it at every budget",
                told,
                figure="methods.md",
                **judged(len(ahead) == len(gaps), why, bool(ahead)),
            )
        )
    return found


def of_masked() -> Finding:
    cells = read("diffusion")["compare"]
    ets, vote = (
        np.array([right for part in cells[name].values() for right in part["right"][by]])
        for name, by in (("ETS", "voted"), ("draws", "majority"))
    )
    ahead = interval(ets - vote)
    return Finding(
        "ETS improves masked diffusion models", "ETS, Table 1 (LLaDA)",
        f"tiny-mdlm, {len(ets)} held-out word problems, checked steps",
        "above the vote at equal forwards", f"{ets.mean():.1%} against {vote.mean():.1%}: {points(ahead)}",
        figure="diffusion_results.md", **judged(sure(ahead) > 0, "no gain at equal forwards", part=False),
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------- training


def without_training() -> list[Finding]:
    rows = read("frontier")
    trained = [name for name in rows if name.startswith(("align", "GRPO", "DPO"))]
    compared, problems = (*trained, "soft best-of-8"), len(rows["GRPO"]["reward"])
    wasted = {name: over_problems(lambda chosen, name=name: excess(rows, name, chosen), problems) for name in compared}
    nats = {name: f"{name} {mean:.2f} ± {half:.2f}" for name, (mean, half) in wasted.items()}
    best = max(trained, key=lambda name: np.mean(rows[name]["right"]))
    sampled = interval(np.array(rows["soft best-of-8"]["right"]) - np.array(rows[best]["right"]))
    return [
        Finding(
            "Sampling from π matches RL without training", "ETS, title and Table 1",
            "tiny-small, 100 held-out word problems, checked arithmetic; 300,000 drawn tokens for each training",
            "as much reward at the same divergence from p as GRPO",
            f"nats wasted against π's own curve: {'; '.join(nats.values())}; soft best-of-8 over {best} {points(sampled)}",
            figure="frontier.png",
            **judged(wasted["soft best-of-8"][0] < wasted["GRPO"][0], "training is nearer to π", part=False),
        ),
        Finding(
            "RL-free alignment reaches π by weighted likelihood", "anthology, eq. 19-22", "the same",
            "within 0.01 nats of π's curve",
            "; ".join(f"{nats[name]} nats" for name in trained if "align" in name),
            figure="train.md",
            **judged(wasted["align, β = 0.5"][0] < 0.01, "the model cannot learn to slip less; what it can hold, it learns"),
        ),
    ]  # fmt: skip


def evidence() -> Finding:
    """E_q[r] - β·KL(q‖p) ≤ β·log Z for any q, with equality for π alone: by held-out draws of every policy of the study."""
    rows = read("frontier")
    name = min((each for each in rows if each.startswith("π")), key=lambda each: abs(float(each.split("=")[1]) - 0.2))
    beta = float(name.split("=")[1])

    def objective(each: str) -> np.ndarray:
        return np.array(rows[each]["reward"]) - beta * np.array(rows[each]["kl"])

    log_z = objective(name)
    gaps = {each: interval(log_z - objective(each)) for each in rows if rows[each]["kl"] is not None and not each.startswith("π")}
    told = "; ".join(f"{each} {gap[0]:.3f} ± {gap[1]:.3f}" for each, gap in gaps.items())
    return Finding(
        "β·log Z bounds the objective of any policy", "QAlign, appendix B",
        f"tiny-small, 100 held-out word problems, {len(gaps)} policies", "no policy above π",
        f"β = {beta:.3g}, β·log Z less the objective: {told}", figure="frontier.png",
        **judged(all(gap[0] > -gap[1] for gap in gaps.values()), "a policy is above π: an error of the estimates", part=False),
    )  # fmt: skip


def of_theory() -> list[Finding]:
    return [
        Finding(each["claim"].replace("\\|", "|"), "anthology, section 2", "ten random models, by enumeration",
                each["prediction"].replace("\\|", "|"), each["measured"], "holds", figure="train.md")
        for each in read("train_claims")
    ]  # fmt: skip


def of_qalign() -> list[Finding]:
    found = read("learned_reward")
    rows, found_limit = found["rows"], found["limit"]
    falls = {name: verdict(some) for name, some in rows.items()}
    told = "; ".join(f"{name} {np.mean(some[0][1]):.0%} to {np.mean(some[-1][1]):.0%}" for name, some in rows.items())
    setting = f"tiny-small, 100 held-out word problems, {len(found['beta'])} Bradley-Terry models of {found['pairs'][0]} pairs"
    chain = rows["QAlign, vote"]

    def over(name: str, dearer: int = 1) -> tuple[float, float]:
        """The chain's last votes less those of a method at so many times its tokens."""
        near = min(rows[name], key=lambda point: abs(point[0] - dearer * chain[-1][0]))
        return interval(np.array(chain[-1][1]) - np.array(near[1]))

    def compared(name: str) -> str:
        """At equal FLOPs it may take twice the tokens: the reward model is as large as the model, and reads each token once."""
        return f"{points(over(name))} at equal tokens, {points(over(name, 2))} at equal FLOPs with the reward's own"

    gap, over_trained = over("majority"), over("DPO, majority")

    def by_model(name: str) -> str:
        return f"{name} by model " + ", ".join(f"{share:.0%}" for share in found["last"][name])

    states = 256
    ratio = chain[-1][0] / (states * rows["best-of-n"][0][0])
    few, many = off_the_limit(found)
    return [
        Finding(
            "Best-of-n over-optimises an imperfect reward", "QAlign, figures 1 and 2", setting, "accuracy falls as n grows",
            f"{told}; best-of-n {falls['best-of-n']}", figure="learned_reward.png",
            **judged("falls" in falls["best-of-n"] and "not" not in falls["best-of-n"], "no fall is seen", part=False),
        ),
        Finding(
            "QAlign improves with compute where best-of-n falls", "QAlign, figures 1 and 2", setting,
            "no fall, and above the majority",
            f"QAlign {falls['QAlign, vote']}; at its most tokens less the majority's: {compared('majority')}; "
            f"{by_model('QAlign, vote')}",
            figure="learned_reward.png",
            **judged("not" in falls["QAlign, vote"] and sure(gap) > 0,
                     "it settles at π's vote, and π is only as good as the reward",
                     np.mean(chain[-1][1]) > np.mean(rows["best-of-n"][-1][1]) + 0.1),
        ),
        Finding(
            "QAlign is above a vote of the model that DPO makes of the same preferences", "QAlign, table 1", setting,
            "above it at equal tokens", f"at its most tokens {compared('DPO, majority')}; {by_model('DPO, majority')}",
            figure="learned_reward.png",
            **judged(sure(over_trained) > 0, "a reward model of so few pairs guides to its errors, which DPO learns less of",
                     sure(over_trained) == 0),
        ),
        Finding(
            "QAlign takes half the tokens of as many draws", "QAlign, appendix D", setting, "a ratio of one half",
            f"{chain[-1][0]:,.0f} tokens for {states} states, {ratio:.2f} of as many draws", figure="learned_reward.png",
            **judged(abs(ratio - 0.5) < 0.05, "suffixes are not half of a response in the mean", part=False),
        ),
        Finding(
            "The maximum of rewards has the limit of Gumbel", "QAlign, appendix A, figure 3", setting,
            "the mean of best-of-n by a two-Gaussian fit",
            f"off by {few:.2f} standard deviations of a problem's rewards for n = {found_limit['n'][0]}, by {many:.2f} for n = "
            f"{found_limit['n'][-1]}",
            figure="learned_reward.png",
            **judged(few < 0.25, "it is a limit, and rewards of few different responses are not Gaussian", many < min(0.25, few)),
        ),
    ]  # fmt: skip


def of_pictures() -> Finding:
    gaps = []
    for name, each in read("digits").items():
        if isinstance(each, dict):
            rows = each["rows"]
            ets, best = (rows[row]["reward"] for row in ("ETS(4, block=7)", "soft best-of-8"))
            gaps.append((name, ets[0] - best[0], (ets[1] ** 2 + best[1] ** 2) ** 0.5))
    told = "; ".join(f"{name} {gap:+.3f} ± {half:.3f}" for name, gap, half in gaps)
    return Finding(
        "Guidance over steps improves diffusion models of pictures", "anthology, diffusion guidance",
        "digits, three rewards, 160 passes a picture",
        "above soft best-of-n at equal passes", f"ETS less soft best-of-8, in units of the reward: {told}", figure="images.md",
        **judged(all(gap > half for _, gap, half in gaps), "level: eight pictures hold what these rewards ask for", part=False),
    )  # fmt: skip


def main() -> None:
    found = [
        *at_equal_tokens(),
        of_masked(),
        *without_training(),
        evidence(),
        *of_theory(),
        *of_qalign(),
        of_pictures(),
    ]
    keep("elsewhere", found)


if __name__ == "__main__":
    main()
