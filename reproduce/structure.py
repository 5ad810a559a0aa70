"""The structure of the package in numbers, for docs/architecture.md.

python reproduce/structure.py [ROOT]        # this checkout, or another one's root
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))  # works from a checkout without installing

from tests.structure import circles, functions, imports, modules, repeated, upward  # noqa: E402


def main() -> None:
    root = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else HERE
    known = modules(root)
    graph = imports(known)
    lengths = [len(path.read_text().splitlines()) for path in known.values()]
    every = [each for path in known.values() for each in functions(path)]
    rows = {
        "lines of Python": sum(lengths),
        "files": len(known),
        "files in the root": len([path for path in known.values() if path.parent.name == "exptilt"]),
        "files over 300 lines": sum(length > 300 for length in lengths),
        "circles of imports": len(circles(graph)),
        "imports that point upwards": len(upward(graph)),
        "functions with more than six parameters": sum(count > 6 for _, _, count in every),
        "functions over 40 lines": sum(length > 40 for _, length, _ in every),
        "median lines of a function": statistics.median(length for _, length, _ in every),
        "runs of six lines that stand twice": repeated(list(known.values())),
    }
    for name, value in rows.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
