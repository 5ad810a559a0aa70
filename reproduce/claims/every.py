"""Every script of this folder, one after the other, and the page: `make claims`. What was done before is not done again.

The runs of the real pair take hours and two files of weights: `pair_runs.py` is started by itself, and its results are kept.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from reproduce.claims.page import PARTS  # noqa: E402


def main() -> None:
    for name in (*PARTS, "page"):
        begun = time.monotonic()
        subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=True)
        print(f"{name}: {time.monotonic() - begun:,.0f} s", flush=True)


if __name__ == "__main__":
    main()
