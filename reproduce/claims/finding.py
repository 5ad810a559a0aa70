"""One row of docs/claims.md, and the file of a script's rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "reproduce" / "results" / "claims"

Verdict = Literal["holds", "holds in part", "does not hold here", "cannot be seen here"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Finding:
    """What became of a claim.

    place: where the paper says it. setting: models, problems, seeds. predicted: what would be seen if it held here.
    measured: what was seen, with intervals. why: the reason, where the claim does not hold as a whole.
    figure: a page or a picture of docs/ that shows it.
    """

    claim: str
    place: str
    setting: str
    predicted: str
    measured: str
    verdict: Verdict
    why: str = ""
    figure: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict={self.verdict!r}: give one of {', '.join(VERDICTS)}")
        if self.verdict in ("holds in part", "does not hold here") and not self.why:
            raise ValueError(f"{self.claim!r} does not hold as a whole: say why")


def judged(whole: bool, why: str, part: bool = True) -> dict[str, Any]:
    """The verdict of a claim that holds as a whole, in part or not; and the reason unless it does as a whole."""
    if whole:
        return {"verdict": "holds", "why": ""}
    return {"verdict": "holds in part" if part else "does not hold here", "why": why}


def keep(name: str, findings: Sequence[Finding]) -> None:
    """Write a script's findings where the page reads them."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps([asdict(each) for each in findings], indent=1, ensure_ascii=False) + "\n")
    for each in findings:
        print(f"{each.verdict:20} {each.claim}: {each.measured}", flush=True)


def kept(name: str) -> list[Finding]:
    return [Finding(**each) for each in json.loads((RESULTS / f"{name}.json").read_text())]
