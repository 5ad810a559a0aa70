"""Does the test suite notice? Each mutant of `mutants.txt` breaks one thing in a copy of the package, and its tests must fail.

    python reproduce/mutants.py               # about 15 minutes on 1 core; writes a section of docs/exactness.md
    python reproduce/mutants.py --only smc    # those whose file, description or tests hold the word; keeps the other verdicts

A mutant *survives* where its tests pass. Tests that cannot be collected end the run, and a text that is not in its file
exactly once is named at the end: such a mutant proves nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from reproduce.pages import put_section  # noqa: E402

LIST = Path(__file__).with_name("mutants.txt")
RESULTS = ROOT / "reproduce" / "results" / "mutants.json"
PASSED, FAILED = 0, 1  # pytest's exit codes
LIMIT = 300  # seconds after which a mutant counts as noticed: it hangs


@dataclass(frozen=True)
class Mutant:
    """One change. file: of the package. what: in words. tests: pytest arguments. before, after: the text and its replacement."""

    file: str
    what: str
    tests: str
    before: str
    after: str


@dataclass(frozen=True)
class Verdict:
    """What came of a mutant. by: the test that failed first, "" where it survived."""

    file: str
    what: str
    by: str
    seconds: float


def read_mutants(text: str) -> list[Mutant]:
    groups: dict[str, str] = {}
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("% "):
            name, _, arguments = line[2:].partition(" = ")
            groups[name] = arguments
        elif line.startswith("@ "):
            blocks.append([line])
        elif line.startswith(("- ", "+ ")):
            blocks[-1].append(line)
    return [_mutant(block, groups) for block in blocks]


def _mutant(block: list[str], groups: dict[str, str]) -> Mutant:
    file, what, tests = block[0][2:].split(" | ")
    first, *more = tests.split(" ", 1)
    before, after = ("\n".join(line[2:] for line in block[1:] if line.startswith(sign)) for sign in "-+")
    return Mutant(file, what, " ".join([groups.get(first, first), *more]), before, after)


def judged(mutants: list[Mutant], place: Path) -> Iterator[Verdict]:
    """Verdicts, one after the other. place: an empty folder for the copy that is changed."""
    for name in ("exptilt", "tests", "pyproject.toml"):
        source, goal = ROOT / name, place / name
        if source.is_dir():
            shutil.copytree(source, goal, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
        else:
            shutil.copy(source, goal)
    for mutant in mutants:
        path, began = place / mutant.file, time.monotonic()
        right = path.read_text()
        path.write_text(right.replace(mutant.before, mutant.after))
        try:
            by = _noticed(mutant, place)
        finally:
            path.write_text(right)
        yield Verdict(mutant.file, mutant.what, by, time.monotonic() - began)


def _noticed(mutant: Mutant, place: Path) -> str:
    """The test that failed, or ""."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *shlex.split(mutant.tests)]
    environment = os.environ | {"PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return "the time limit"
    if done.returncode == PASSED:
        return ""
    failed = re.search(r"^FAILED .*?(\w+\.py::.+?)(?: - |$)", done.stdout, re.MULTILINE)
    if done.returncode != FAILED or failed is None:
        raise SystemExit(f"the tests of {mutant} did not run:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    return failed[1]


def markdown(verdicts: list[Verdict]) -> str:
    survived = [verdict for verdict in verdicts if not verdict.by]
    seconds = sum(verdict.seconds for verdict in verdicts)
    lines = [
        f"Written by `reproduce/mutants.py` ({platform.machine()}, 1 process, {seconds:.0f} s beside other work).",
        f"{len(verdicts)} changes that each break one thing, {len(survived)} of them unnoticed.",
        "",
        "| file | what is broken | noticed by |",
        "|---|---|---|",
    ]
    for verdict in verdicts:
        by = f"`{verdict.by}`" if verdict.by else "**nothing**"
        lines.append(f"| {verdict.file.removeprefix('exptilt/')} | {verdict.what} | {by} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a word of the mutants to try")
    only = parser.parse_args().only
    mutants = read_mutants(LIST.read_text())
    known = [Verdict(**row) for row in json.loads(RESULTS.read_text())] if only and RESULTS.exists() else []
    found = {(verdict.file, verdict.what): verdict for verdict in known}
    wanted = [each for each in mutants if only in f"{each.file} {each.what} {each.tests}"]
    stale = [each for each in wanted if (ROOT / each.file).read_text().count(each.before) != 1]
    with tempfile.TemporaryDirectory() as folder:
        for verdict in judged([each for each in wanted if each not in stale], Path(folder)):
            found[verdict.file, verdict.what] = verdict
            print(f"{verdict.seconds:5.1f} s  {verdict.file:36} {verdict.what:70} {verdict.by or 'SURVIVED'}", flush=True)
    verdicts = [found[name] for each in mutants if (name := (each.file, each.what)) in found]
    RESULTS.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1) + "\n")
    put_section(ROOT / "docs" / "exactness.md", "Mutants", markdown(verdicts))
    print(f"{sum(not verdict.by for verdict in verdicts)} of {len(verdicts)} survived; wrote a section of docs/exactness.md")
    for each in stale:
        print(f"not tried: {each.before!r} is not in {each.file} exactly once")
    if stale:
        raise SystemExit("put mutants.txt right")


if __name__ == "__main__":
    main()
