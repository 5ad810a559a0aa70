"""ETS's Table 1 in miniature: a decoder and a masked model, its baselines, ETS with two rewards, and a model trained by GRPO.

    python reproduce/claims/table.py      # ten minutes on one core; what is done is kept under runs/claims

The decoder is tiny-small on the 100 problems on which `reproduce/frontier.py` tried its trained models, whose answers are read
from its results. GRPO learned from the checked arithmetic, so ETS has that reward beside the agreement with 16 pilot draws. Time
is processor time of one problem over that of a plain draw; power sampling aims at p^4.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.answers import number  # noqa: E402
from exptilt.populations.select import draw  # noqa: E402
from reproduce.claims.cells import Cell, Cells, Problems, difference, percent, points, sure  # noqa: E402
from reproduce.claims.finding import Finding, judged, keep  # noqa: E402
from reproduce.methods import Beam  # noqa: E402

CELLS, PROBLEMS, POWER = Cells("table"), Problems(100, seed=5), 4.0
NOTHING, MAJORITY = xt.rewards.Zero(), xt.vote(number, weighted=False)
Method = tuple[Any, float, Any, Any]  # reward, β, sampler, select


def guided(candidates: int, rollouts: int, block: int) -> dict[str, Method]:
    """What both kinds of models have: the vote, and the published chain by agreement and by checked arithmetic."""
    chain = xt.ETS(candidates, rollouts, block, returns="chain", floor=1e-6)
    return {
        "one draw": (NOTHING, 1.0, xt.Independent(1), draw),
        "majority of 20": (NOTHING, 1.0, xt.Independent(20, weights="draws"), MAJORITY),
        "ETS, agreement": (xt.rewards.Agreement(number, 16), 0.1, chain, draw),
        "ETS, checked arithmetic": (xt.rewards.Arithmetic(), 0.1, chain, draw),
    }


DECODER = guided(8, 3, 24) | {
    "beam search": (NOTHING, 1.0, Beam(4, 4, 12), draw),
    "power sampling, MCMC": (NOTHING, 1.0, xt.SuffixMCMC(40, power=POWER, burn_in=20), draw),
    "power sampling, SMC": (xt.rewards.Power(POWER), 1.0, xt.SMC(16, 12), draw),
}
MASKED = guided(4, 1, 16)


def answered(model: str, method: Method, proposal: dict[str, Any] | None = None, **options: Any) -> Cell:
    reward, beta, sampler, select = method
    with ExitStack() as stack:
        engine = stack.enter_context(xt.load(model, **options))
        other = stack.enter_context(xt.load(model, **options, **proposal)) if proposal else None
        target = xt.Target(engine, reward, beta, proposal=other)
        began = time.process_time()
        cell = PROBLEMS.answered(target, sampler, select)
        return cell | {"seconds": (time.process_time() - began) / PROBLEMS.count}


def trained(name: str) -> Cell:
    """One draw of a trained model: each problem's share of right draws."""
    row = json.loads((ROOT / "reproduce" / "results" / "frontier.json").read_text())[name]
    plain = CELLS.known("decoder, one draw")
    assert plain is not None
    return {"right": row["right"], "tokens": plain["tokens"], "seconds": plain["seconds"]}


def table(cells: dict[str, Cell]) -> str:
    base = cells["one draw"]["seconds"]
    return "; ".join(f"{name} {percent(cell)}, time {cell['seconds'] / base:.1f}" for name, cell in cells.items())


def finding(title: str, setting: str, cells: dict[str, Cell], rivals: list[str]) -> Finding:
    agreed, checked = cells["ETS, agreement"], cells["ETS, checked arithmetic"]
    gaps = {name: (difference(agreed, cells[name]), difference(checked, cells[name])) for name in rivals}
    told = "; ".join(f"over {name} {points(one)} by agreement, {points(two)} checked" for name, (one, two) in gaps.items())
    by_agreement, by_check = (all(sure(gap[which]) > 0 for gap in gaps.values()) for which in (0, 1))
    why = "with the agreement of its own pilot for a reward it is not above all of them; with the checked arithmetic it is"
    return Finding(
        title, "ETS, Table 1", setting, "above each of the others", f"{table(cells)}: {told}",
        **judged(by_agreement and by_check, why if by_check else "not above all of them with either reward", by_check),
    )  # fmt: skip


def main() -> None:
    decoder = {
        name: CELLS(f"decoder, {name}", lambda method=method: answered("tiny-small", method, max_tokens=96))
        for name, method in DECODER.items()
    }
    decoder |= {name: trained(name) for name in ("GRPO", "GRPO without KL")}
    masked = {
        name: CELLS(f"masked, {name}", lambda method=method: answered("tiny-mdlm", method, max_tokens=64))
        for name, method in MASKED.items()
    }
    fast = {"max_tokens": 64, "proposal": {"per_step": 4}}
    masked["ETS-IS, checked arithmetic"] = CELLS(
        "masked, ETS-IS", lambda: answered("tiny-mdlm", MASKED["ETS, checked arithmetic"], **fast)
    )
    setting = f"{PROBLEMS.count} held-out word problems; I = 4, β = 0.1"
    rivals = ["one draw", "beam search", "majority of 20", "power sampling, MCMC", "power sampling, SMC", "GRPO"]
    of_masked = f"tiny-mdlm, {setting}, M = 4, K = 1; proposal of ETS-IS: four positions a step"
    keep("table", [
        finding("Table 1 in miniature, a decoder: ETS is above its baselines and above GRPO",
                f"tiny-small, {setting}, M = 8, K = 3", decoder, rivals),
        finding("Table 1 in miniature, a masked model: ETS is above the vote", of_masked, masked, rivals[:3:2]),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
