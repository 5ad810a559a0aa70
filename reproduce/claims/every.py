"""Every script of this folder, one after the other, and the page: `make claims`. What was done before is not done again."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    for name in ("elsewhere", "convergence", "posteriors", "budget", "proposals", "signals", "shift", "page"):
        begun = time.monotonic()
        subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=True)
        print(f"{name}: {time.monotonic() - begun:,.0f} s", flush=True)


if __name__ == "__main__":
    main()
