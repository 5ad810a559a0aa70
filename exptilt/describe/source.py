"""What the source of a function or class says: its text, and which containers and attributes it changes as it runs.

A results file belongs to the code that wrote it, not to the version of Python: so code is compared by its source. What
code changes as it runs, such as a reward's memory of earlier answers, is not a setting and is left out of comparisons.
"""

from __future__ import annotations

import ast
import inspect
import io
import linecache
import textwrap
import tokenize
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType

_CHANGING = {
    "add", "append", "appendleft", "clear", "difference_update", "discard", "extend", "insert", "intersection_update",
    "move_to_end", "pop", "popitem", "popleft", "remove", "reverse", "setdefault", "sort", "symmetric_difference_update",
    "update",
}  # fmt: skip
_FIRST = {"__init__", "__post_init__", "__new__", "__setstate__"}  # methods that make an object, before it is used


def text_of(function: FunctionType) -> str | None:
    """The source of a function, dedented, without white space at the ends of lines; None where there is none.

    Of a lambda it is the lambda alone: a line may have several.
    """
    try:
        lines, _ = inspect.getsourcelines(function)
    except (OSError, TypeError, IndexError, SyntaxError):  # typed at a prompt, or made by exec
        return None
    if function.__name__ == "<lambda>":
        return _lambda(function.__code__)
    return _bare(textwrap.dedent("".join(lines)))


@lru_cache(maxsize=1024)
def _bare(text: str) -> str:
    """Source without comments, blank lines and white space at the ends of lines."""
    lines = text.splitlines()
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
    except (tokenize.TokenError, IndentationError):  # a part that is not a whole statement
        return text.strip()
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _lambda(code: CodeType) -> str | None:
    """The source of a lambda, found in its file by the columns of its bytecode."""
    source = "".join(linecache.getlines(code.co_filename))
    spans = [span for span in code.co_positions() if None not in span]
    body = [(line, column, end_line, end) for line, end_line, column, end in spans if (line, column) != (code.co_firstlineno, 0)]
    try:
        nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Lambda)]
    except SyntaxError:
        return None
    found = [node for node in nodes if node.lineno == code.co_firstlineno and all(_holds(node.body, span) for span in body)]
    inner = min(found, key=lambda node: (node.end_lineno or 0, node.end_col_offset or 0), default=None)
    text = None if inner is None else ast.get_source_segment(source, inner)
    return None if text is None else " ".join(text.split())


def _holds(node: ast.expr, span: tuple[int | None, ...]) -> bool:
    line, column, end_line, end = (value or 0 for value in span)
    last = (node.end_lineno or 0, node.end_col_offset or 0)
    return (node.lineno, node.col_offset) <= (line, column) and (end_line, end) <= last


@lru_cache(maxsize=1024)
def changed_names(text: str | None) -> frozenset[str]:
    """The names whose objects a function's source changes, or assigns as a global: `memory[key] = ...`, `seen.add(...)`."""
    tree = _parsed(text)
    return frozenset() if tree is None else _outer_names(tree)


def module_changes(function: FunctionType) -> frozenset[str]:
    """The globals that any function of the same file changes."""
    return _file_changes(function.__code__.co_filename)


@lru_cache(maxsize=64)
def _file_changes(path: str) -> frozenset[str]:
    tree = _parsed("".join(linecache.getlines(path)))
    functions = [] if tree is None else [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda)]
    return frozenset().union(*(_outer_names(node) - _parameters(node) for node in functions))


def _parameters(function: ast.FunctionDef | ast.Lambda) -> set[str]:
    every = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return {each.arg for each in every}


def _outer_names(tree: ast.AST) -> frozenset[str]:
    """The names that are changed and not bound inside: a list that a function makes and fills is its own."""
    shared = _shared(tree)
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return frozenset(name for target in _changed(tree) if (name := _name(target)) and (name in shared or name not in stored))


def changed_attributes(texts: list[str]) -> frozenset[str]:
    """The attributes of `self` that the methods of a class change once an object is made: `self.calls += 1`."""
    trees = [tree for text in texts if (tree := _parsed(text)) is not None]
    methods = [tree for tree in trees if not (tree.body and getattr(tree.body[0], "name", "") in _FIRST)]
    return frozenset().union(*map(_attributes, methods))


def _attributes(method: ast.Module) -> set[str]:
    aliases = {
        target.id: attribute  # known = self.known
        for node in ast.walk(method)
        if isinstance(node, ast.Assign) and (attribute := _attribute(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    changed = [*_changed(method), *_assigned(method)]
    found = {_attribute(target) or aliases.get(_name(target) or "") for target in changed}
    return {name for name in found if name}


@lru_cache(maxsize=1024)
def _parsed(text: str | None) -> ast.Module | None:
    try:
        return None if text is None else ast.parse(text)
    except SyntaxError:  # a lambda cut out of a larger expression, or a decorator's continuation
        return None


def _changed(tree: ast.AST) -> Iterator[ast.expr]:
    """What is changed in place: containers stored into, receivers of changing methods, globals that are assigned."""
    shared = _shared(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGING:
            yield node.func.value
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del) and node.id in shared:
            yield node


def _assigned(tree: ast.AST) -> Iterator[ast.expr]:
    """Attributes that are assigned or deleted, by a statement or, as frozen records do it, by `object.__setattr__`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "object.__setattr__") and len(node.args) == 3:
            owner, name, _ = node.args
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield ast.Attribute(owner, name.value, ast.Store())


def _shared(tree: ast.AST) -> set[str]:
    return {name for node in ast.walk(tree) if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}


def _name(target: ast.expr) -> str | None:
    """The name at the root of `memory`, `memory["a"]` or `memory.entries`."""
    while isinstance(target, ast.Attribute | ast.Subscript):
        target = target.value
    return target.id if isinstance(target, ast.Name) else None


def _attribute(target: ast.expr) -> str | None:
    """The attribute of `self` at the root of `self.memory`, `self.memory["a"]` or `self.memory.entries`."""
    while isinstance(target, ast.Attribute | ast.Subscript):
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            return target.attr
        target = target.value
    return None
