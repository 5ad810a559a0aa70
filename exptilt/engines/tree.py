"""A separate module tree that shares the tensors of a caller's model.

An engine switches dropout off, chooses how attention is computed and lays out weights anew. On a model that a caller keeps
training, saving or calling, none of that may show: so the engine gets modules and configurations of its own, which share
the parameters.
"""

from __future__ import annotations

import copy
from typing import Any

from exptilt.errors import ModelError


def own_tree(model: Any, name: str) -> Any:
    """A copy of a model's modules, hooks and configurations that shares its parameters and saved buffers.

    Buffers that are not saved are copied: they are small, and rotary embeddings write to theirs. Raises ModelError where
    something in the model cannot be copied.
    """
    shared = [*model.parameters(), *model.state_dict(keep_vars=True).values()]
    try:
        return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    except (TypeError, RuntimeError) as error:
        raise ModelError(
            f"{name}: the modules of {type(model).__name__} cannot be copied ({type(error).__name__}: {error}), and an engine "
            "does not change a model that is not its own. Save the model and load it from its folder."
        ) from error
