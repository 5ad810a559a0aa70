"""The states of denoising paths, kept while there is memory: a draft names its noise, and its states follow from that.

A state that is no longer kept is computed anew from the draft's tokens, by the engine that drew them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

from exptilt.keys import Floats

MEMORY = 2**30  # bytes, for all engines of a program together


class Paths:
    """Arrays by name, the longest unused dropped first. Safe to use from many threads."""

    def __init__(self, memory: int = MEMORY) -> None:
        self.memory = memory
        self._kept: OrderedDict[Hashable, Floats] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, name: Hashable) -> Floats | None:
        """What is kept under a name; None where nothing is."""
        with self._lock:
            if (found := self._kept.get(name)) is not None:
                self._kept.move_to_end(name)
            return found

    def put(self, name: Hashable, array: Floats) -> None:
        """Keep an array, which nobody changes from now on."""
        with self._lock:
            if (old := self._kept.pop(name, None)) is not None:
                self._bytes -= old.nbytes
            self._kept[name] = array
            self._bytes += array.nbytes
            while self._bytes > self.memory and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes


SHARED = Paths()  # of the engines that `load` opens, so that a proposal's drafts can be rated by the engine
