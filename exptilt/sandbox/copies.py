"""Mutable containers of which both processes hold a copy, watched so that a change on one side can reach the other.

This file runs inside the sandbox, so it uses the standard library alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

# Containers that are watched at once, and the items of one whose changes are sent on.
MOST_COPIES, LONGEST_COPY = 200, 1000


class Copies:
    """The containers that are watched. Both sides watch the same ones in the same order, so that a number means one container.

    contents: tells what a container holds now.
    """

    def __init__(self, contents: Callable[[Any], Any]) -> None:
        self.contents = contents
        self._watched: list[tuple[Any, Any]] = []  # each with what was in it

    @property
    def containers(self) -> list[Any]:
        """The containers by number."""
        return [each for each, _ in self._watched]

    def watch(self, containers: Iterable[Any]) -> None:
        """Watch more containers; the oldest are no longer watched where there are too many."""
        self._watched = (self._watched + [(each, self.contents(each)) for each in containers])[-MOST_COPIES:]

    def differ(self) -> bool:
        """Whether a container holds something else than when it was last looked at."""
        return any(self.contents(each) != was for each, was in self._watched)

    def take_changes(self) -> list[int]:
        """The numbers of the containers that have changed and are short enough to be sent on, each change once."""
        found = []
        for number, (each, was) in enumerate(self._watched):
            if len(was) <= LONGEST_COPY and (now := self.contents(each)) != was:
                found.append(number)
                self._watched[number] = (each, now)
        return found

    def accept(self, numbers: Iterable[int]) -> None:
        """Take what some containers hold now as what was in them: the other side has changed them."""
        changed = {id(self._watched[number][0]) for number in numbers}
        self._watched = [(each, self.contents(each) if id(each) in changed else was) for each, was in self._watched]
