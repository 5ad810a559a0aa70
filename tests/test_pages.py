"""Every page can be followed from top to bottom: `reproduce/documentation.py` does it, in environments that are new."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import PYTHON, ROOT, SHELL, SHOWN, blocks, extras

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    """Pages had blocks of placeholders in their midst (`mdlm:FOLDER-OR-HUB-ID`, files that a reader did not have), and no test
    or reader could tell them from those that run."""
    text = page.read_text(encoding="utf-8")
    found = blocks(page)
    assert text.count("\n```") == 2 * len(found), "a fence is not closed, or is indented"
    for block in found:
        assert block.language in (*PYTHON, *SHELL, *SHOWN), f"line {block.line}"
        assert not block.note or block.reason or block.port, f"line {block.line}: {block.note}"
        assert block.language not in SHOWN or not block.note, f"line {block.line}"
        if block.runs and block.language in PYTHON:
            compile(block.text, page.name, "exec")
        elif block.runs:
            assert block.commands.strip(), f"line {block.line}"


def test_most_blocks_are_run() -> None:
    code = [block for page in PAGES for block in blocks(page) if block.language in (*PYTHON, *SHELL)]
    assert sum(block.runs for block in code) > 0.6 * len(code)


PAGE = """# A page

```python
number = 3
```

```bash
echo text > file
```

<!-- in the background, until port {port} answers -->
```bash
python -m http.server {port} --bind 127.0.0.1
```

```console
$ test -f \\
    file
an output
$ touch more
```

<!-- not run: it fails -->
```python
raise SystemExit
```

```python
import pathlib, urllib.request
assert number == 3 and pathlib.Path("more").exists()
assert urllib.request.urlopen("http://127.0.0.1:{port}/file").read() == b"text\\n"
```

```bash
false
true
```

```python
raise SystemExit("it came this far")
```
"""


def test_a_page_is_run_as_it_is_read(tmp_path: Path) -> None:
    """In order, in one namespace, up to the first block that fails, and what was started is ended."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(port=port))
    (tmp_path / "here").mkdir()
    ran = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "pages.py"), str(page)], cwd=tmp_path / "here", capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    told = [json.loads(line)["ran"] for line in ran.stdout.splitlines() if line.startswith('{"ran"')]
    assert [each["error"] is None for each in told] == [True, True, True, True, True, False]
    assert "'false\\ntrue\\n'" in told[-1]["error"]
    with socket.socket() as trial:
        assert trial.connect_ex(("127.0.0.1", port)) != 0


def test_extras_are_read_off_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("It needs `pip install 'exptilt[hf,serve]'`, and `'exptilt[cli]'`.\n\n```python\nx = 1\n```\n")
    assert extras(page) == ["cli", "hf", "serve"]
    page.write_text("It needs `pip install 'exptilt[vllm]'`.\n")
    assert extras(page) == [], "nothing on it is run"
