"""README and every page of docs/ executed from top to bottom as a new user would, in environments that are new.

    python reproduce/documentation.py --python python3.13 --folder /tmp/pages [PAGE ...]

A first environment gets what the README says to install. Each page then gets an environment of its own on top of that, with what
the page says to install, and an empty folder, in which its Python and its shell commands run in their order (`tests/pages.py`).
Blocks that need a network service, a GPU or a model of a hub say so on the page, and are left out. The table goes to the log
(docs/log/documentation.md), in a section for the version of Python.

--torch: what to install before, as the README says for Linux.
--system: environments see the packages of the system, such as a torch that is there already.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reproduce.pages import put_section
from tests.pages import ROOT, blocks, extras

LOG = ROOT / "docs" / "log" / "documentation.md"
LIMIT = 1800.0  # seconds for a page


def called(*words: str | Path, **options: Any) -> str:
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True, **options).stdout


def environment(folder: Path, python: str, *, system: bool, base: Path | None = None) -> Path:
    """A new virtual environment, on top of another one's packages where given; its Python."""
    called(python, "-m", "venv", *(["--system-site-packages"] if system else []), folder)
    made = folder / "bin" / "python"
    if base is not None:
        place = called(made, "-c", "import site; print(site.getsitepackages()[0])").strip()
        under = called(base, "-c", "import site; print(site.getsitepackages()[0])").strip()
        (Path(place) / "base.pth").write_text(under + "\n")
    return made


def installed(python: Path, *what: str) -> None:
    called(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)


def followed(page: Path, base: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run one page: what ran, what did not and why, and the error that ended it."""
    home = args.folder / page.stem
    shutil.rmtree(home, ignore_errors=True)
    python = environment(home / "venv", args.python, system=args.system, base=base)
    wanted = extras(page)
    if wanted:
        installed(python, f"{ROOT}[{','.join(wanted)}]")
    (home / "here").mkdir()
    began, path = time.monotonic(), f"{python.parent}:{base.parent}:{os.environ['PATH']}"
    with (home / "output.txt").open("w+") as output:
        try:
            subprocess.run(
                [python, ROOT / "tests" / "pages.py", page], cwd=home / "here", env={**os.environ, "PATH": path},
                stdout=output, stderr=subprocess.STDOUT, timeout=LIMIT,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            output.write(f"\nnot done after {LIMIT:.0f} seconds\n")
        output.seek(0)
        lines = output.read().splitlines()
    ran = [json.loads(line)["ran"] for line in lines if line.startswith('{"ran"')]
    meant = sum(block.runs for block in blocks(page))
    error = next((each["error"] for each in ran if each["error"]), None if len(ran) == meant else "\n".join(lines[-12:]))
    done = sum(each["error"] is None for each in ran)
    return {"ran": done, "meant": meant, "extras": wanted, "seconds": time.monotonic() - began, "error": error}


def row(page: Path, found: dict[str, Any] | None) -> str:
    """A page as a line of the table."""
    left = [block.reason for block in blocks(page) if block.reason]
    reasons = "; ".join(f"{left.count(each)} × {each}" if left.count(each) > 1 else each for each in dict.fromkeys(left))
    if found is None:
        return f"| {page.name} | 0 | | {reasons} |"
    said = "" if found["error"] is None else f" **failed: {found['error'].strip().splitlines()[-1][:160]}**"
    return f"| {page.name} | {found['ran']} of {found['meant']}{said} | {' '.join(found['extras'])} | {reasons} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, help="all where none is given")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--folder", type=Path, required=True, help="where environments are made; kept")
    parser.add_argument("--torch", help="installed before")
    parser.add_argument("--system", action="store_true")
    args = parser.parse_args()
    args.folder = args.folder.absolute()
    args.folder.mkdir(parents=True, exist_ok=True)
    base = args.folder / "base" / "bin" / "python"
    whole = args.folder / "base" / ".installed"
    if not whole.exists():
        shutil.rmtree(args.folder / "base", ignore_errors=True)
        base = environment(args.folder / "base", args.python, system=args.system)
        if args.torch:
            installed(base, args.torch)
        installed(base, f"{ROOT}[hf,cli]")
        whole.touch()
    pages = [page.absolute() for page in args.pages] or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    rows = []
    for page in pages:
        if not any(block.language for block in blocks(page)):
            continue
        found = followed(page, base, args) if any(block.runs for block in blocks(page)) else None
        rows.append(row(page, found))
        print(rows[-1], flush=True)
        if found is not None and found["error"]:
            print(found["error"], flush=True)
    asked = "import sys, torch, transformers as t; print(sys.version.split()[0], torch.__version__, t.__version__)"
    number, torch, transformers = called(base, "-c", asked).split()
    table = "| page | blocks run | installed for it | not run, and why |\n|---|---|---|---|\n" + "\n".join(rows)
    said = f"{date.today()}, two shared cores: torch {torch}, transformers {transformers}, and the newest releases of all else."
    if not args.pages:
        put_section(LOG, f"Python {number}", f"{said}\n\n{table}")


if __name__ == "__main__":
    main()
