"""Which names a test's code uses, and what they mean: the program's, the test's own, a module's, or a built-in's.

This file runs inside the sandbox, so it uses the standard library alone. Only the test decides: the program is asked for the
names that occur in the test, and for no others.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import sys
from dataclasses import dataclass
from typing import Any

BUILT_INS = frozenset(dir(builtins))
_ALIASES = {"np": "numpy", "pd": "pandas"}
_SCOPES = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Uses:
    """The names in a test.

    words: every word of the test that may be a name, in its strings too.
    modules: names whose attributes the test takes and does not import, by the modules that they mean.
    built_ins: names of built-ins that it looks up and does not define itself.
    others: whether it looks up a name that is none of these.
    """

    words: tuple[str, ...]
    modules: dict[str, str]
    built_ins: frozenset[str]
    others: bool


def uses(code: str) -> Uses:
    """The names in the code of a test."""
    tree = ast.parse(code)
    words = {word for word in re.findall(r"[^\W\d]\w*", code) if not word.startswith("__")}
    own = _defined(tree)
    looked_up = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)} - own
    bases = {node.value.id for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
    modules = {name: _ALIASES.get(name, name) for name in bases & looked_up if name in sys.stdlib_module_names | _ALIASES.keys()}
    return Uses(tuple(sorted(words)), modules, frozenset(looked_up & BUILT_INS), bool(looked_up - BUILT_INS - modules.keys()))


def _defined(tree: ast.AST) -> set[str]:
    """All names that the code gives a meaning to, in whatever scope."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, _SCOPES):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= _imported(node)
    return found


def _imported(node: ast.Import | ast.ImportFrom) -> set[str]:
    """The names that an import gives a meaning to."""
    names = {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if "*" not in names or not isinstance(node, ast.ImportFrom) or not node.module:
        return names
    module: Any = module_named(node.module)
    return set(getattr(module, "__all__", None) or dir(module))


def module_named(name: str) -> Any:
    """A module; None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
