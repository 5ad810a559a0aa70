"""Flags of the distribution and of how a model is loaded: what they become for `exptilt.load`, and back."""

from __future__ import annotations

import argparse

import pytest

from exptilt.cli.sampling import add_sampling, model_of, sampling_of, words_of
from exptilt.engines.sampling import Sampling
from exptilt.errors import UsageError
from exptilt.names.targets import model_options

WORDS = [
    *("--temperature", "0.7", "--top-k", "20", "--min-p", "0.05", "--max-tokens", "64", "--repetition-penalty", "1.2"),
    *("--presence-penalty", "0.5", "--frequency-penalty", "-0.5", "--logit-bias", '{"198": -5}', "--dtype", "auto"),
    *("--device", "cuda:1", "--stop", "END", "--stop-token-id", "3", "--stop-token-id", "7"),
    *("--model-option", "revision=v2", "--model-option", "rows_memory=8000"),
]


def parsed(*words: str, model: str = "hf:owner/name") -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_sampling(parser)
    return argparse.Namespace(model=model, **vars(parser.parse_args(words)))


def test_flags_are_sampling_parameters() -> None:
    found = {name: value for name, value in sampling_of(vars(parsed(*WORDS))).items() if value is not None}
    assert (found.pop("dtype"), found.pop("device")) == ("auto", "cuda:1")
    told = Sampling(**found)
    assert (told.stop, told.stop_token_ids, told.biases, told.min_p) == (("END",), (3, 7), {198: -5.0}, 0.05)
    assert (told.repetition_penalty, told.presence_penalty, told.frequency_penalty) == (1.2, 0.5, -0.5)


def test_nothing_is_given_where_no_flag_is() -> None:
    assert {*sampling_of(vars(parsed())).values()} == {None}


def test_a_command_line_can_be_written_again() -> None:
    """`exptilt doctor` suggests one: a flag that it left out would be another distribution."""
    again = parsed(*words_of(parsed(*WORDS)))
    assert again == parsed(*WORDS)


def test_the_cap_by_the_name_that_transformers_has() -> None:
    assert parsed("--max-new-tokens", "9").max_tokens == 9


@pytest.mark.parametrize("model", ["hf:owner/name", "hf:owner/name?fast=false"])
def test_options_of_the_model_alone(model: str) -> None:
    name, options = model_options(model_of(parsed(*WORDS, model=model)))
    assert name == "hf:owner/name"
    assert (options["revision"], options["rows_memory"]) == ("v2", 8000)
    assert model_of(parsed(model=model)) == model


def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--model-option", "revision")
    assert "'revision' is not NAME=VALUE, such as rows_memory=8000000000" in capsys.readouterr().err
    with pytest.raises(UsageError, match="holds an &: give one NAME=VALUE each time"):
        model_of(parsed("--model-option", "a=1&b=2"))
