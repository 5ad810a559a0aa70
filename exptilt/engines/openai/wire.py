"""What goes over the wire: sampling parameters as request fields, and answers as checked records.

Every parameter of the law is sent, also where it is "off": vLLM fills what is missing from the model's own
generation_config, llama.cpp's server from its defaults (top_k 40, top_p 0.95, min_p 0.05), and the draws would follow
another law than the one that `settings` names. A server of unknown make gets the fields of OpenAI's protocol alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from exptilt.engines.sampling import Sampling
from exptilt.errors import ModelError, PromptError

Make = Literal["vllm", "sglang", "llamacpp", "other"]
MAKES: tuple[Make, ...] = ("vllm", "sglang", "llamacpp", "other")
ALL_TOKENS = -1  # top_k of a server, for no truncation


def law_fields(sampling: Sampling, make: Make) -> dict[str, Any]:
    """The request fields that fix the law of one token and the stop strings."""
    fields: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    if make == "other":
        return fields
    fields |= {"top_k": sampling.top_k or ALL_TOKENS, "min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    if make == "llamacpp":  # this order and nothing else: by default the temperature comes after the truncation
        return fields | {"samplers": ["temperature", "top_k", "top_p"], "repeat_penalty": 1.0}
    return fields | {"repetition_penalty": 1.0}


@dataclass(frozen=True)
class Spent:
    """Tokens that an answer's usage tells: of the prompt, those of them that were cached, and generated."""

    prompt: int
    cached: int
    generated: int


@dataclass(frozen=True)
class Choice:
    """One response. ids: its token ids, where told; pieces: its token strings, where told; logq: nats per token."""

    text: str
    finish: Literal["stop", "length"]
    ids: tuple[int, ...] | None
    pieces: tuple[str, ...] | None
    logq: tuple[float, ...] | None


def spent(answer: Mapping[str, Any]) -> Spent:
    usage = answer.get("usage")
    if not isinstance(usage, dict) or not isinstance(usage.get("prompt_tokens"), int):
        raise malformed(answer, "no usage")
    details = usage.get("prompt_tokens_details") or {}
    return Spent(usage["prompt_tokens"], int(details.get("cached_tokens") or 0), int(usage.get("completion_tokens") or 0))


def choices(answer: Mapping[str, Any], count: int) -> list[Choice]:
    """The `count` responses of an answer. Raises ModelError where it has not as many or they cannot be understood."""
    found = answer.get("choices")
    if not isinstance(found, list) or len(found) != count:
        given = len(found) if isinstance(found, list) else 0
        raise malformed(answer, f"{given} responses instead of {count}" + (": load with seeds=True" if count > 1 else ""))
    try:
        return [_choice(each) for each in sorted(found, key=lambda each: each.get("index") or 0)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise malformed(answer, f"{type(error).__name__} {error}") from None


def malformed(answer: Mapping[str, Any], why: str) -> ModelError:
    return ModelError(f"the server's answer is not of OpenAI's protocol ({why}): {str(dict(answer))[:200]}. Check base_url.")


def _choice(found: Mapping[str, Any]) -> Choice:
    finish = found["finish_reason"]
    if finish == "content_filter":
        raise PromptError("the server's content filter cut the answer to this prompt: no draw of the model is to be had")
    if finish not in ("stop", "length"):
        raise ValueError(f"finish_reason={finish!r}")
    text = (found["message"].get("content") or "") if "message" in found else found["text"]
    told = found.get("logprobs") or {}
    pieces, logq = told.get("tokens"), told.get("token_logprobs")
    if told.get("content") is not None:  # the form of chat answers, which llama.cpp's server uses for all
        pieces = [entry["token"] for entry in told["content"]]
        logq = [entry["logprob"] for entry in told["content"]]
    ids = found.get("token_ids")
    return Choice(str(text), finish, _tuple(ids, int), _tuple(pieces, str), _tuple(logq, float))


def _tuple(values: Any, kind: type[Any]) -> Any:
    return None if values is None else tuple(kind(value) for value in values)
