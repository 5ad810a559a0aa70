"""The structure of the package in numbers, and the annotated tree of docs/architecture.md.

python reproduce/structure.py                 # the numbers of this checkout
python reproduce/structure.py --root ROOT     # those of another one
python reproduce/structure.py --write         # write layers, tree and numbers into docs/architecture.md, and the log's contents
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))  # works from a checkout without installing

from tests.structure import circles, floors, functions, imports, log_index, modules, repeated, tree, upward  # noqa: E402


def numbers(root: Path) -> dict[str, str]:
    """The rows of the table."""
    known = modules(root)
    graph = imports(known)
    lengths = [len(path.read_text().splitlines()) for path in known.values()]
    every = [each for path in known.values() for each in functions(path)]
    counts = {
        "lines of Python": sum(lengths),
        "files": len(known),
        "files in the root": len([path for path in known.values() if path.parent.name == "exptilt"]),
        "files over 300 lines": sum(length > 300 for length in lengths),
        "import circles": len(circles(graph)),
        "imports that point upwards": len(upward(graph)),
        "functions with more than six parameters": sum(count > 6 for _, _, count in every),
        "functions over 40 lines": sum(length > 40 for _, length, _ in every),
        "median lines of a function": statistics.median(length for _, length, _ in every),
        "runs of six lines that occur twice": repeated(list(known.values())),
    }
    return {name: f"{value:,}" for name, value in counts.items()}


def write(page: Path) -> None:
    """Bring the page's layers, tree and last column of numbers up to date."""
    text = page.read_text()
    text = _between(text, "From the bottom up:\n\n", "\n\n## Glossary", floors())
    text = _between(text, "```text\nexptilt/", "\n```\n\nOutside the package", tree().removeprefix("exptilt/"))
    for name, value in numbers(HERE).items():
        text = re.sub(rf"^(\| {re.escape(name)} \| [^|]* \|)[^|]*\|$", rf"\1 {value} |", text, flags=re.MULTILINE)
    page.write_text(text)


def _between(text: str, start: str, end: str, new: str) -> str:
    first = text.index(start) + len(start)
    return text[:first] + new + text[text.index(end, first) :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=HERE)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if args.write:
        write(HERE / "docs" / "architecture.md")
        (HERE / "docs" / "log" / "README.md").write_text(log_index())
    for name, value in numbers(args.root.resolve()).items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
