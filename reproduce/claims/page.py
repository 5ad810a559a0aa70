"""docs/claims.md: every claim that was put to the test, with its verdict, and a figure of the verdicts."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from reproduce.claims.finding import RESULTS, VERDICTS, Finding, kept  # noqa: E402

PARTS = {
    "table": "ETS: Table 1 in miniature",
    "budget": "ETS: what its tokens buy",
    "convergence": "ETS: convergence",
    "proposals": "ETS-IS",
    "signals": "Rewards without right answers",
    "summaries": "Rewards without right answers, on summaries",
    "elsewhere": "Equal tokens, training, QAlign, pictures",
    "mixing": "QAlign: how chains mix",
    "shift": "QAlign under shift",
    "ours": "Ours: weights, chains, votes, stopping, values",
    "posteriors": "Ours: posteriors",
    "pair": "A real pair: Qwen2.5-Coder 1.5B, and 0.5B",
}
NOT_RUN = {
    "Table 1 at 1.7B and 8B parameters, and its times on GPUs": "no such model can be run here",
    "VRPO for masked models": "no implementation that we may use, and none of ours yet",
    "Open question 2 on dialogue": "what a good turn is has no judge here; the rows above have word problems and summaries",
    "TruthfulQA, IFEval, MMLU-Redux, GPQA and AIME": "their data cannot be had here",
}
COLOURS = dict(zip(VERDICTS, ("#2a9d5c", "#e0a526", "#c8452f", "#9a9a9a"), strict=True))

_ABOUT = """\
# Claims of the papers, put to the test

Written by `reproduce/claims/` (`make claims`). Each row is a claim of ETS (2601.21484), of QAlign (2504.03790), of the anthology
of guidance and alignment (2509.04372), or of ours, tested on models that fit a laptop. ± is half of a 95 % interval over
problems. A verdict says what is seen *here*; it follows from the figures by a rule in the script. {counts}

![verdicts by part](claims.png)
"""


def row(each: Finding) -> str:
    figure = f" [↗]({each.figure})" if each.figure else ""
    measured = each.measured + (f" **Why:** {each.why}." if each.why else "")
    cells = (f"{each.claim} ({each.place}){figure}", each.setting, each.predicted, measured, f"**{each.verdict}**")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page(parts: dict[str, list[Finding]]) -> str:
    counts = Counter(each.verdict for findings in parts.values() for each in findings)
    several = dict(zip(VERDICTS, ("hold", "hold in part", "do not hold here", "cannot be seen here"), strict=True))
    told = ", ".join(f"{counts[verdict]} {words}" for verdict, words in several.items() if counts[verdict])
    lines = [_ABOUT.format(counts=f"Of {sum(counts.values())} claims: {told}.")]
    for name, findings in parts.items():
        lines += [f"## {PARTS[name]}", "", "| claim | setting | prediction | measured | verdict |", "|---|---|---|---|---|"]
        lines += [*map(row, findings), ""]
    left = {f"{title}, by `reproduce/claims/{name}.py`": "not run yet" for name, title in PARTS.items() if name not in parts}
    lines += ["## Not run", "", "| claim | reason |", "|---|---|"]
    lines += [f"| {claim} | {why} |" for claim, why in (NOT_RUN | left).items()]
    return "\n".join(lines) + "\n"


def figure(parts: dict[str, list[Finding]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    _, panel = plt.subplots(figsize=(8.5, 3.2), layout="constrained")
    names = [*parts][::-1]
    left = dict.fromkeys(names, 0)
    for verdict in VERDICTS:
        counts = [sum(each.verdict == verdict for each in parts[name]) for name in names]
        if any(counts):
            bars = panel.barh(
                [PARTS[name] for name in names], counts, left=[*left.values()], color=COLOURS[verdict], label=verdict
            )
            panel.bar_label(
                bars, [str(count) if count else "" for count in counts], label_type="center", color="white", fontsize=9
            )
        left = {name: left[name] + count for name, count in zip(names, counts, strict=True)}
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    panel.tick_params(bottom=False, labelbottom=False)
    panel.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4, frameon=False, fontsize=9)
    plt.savefig(ROOT / "docs" / "claims.png", dpi=140)


def main() -> None:
    parts = {name: kept(name) for name in PARTS if (RESULTS / f"{name}.json").exists()}
    (ROOT / "docs" / "claims.md").write_text(page(parts))
    figure(parts)
    print("wrote docs/claims.md and docs/claims.png")


if __name__ == "__main__":
    main()
