"""Modules by the names they had before the package was split: they still import, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    **{name: f"populations.{name}" for name in ("population", "diagnostics", "calibrate", "select", "utilities")},
    **{name: f"running.{name}" for name in ("request", "session", "result", "store", "cluster", "crew")},
    **{name: f"evaluation.{name}" for name in ("evaluate", "compare", "cost", "pools", "tasks")},
    **{name: f"engines.{name}" for name in ("certainty", "scheduler")},
    "harness": "evaluation.lm_eval_model",
    "word_problems": "evaluation.tasks.word_problems",
    "samplers.rollout": "samplers.common",
    "answers.places": "answers.passages",
}
"""Where each module went; both sides within the package."""


class _Alias(Loader):
    """Hands out the module by its new name, as it is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.name)
        self.spec = module.__spec__
        warnings.warn(f"{spec.name} is {self.name} now: import it from there", DeprecationWarning, stacklevel=6)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the machinery of imports has put the old name's there


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != "exptilt" or name not in MOVED:
            return None
        return ModuleSpec(fullname, _Alias(f"exptilt.{MOVED[name]}"))


def install() -> None:
    """Let the old names be imported; they are looked for only where no module has the name.

    `exptilt.run` is entered at once: importing a module puts it into its package, where `run` is the function.
    """
    sys.modules.setdefault("exptilt.run", importlib.import_module("exptilt.running.run"))
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
