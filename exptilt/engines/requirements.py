"""What must be there before an engine's packages are imported: the packages, and how torch's threads wait."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

from exptilt.errors import ModelError, install

WAITING = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""How torch's threads wait for each other, unless the caller has said so: awake for some microseconds, then asleep.

Long spinning makes small models many times slower on shared cores. But libgomp, once threads of the program have more workers
together than there are cores, lets them sleep at once, which takes longer to end than most steps of a model: two threads on two
cores were as slow as one. An active policy with a short count spins briefly in both cases."""


def require(name: str, extra: str, packages: Sequence[str]) -> None:
    """Refuse what `name` asks for where a package is missing; `extra` installs them."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ModelError(f"{name!r} needs {' and '.join(missing)}, not installed here. Install: {install(extra)}")


def came_late() -> bool:
    """Whether torch was there before anybody had said how its threads wait, so that on Linux they sleep at once."""
    return sys.platform == "linux" and "torch" in sys.modules and not WAITING.keys() & os.environ.keys()


def prepare_torch(name: str) -> None:
    """Check that torch and transformers are installed, and set what must be set before torch is imported."""
    require(name, "hf", ("torch", "transformers"))
    if not {"torch", *WAITING} & {*sys.modules, *os.environ}:
        os.environ.update(WAITING)
