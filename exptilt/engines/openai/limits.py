"""Sampling parameters that a server does not have, or takes in another sense than `exptilt.engines.sampling.Sampling`."""

from __future__ import annotations

from collections.abc import Iterator

from exptilt.engines.openai.wire import Make
from exptilt.engines.sampling import Sampling

KNOWN = 'say what the server is by make="vllm", "sglang" or "llamacpp"'
_BEYOND = {
    "top_k": None,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "stop_token_ids": (),
}  # what OpenAI's protocol lacks, switched off


def check_sampling(sampling: Sampling, make: Make, mode: str, name: str) -> None:
    """Raise ValueError, with a cure, for parameters that the server cannot follow.

    mode: how the server is asked; only "chat" asks for whole answers, without a prefix of the response in the prompt.
    """
    for reason in _reasons(sampling, make, mode):
        raise ValueError(f"{name}: {reason}")


def _reasons(sampling: Sampling, make: Make, mode: str) -> Iterator[str]:
    if make == "other":
        for parameter, off in _BEYOND.items():
            if (value := getattr(sampling, parameter)) != off:
                yield f"{parameter}={value} is not part of OpenAI's protocol, and its make is unknown: leave it out, or {KNOWN}"
    if sampling.counts and (make == "llamacpp" or mode != "chat"):
        yield (
            "presence_penalty and frequency_penalty count the response alone, and this server cannot tell it from its prompt: "
            'leave them out, load it with mode="chat", or take a local model'
        )
    if sampling.repetition_penalty != 1 and make == "sglang":
        yield "repetition_penalty does not count the prompt with SGLang: leave it out, or take a local model"
    if sampling.stop_token_ids and make == "llamacpp":
        yield "llama.cpp's server takes no stop_token_ids: give their texts as stop="
    if sampling.min_p and sampling.top_p < 1 and make == "vllm":
        yield "vLLM applies min_p before top_p, and so keeps other tokens: give one of them"
