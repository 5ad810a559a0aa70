"""What becomes of a model that a caller holds while an engine shares its tensors."""

from __future__ import annotations

import weakref
from typing import Any

from exptilt.engines.hf.adapters import merges
from exptilt.engines.hf.fast.private import writes


class Watch:
    """Detects later writes to the parameters of a model, by torch's own count for each tensor, and adapters merged into them."""

    def __init__(self, model: Any) -> None:
        self._model, self._merges = weakref.ref(model), merges(model)
        self._seen = [(weakref.ref(each), writes(each)) for each in model.parameters() if not each.is_inference()]

    @property
    def changed(self) -> bool:
        model = self._model()
        if model is not None and merges(model) != self._merges:
            return True
        return any(each is not None and writes(each) != count for each, count in ((there(), n) for there, n in self._seen))
