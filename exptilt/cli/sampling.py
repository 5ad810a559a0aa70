"""Flags of the distribution p(y|x): sampling parameters, and how and where the model is loaded."""

from __future__ import annotations

import argparse
import json
from typing import Any

from exptilt.cli.values import json_object, one_of, option, real, whole
from exptilt.errors import UsageError

SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "max_tokens", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("logit_bias", "dtype", "device", "system", "template_kwargs"),
)  # flags that `exptilt.load` takes as they are


def add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling parameters")
    group.add_argument("--temperature", type=real, metavar="X", help="default 1")
    group.add_argument("--top-p", type=real, metavar="X", help="keep the likeliest tokens of this total probability; default all")
    group.add_argument("--top-k", type=whole, metavar="N", help="keep this many of the likeliest tokens; default all")
    group.add_argument(
        "--min-p", type=real, metavar="X", help="keep tokens at least this many times as probable as the likeliest; default all"
    )
    group.add_argument("--max-tokens", type=whole, metavar="N", help="the cap on a response; default 256")
    usual = "--max-new-tokens"  # as transformers calls it
    group.add_argument(usual, dest="max_tokens", type=whole, metavar="N", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    group.add_argument(
        "--stop", action="append", metavar="TEXT", help="end a response before this text; may be given more than once"
    )
    group.add_argument(
        "--stop-token-id",
        action="append",
        type=whole,
        metavar="ID",
        help="end a response at this token; may be repeated",
    )
    _add_penalties(group)
    group.add_argument("--system", metavar="TEXT", help="a system message, for prompts that have none of their own")
    group.add_argument(
        "--template-kwargs",
        type=json_object,
        metavar="JSON",
        help="variables of the chat template: '{\"enable_thinking\": false}'",
    )
    _add_loading(parser)


def _add_penalties(group: argparse._ArgumentGroup) -> None:
    text = "of tokens that came before; they are part of the distribution that is tilted; default none"
    group.add_argument("--repetition-penalty", type=real, metavar="X", help=f"a penalty {text}")
    group.add_argument("--presence-penalty", type=real, metavar="X", help="the same, subtracted once for tokens of the response")
    group.add_argument("--frequency-penalty", type=real, metavar="X", help="the same, subtracted each time")
    group.add_argument("--logit-bias", type=json_object, metavar="JSON", help="added to the logits of tokens: '{\"198\": -5}'")


def _add_loading(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model", "where and how it is loaded; a proposal is loaded in the same way")
    group.add_argument(
        "--dtype", **one_of("auto", "float32", "bfloat16", "float16"), help="default float32 on a CPU, else that of the files"
    )
    group.add_argument(
        "--device", metavar="NAME", help="where models in this process run, such as cpu or cuda:1; default CUDA if it is there"
    )
    group.add_argument(
        "--model-option",
        action="append",
        type=option,
        metavar="NAME=VALUE",
        help="a further option of exptilt.load, not for the proposal: adapter=FOLDER, revision=NAME or rows_memory=BYTES with "
        "hf:, gpu_memory_utilization=X or tensor_parallel_size=N with vllm:; may be given more than once",
    )


def model_of(args: argparse.Namespace) -> str:
    """The model with the options that are its alone."""
    given = getattr(args, "model_option", None)
    if not given:
        return args.model
    if "&" in "".join(given):
        raise UsageError(f"--model-option {' '.join(given)!r} holds an &: give one NAME=VALUE each time.")
    return f"{args.model}{'&' if '?' in args.model else '?'}{'&'.join(given)}"


def sampling_of(given: dict[str, Any]) -> dict[str, Any]:
    """The options of `exptilt.load` that the flags stand for, those that were not given as None."""
    listed = {"stop": given["stop"], "stop_token_ids": given["stop_token_id"]}
    return {name: given[name] for name in SAMPLING} | {name: tuple(each) if each else None for name, each in listed.items()}


def words_of(args: argparse.Namespace) -> list[str]:
    """The same flags as words of a command line."""
    words: list[str] = []
    for name in SAMPLING:
        if (value := getattr(args, name)) is not None:
            words += [f"--{name.replace('_', '-')}", json.dumps(value) if isinstance(value, dict) else f"{value}"]
    for name in ("stop", "stop_token_id", "model_option"):
        words += [word for each in getattr(args, name) or () for word in (f"--{name.replace('_', '-')}", f"{each}")]
    return words
