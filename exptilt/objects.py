"""Objects by name: exptilt's own, those of installed packages by their entry points, and all others as FILE.py:NAME.

Your own code needs no registration: a reward, a sampler or a select is named by its file or module.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from exptilt.errors import UsageError, did_you_mean
from exptilt.keys import digest

OWN = "or your own as FILE.py:NAME or package.module:NAME"


@dataclass(frozen=True)
class Registry:
    """The things of one kind that have a name.

    noun: what one of them is called; its plural names the group of entry points.
    own: exptilt's own, by name; they take precedence over those of other packages.
    more: forms of names that cannot be listed.
    takes: what each is called with and returns; empty where some are not called.
    """

    noun: str
    own: Mapping[str, Any]
    more: tuple[str, ...] = ()
    takes: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """All short names, exptilt's own first."""
        return tuple(dict.fromkeys((*self.own, *self._offered())))

    def find(self, name: str) -> Any:
        """The object of this name. Raises UsageError where there is none."""
        if name in self.own:
            return self.own[name]
        if (point := self._offered().get(name)) is None and ":" not in name:
            known = (*self.names, *self.more)
            near = f" Which object of it? Write {name}:NAME." if name.endswith(".py") else did_you_mean(name, known)
            offered = ", ".join((*known, OWN)).removeprefix("or ")
            raise UsageError(f"there is no {self.noun} {name!r}: give {offered}.{near}")
        found = find_object(name) if point is None else self._loaded(point)
        if self.takes and not callable(found):
            raise UsageError(f"the {self.noun} {name} is {found!r:.80} and cannot be called: give a function {self.takes}")
        return found

    def _offered(self) -> dict[str, EntryPoint]:
        group = f"exptilt.{self.noun.replace(' ', '_').replace('y', 'ie')}s"
        return {point.name: point for point in _installed(group, tuple(sys.path))}

    def _loaded(self, point: EntryPoint) -> Any:
        try:
            return point.load()
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise UsageError(f"the {self.noun} {point.name!r}, which is {point.value}, cannot be imported ({why})") from error


@lru_cache
def _installed(group: str, path: tuple[str, ...]) -> EntryPoints:
    """The entry points of a group in all packages on the path, which take a while to read."""
    return entry_points(group=group)


def find_object(spec: str) -> Any:
    """The object that FILE.py:NAME or package.module:NAME names. Raises UsageError where there is none."""
    place, _, name = spec.rpartition(":")
    if not (place and name):
        raise UsageError(f"{spec!r} does not name an object: give FILE.py:NAME or package.module:NAME")
    found: Any = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    for part in name.split("."):
        if part not in dir(found):
            offered = [each for each, value in vars(found).items() if callable(value) and not each.startswith("_")]
            known = ", ".join(offered) or "nothing that can be called"
            raise UsageError(f"{place} has no {name!r}: it has {known}.{did_you_mean(part, offered)}")
        found = getattr(found, part)
    return found


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path}: give the path of a Python file before the colon")
    state = path.stat()
    return _executed(path.resolve(), state.st_mtime_ns, state.st_size)


@lru_cache
def _executed(path: Path, changed: int, size: int) -> ModuleType:
    """The module of a file, run once as long as the file does not change, so everyone who names it gets the same objects."""
    other = sys.modules.get(path.stem)
    is_taken = other is not None and getattr(other, "__file__", None) != str(path)
    name = f"{path.stem}_{digest(str(path))[:8]}" if is_taken else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be read as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and type hints look up their module there
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for the processes of rewards.Isolated, which import it by its name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(f"{_located(path, error)} raised {type(error).__name__}: {error}. Correct the file.") from error
    return module


def _located(path: Path, error: BaseException) -> str:
    """The file with the line that failed; a syntax error holds the line itself."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path.name}, line {lines[-1]}" if lines else path.name


def _load_module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # `python -m` does the same
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {error}"
        raise UsageError(f"{name} cannot be imported ({why}): give FILE.py:NAME or package.module:NAME") from error
