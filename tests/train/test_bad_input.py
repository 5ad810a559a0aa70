"""What cannot be learned from, or goes wrong on the way: plain errors, nothing lost, and runs that go on where they stopped."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import exptilt as xt
from exptilt.errors import TrainError
from exptilt.train import Fit, Power, Tilt, read_lessons
from tests.train.toys import PROMPT, TableNetwork, drawn, ones, table

pytest.importorskip("accelerate")

from exptilt.train.align import align, likelihood
from exptilt.train.fitting import Row, Watcher, fit_rows, last_whole
from exptilt.train.settings import Folder
from tests.train.test_align import rows_of


def test_files_of_different_targets_are_refused(tmp_path: Path) -> None:
    """Weights of a file at another temperature are for another p; β, sampler and seed may differ."""
    first = drawn(tmp_path, table(), ones, 0.8, 50, name="first")
    warm = drawn(tmp_path, table().with_sampling(temperature=2.0), ones, 0.8, 50, name="warm")
    with pytest.raises(TrainError, match=r"first\.jsonl.*warm\.jsonl.*different targets \(engine\.temperature: 1 → 2\)"):
        read_lessons([first, warm])
    other = drawn(tmp_path, table(), length, 0.8, 50, name="other")
    with pytest.raises(TrainError, match=r"different targets \(reward"):
        read_lessons([first, other])
    assert len(read_lessons([first, drawn(tmp_path, table(), ones, 0.3, 20, name="cold")]).items) == 2


def length(prompt: Any, drafts: Any) -> list[float]:
    return [float(len(draft.tokens)) for draft in drafts]


def nothing(prompt: Any, drafts: Any) -> list[float]:
    return [0.5] * len(drafts)


def some(prompt: Any, drafts: Any) -> list[float]:
    return ones(prompt, drafts) if prompt == "tell" else nothing(prompt, drafts)


def test_equal_rewards_teach_nothing(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"none of the 2 prompts has anything to teach.*same reward.*π is p itself"):
        read_lessons([drawn(tmp_path, table(), nothing, 0.8, 50, ["a", "b"])])
    lessons = read_lessons([drawn(tmp_path, table(), some, 0.8, 50, ["tell", "a", "b"], name="some")])
    assert (len(lessons.items), lessons.flat) == (1, 2)
    sharper = read_lessons([tmp_path / "drawn.jsonl"], Power(4, 0.5))  # their own probabilities do tell them apart
    assert len(sharper.items) == 2


def test_one_draft_a_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"single draft.*weight is 1 whatever its reward.*--n 16"):
        read_lessons([drawn(tmp_path, table(), ones, 0.8, 1, ["a", "b"])])


def test_an_accepted_draft_teaches_by_itself(tmp_path: Path) -> None:
    """A draft that rejection sampling accepted is drawn from π: it was taken for a prompt with nothing to teach, since it has
    the reward of all others that were accepted."""
    store = tmp_path / "rejection.jsonl"
    target = xt.Target(table(), first_is_one, 0.05)
    xt.run(target, [PROMPT], xt.Rejection(5, limit=500, reward_max=1.0), store=store)
    [lesson] = read_lessons([store]).items
    assert all(draft.tokens[0] == 1 for draft in lesson.drafts)


def test_states_of_a_chain_teach_the_target_of_their_run_alone(tmp_path: Path) -> None:
    """They are drawn from π at their β; weights for another would be those of no population that exists."""
    store = tmp_path / "chain.jsonl"
    xt.run(xt.Target(table(), ones, 0.8), [PROMPT], xt.SuffixMCMC(steps=200), store=store)
    [lesson] = read_lessons([store]).items
    assert np.allclose(lesson.weights, lesson.weights[0])
    for other in (Tilt(0.4), Power(4, 0.5)):
        with pytest.raises(TrainError, match=r"states of a chain.*proper, such as independent"):
            read_lessons([store], other)


def first_is_one(prompt: Any, drafts: Any) -> list[float]:
    return [float(draft.tokens[0] == 1) for draft in drafts]


def test_responses_without_populations_are_refused(tmp_path: Path) -> None:
    store = tmp_path / "chosen.jsonl"
    xt.run(xt.Target(table(), ones, 0.8), [PROMPT], xt.Independent(8), store=store, store_population=False)
    with pytest.raises(TrainError, match="keeps only the chosen responses: draw again without --no-population"):
        read_lessons([store])


def test_excluded_drafts_have_no_weight_and_no_power(tmp_path: Path) -> None:
    store = drawn(tmp_path, table(), no_two, 0.8, 200)
    [lesson] = read_lessons([store]).items
    assert all(draft.tokens[-1] != 2 for draft in lesson.drafts)
    [sharper] = read_lessons([store], Power(4, 0.5)).items  # p does draw them
    assert any(draft.tokens[-1] == 2 for draft in sharper.drafts)
    steered = tmp_path / "ets.jsonl"
    xt.run(xt.Target(table(), no_two, 0.8), [PROMPT], xt.ETS(candidates=3, rollouts=1, block=2), store=steered)
    with pytest.raises(TrainError, match=r"excluded some drafts.*what they weigh under p.*--sampler independent"):
        read_lessons([steered], Power(4, 0.5))


def no_two(prompt: Any, drafts: Any) -> list[float]:
    return [-np.inf if draft.tokens[-1] == 2 else draft.tokens.count(1) for draft in drafts]


def test_repeated_drafts_are_counted_once(tmp_path: Path) -> None:
    """Of 400 draws with 31 responses nearly all repeat. Weights by the probability of being found are nearly exact, those of
    the draws themselves are not."""
    store = drawn(tmp_path, table(), ones, 0.8, 400)
    [lesson] = read_lessons([store], Tilt()).items
    log_p = table().enumerate()
    factors = np.array([log_p[draft.tokens] + ones(PROMPT, [draft])[0] / 0.8 for draft in lesson.drafts])
    exact = np.exp(factors - np.logaddexp.reduce(factors))
    assert len(lesson.drafts) == len({draft.tokens for draft in lesson.drafts})
    assert 0.5 * np.abs(exact - lesson.weights).sum() < 0.01


def test_drafts_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="drawn by an engine of the kind 'table'"):
        align("tiny", [drawn(tmp_path, table(), ones, 0.8, 50)], tmp_path / "out")
    with xt.load("tiny-small", max_tokens=3) as engine:
        store = drawn(tmp_path, engine, length, 1.0, 4, name="small")
        xt.run(xt.Target(engine, halves, 1.0), [PROMPT], xt.Independent(4), store=tmp_path / "halves.jsonl")
    assert store.exists()
    with pytest.raises(TrainError, match="drawn by tiny-small, and tiny has other weights"):
        align("tiny", [tmp_path / "halves.jsonl"], tmp_path / "out")
    with pytest.raises(TrainError, match="'openai:gpt' cannot be trained: give \"hf:"):
        align("openai:gpt", [tmp_path / "halves.jsonl"], tmp_path / "out")


def halves(prompt: Any, drafts: Any) -> list[float]:
    return [sum(draft.tokens) / 100 for draft in drafts]


# -------------------------------------------------------------------------------------------------- on the way

STEADY = Fit(epochs=12, batch=4, learning_rate=0.05, checkpoint=7)


def lesson_rows(tmp_path: Path) -> list[Row]:
    return rows_of(read_lessons([drawn(tmp_path, table(), ones, 0.8, 60)]))


def weights(network: TableNetwork) -> np.ndarray:
    return network.logits.weight.detach().numpy().copy()


def test_a_run_that_was_stopped_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with the very same weights: order of the drafts, moments of the optimizer and learning rate all go on."""
    rows = lesson_rows(tmp_path)
    straight = TableNetwork()
    whole = fit_rows(straight, rows, likelihood(1.0), STEADY, Folder(tmp_path / "straight", {}))

    def stop(self: Watcher, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 19:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Watcher, "on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            fit_rows(TableNetwork(), rows, likelihood(1.0), STEADY, Folder(tmp_path / "cut", {}))
    resumed = TableNetwork()
    found = fit_rows(resumed, rows, likelihood(1.0), STEADY, Folder(tmp_path / "cut", {}))
    assert np.array_equal(weights(resumed), weights(straight))
    assert found.steps == whole.steps


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    Folder(tmp_path / "out", {"fit": {"epochs": 3}})
    begun = Folder(tmp_path / "out", {"fit": {"epochs": 1}})  # before there is a checkpoint, nothing can be lost
    (begun.checkpoints / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(TrainError, match=r"other settings \(there → here\): fit\.epochs: 1 → 2"):
        Folder(tmp_path / "out", {"fit": {"epochs": 2}})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(TrainError, match="holds no training run"):
        Folder(tmp_path / "mine", {})


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(tmp_path: Path) -> None:
    """transformers reports such a loss as 0 and saves the ruined model."""
    rows = lesson_rows(tmp_path)
    calls = []

    def breaks(output: Any, labels: torch.Tensor) -> torch.Tensor:
        calls.append(0)
        return likelihood(1.0)(output, labels) * (float("nan") if len(calls) == 9 else 1.0)

    with pytest.raises(TrainError, match=r"the loss is nan at step 9 of .*learning rate 0\.05 may be too high"):
        fit_rows(TableNetwork(), rows, breaks, STEADY, Folder(tmp_path / "out", {}))
    kept = last_whole(tmp_path / "out" / "checkpoints")
    assert kept is not None
    assert kept.name == "checkpoint-7"


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """An infinite gradient leaves a finite loss, and the next loss comes after the checkpoint."""
    rows = lesson_rows(tmp_path)

    network = TableNetwork()
    network.logits.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(TrainError, match=r"weight logits\.weight is not finite"):
        fit_rows(network, rows, likelihood(1.0), Fit(batch=4, checkpoint=1), Folder(tmp_path / "out", {}))
    assert last_whole(tmp_path / "out" / "checkpoints") is None


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A checkpoint that could not be written whole is dropped, and the run goes on from the one before it."""
    rows, fit, folder = lesson_rows(tmp_path), STEADY, tmp_path / "out"
    straight, late = TableNetwork(), []
    fit_rows(straight, rows, likelihood(1.0), fit, Folder(tmp_path / "straight", {}))

    def loss(output: Any, labels: torch.Tensor) -> torch.Tensor:
        late.append(0)
        if len(late) == 10:  # the second checkpoint is still to come
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        return likelihood(1.0)(output, labels)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(TrainError, match=r"cannot be written.*free space.*goes on from the last"):
            fit_rows(TableNetwork(), rows, loss, fit, Folder(folder, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    resumed = TableNetwork()
    fit_rows(resumed, rows, likelihood(1.0), fit, Folder(folder, {}))
    assert np.array_equal(weights(resumed), weights(straight))
