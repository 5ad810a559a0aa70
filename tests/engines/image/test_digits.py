"""The bundled model of digits: of the quality that the docs speak of, small, and found like the other bundled models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.keys import Key

FOLDER = Path(xt.__file__).parent / "models" / "digits"


def test_a_classifier_reads_what_was_asked_for() -> None:
    """98 % of plain samples are right by a support vector machine; here 60 of them, and 5 standard errors of room."""
    data: Any = pytest.importorskip("sklearn.datasets").load_digits()
    judge: Any = pytest.importorskip("sklearn.svm").SVC(C=10, gamma=0.5).fit(data.data / 16.0, data.target)
    with xt.load("digits") as engine:
        prompts = [str(number % 10) for number in range(60)]
        keys = [Key(11, number) for number in range(60)]
        drafts = engine.extend([engine.start(prompt) for prompt in prompts], keys)
    right = judge.predict([draft.output.ravel() for draft in drafts]) == [int(prompt) for prompt in prompts]
    assert np.mean(right) > 0.98 - 5 * (0.02 * 0.98 / 60) ** 0.5
    assert all(draft.output.min() >= 0 and draft.output.max() <= 1 and draft.output.shape == (8, 8) for draft in drafts)


def test_it_is_small_enough_to_ship() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 2_000_000


def test_ten_classes_and_one_for_none() -> None:
    with xt.load("digits", guidance=2.0) as engine:
        assert "evidence" in engine.can
        with pytest.raises(xt.PromptError, match="give one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"):
            engine.start("ten")
