"""The structure of the package, read from its source: which module imports which, and how large things are."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

FLOORS = (
    "errors keys usage moved cancelling watching blocks pictures frames markup",
    "objects draft", "populations", "proposals rating", "core", "describe",
    "answers sandbox", "samplers", "engines", "rewards", "names", "running", "evaluation", "train", "doctor report serve",
    "testing", "cli",
)  # fmt: skip
"""The layers of modules and packages from the bottom up; a module imports from its own layer or from those below."""


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted((root / "exptilt").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(known: dict[str, Path]) -> dict[str, set[str]]:
    """The modules of the package that each of its modules imports, inside functions too."""
    return {name: set(_imported(path, known)) - {name} for name, path in known.items()}


def _imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "exptilt":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other, directly or by way of others (Tarjan's components)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in number:
            visit(name)
    return found


def floor(module: str) -> int | None:
    """The layer of a module; None for the package itself and its `__main__`, which may import all."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return None
    levels = [level for level, rooms in enumerate(FLOORS) if parts[1] in rooms.split()]
    return levels[0] if levels else -1


def upward(graph: dict[str, set[str]]) -> list[str]:
    """The imports that point to a higher layer."""
    arrows = [(name, other) for name, others in sorted(graph.items()) for other in sorted(others)]
    levels = [(name, other, floor(name), floor(other)) for name, other in arrows]
    known = [each for each in levels if each[2] is not None and each[3] is not None]
    return [f"{name} -> {other}" for name, other, here, there in known if (there or 0) > (here or 0)]


def functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """The name, number of lines and number of parameters (self and cls apart) of each function in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            given = [name for name in names if name not in ("self", "cls")]
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1, len(given)


def repeated(paths: list[Path], size: int = 6) -> int:
    """How many runs of `size` lines or more occur in two places, identical; blank lines, imports and comments apart."""
    seen: dict[tuple[str, ...], tuple[Path, int]] = {}
    runs = 0
    for path in paths:
        kept = [line.strip() for line in path.read_text().splitlines()]
        kept = [line for line in kept if len(line) > 3 and not line.startswith(("#", "import ", "from "))]
        inside = False
        for start in range(len(kept) - size + 1):
            window = tuple(kept[start : start + size])
            again = window in seen and seen[window] != (path, start)
            runs += again and not inside
            inside = again
            seen.setdefault(window, (path, start))
    return runs


# ------------------------------------------------------------------------------------------------ docs/architecture.md


def floors() -> str:
    """The layers as a list, the lowest first."""
    return "\n".join(f"{level}. {', '.join(f'`{room}`' for room in rooms.split())}" for level, rooms in enumerate(FLOORS, 1))


def tree() -> str:
    """The annotated tree: every file with the first sentence of its docstring, folders with that of their `__init__.py`."""
    lines = ["exptilt/"]
    _grow(ROOT / "exptilt", 1, lines)
    return "\n".join(lines)


def log_index(page: Path = ROOT / "docs" / "log" / "README.md") -> str:
    """The page of the log with the dated entries of each of its pages, as they stand there."""
    lines = [line for line in page.read_text().splitlines() if not line.startswith("  - ")]
    dated = re.compile(r"^## (\d{4}-.*)$", re.MULTILINE)
    whole: list[str] = []
    for line in lines:
        whole.append(line)
        if link := re.search(r"^- .*\]\(([^)]+)\)$", line):
            whole += [f"  - {entry}" for entry in dated.findall((page.parent / link[1]).read_text())]
    return "\n".join(whole) + "\n"


def _grow(folder: Path, depth: int, lines: list[str]) -> None:
    pad = "  " * depth
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            lines += _annotated(f"{pad}{path.name}", path)
    for path in sorted(folder.iterdir()):
        if (path / "__init__.py").is_file():
            lines += _annotated(f"{pad}{path.name}/", path / "__init__.py")
            _grow(path, depth + 1, lines)


def _annotated(name: str, path: Path) -> list[str]:
    said = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.?])\s", said)[0].rstrip(".")
    return textwrap.wrap(f"{name:<26} {sentence}", 128, subsequent_indent=" " * 27, break_long_words=False)
