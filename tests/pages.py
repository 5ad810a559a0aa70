"""Documentation pages whose Python blocks run, in their order and in one namespace."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"


def run_page(name: str) -> dict[str, Any]:
    """Run the Python blocks of docs/NAME; the names that they leave."""
    module = ModuleType(f"page_{Path(name).stem}")
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    space = vars(module)
    for block in re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(block, name, "exec"), space)
    return space
