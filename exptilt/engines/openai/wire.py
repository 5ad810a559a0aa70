"""The wire format: sampling parameters as request fields, and answers as checked records.

A server of known make gets every parameter of the distribution, also those that are "off": vLLM fills what is
missing from the model's own generation_config, llama.cpp's server from its defaults (top_k 40, top_p 0.95, min_p 0.05),
and the draws would follow another distribution than the one that `settings` names. A server of unknown make gets the
fields of OpenAI's protocol alone, and of those only the ones that are on: some refuse a field that they do not know.

What an answer holds is checked here, where it enters. An answer that cannot be used is an AnswerError of its prompt; it
is not asked for again, because the drafts kept would then be those that a server answers well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from exptilt.engines.log_probs import ROUNDING
from exptilt.engines.sampling import Sampling
from exptilt.errors import AnswerError, PromptError

Make = Literal["vllm", "sglang", "llamacpp", "other"]
MAKES: tuple[Make, ...] = ("vllm", "sglang", "llamacpp", "other")
ALL_TOKENS = -1  # top_k of a server, for no truncation
_STOPPED = frozenset({"stop", "eos", "eos_token", "stop_sequence", "end_turn"})
_CUT = frozenset({"length", "max_tokens"})
_CONTEXT_ENDED = frozenset({"model_length", "model_context_window_exceeded"})
_FILTERED = frozenset({"content_filter", "safety", "recitation", "prohibited_content", "blocklist", "sensitive", "refusal"})
_UNSAID = frozenset({"thinking", "reasoning", "redacted_thinking"})  # chunks of content that are not the answer
_NEVER = -9999.0  # how vLLM writes a log-probability of minus infinity


def law_fields(sampling: Sampling, make: Make) -> dict[str, Any]:
    """The request fields that fix the distribution of one token and the stop strings."""
    fields: dict[str, Any] = {"temperature": sampling.temperature}
    if sampling.top_p < 1 or make != "other":
        fields["top_p"] = sampling.top_p
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    if sampling.logit_bias:
        fields["logit_bias"] = {str(token): bias for token, bias in sampling.biases.items()}
    counted = {"presence_penalty": float(sampling.presence_penalty), "frequency_penalty": float(sampling.frequency_penalty)}
    if make == "other":
        return fields | {name: value for name, value in counted.items() if value}
    fields |= {"top_k": sampling.top_k or ALL_TOKENS, "min_p": float(sampling.min_p), **counted}
    penalty = float(sampling.repetition_penalty)
    if make == "llamacpp":  # this order and nothing else: by default the temperature comes after the truncation
        order = ["temperature", "top_k", "top_p", *(["min_p"] if sampling.min_p else [])]
        if penalty == 1:
            return fields | {"samplers": order, "repeat_penalty": penalty}
        return fields | {"samplers": ["penalties", *order], "repeat_penalty": penalty, "repeat_last_n": -1}  # all tokens
    if sampling.stop_token_ids:
        fields["stop_token_ids"] = list(sampling.stop_token_ids)
    return fields | {"repetition_penalty": penalty}


@dataclass(frozen=True)
class Spent:
    """Tokens that an answer's usage tells: of the prompt, those of them that were cached, and generated; None where untold."""

    prompt: int | None
    cached: int
    generated: int | None


@dataclass(frozen=True)
class Choice:
    """One response. ids: its token ids, where told; pieces: its token strings, where told; logq: nats per token, where told."""

    text: str
    finish: Literal["stop", "length"]
    ids: tuple[int, ...] | None
    pieces: tuple[str, ...] | None
    logq: tuple[float, ...] | None


def spent(answer: Mapping[str, Any]) -> Spent:
    """What an answer cost, as far as it tells."""
    usage = answer.get("usage")
    if not isinstance(usage, Mapping):
        return Spent(None, 0, None)
    details = usage.get("prompt_tokens_details")
    cached = _whole(details.get("cached_tokens")) if isinstance(details, Mapping) else None
    return Spent(_whole(usage.get("prompt_tokens")), cached or 0, _whole(usage.get("completion_tokens")))


def choices(answer: Mapping[str, Any], count: int) -> list[Choice]:
    """The `count` responses of an answer.

    Raises AnswerError where it has not as many or one cannot be understood, PromptError where a filter or the context
    cut one.
    """
    found = answer.get("choices")
    if not isinstance(found, list) or len(found) != count:
        given = len(found) if isinstance(found, list) else "no"
        raise malformed(answer, f"{given} responses in choices instead of {count}")
    try:
        return [_choice(each) for each in _in_order(found)]
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
        raise malformed(answer, str(error) if type(error) is ValueError else f"{type(error).__name__} {error}") from None


def rated(answer: Mapping[str, Any], tokens: Sequence[int], count: int, server: str) -> tuple[float, ...]:
    """Log-probabilities (nats) of the last `count` of the tokens that were sent to be rated."""
    found = answer.get("choices")
    told = found[0].get("prompt_logprobs") if isinstance(found, list) and found and isinstance(found[0], Mapping) else None
    if not isinstance(told, list) or len(told) != len(tokens):
        raise malformed(answer, f"{len(told) if isinstance(told, list) else 'no'} prompt_logprobs for {len(tokens)} tokens")
    try:
        values = tuple(_nats(entry[str(token)]["logprob"]) for entry, token in zip(told[-count:], tokens[-count:], strict=True))
    except (KeyError, TypeError) as error:
        raise AnswerError(
            f"{server} rates other tokens than those of the draft ({error!r}): it must run the same model"
        ) from None
    return checked_logq(values, "prompt_logprobs", server, drawn=False)


def malformed(answer: Mapping[str, Any], why: str) -> AnswerError:
    return AnswerError(f"the server's answer cannot be used ({why}): {str(dict(answer))[:300]}")


def checked_logq(values: Iterable[float], field: str, server: str, *, drawn: bool = True) -> tuple[float, ...]:
    """Log-probabilities (nats) that tokens can have: not above 0 but for rounding, and finite where they were drawn.

    Raises AnswerError for others: as weights they would be NaN, infinite or of another distribution.
    """
    found = tuple(-math.inf if value <= _NEVER else value for value in values)
    for place, value in enumerate(found):
        if not (value <= ROUNDING and (value > -math.inf or not drawn)):  # NaN too
            raise AnswerError(
                f"{server} gives token {place} the log-probability {value} ({field}): that of a drawn token must be finite and "
                "at most 0. The server can still be used with samplers that need no log-probabilities."
            )
    return tuple(min(value, 0.0) for value in found)


def _in_order(found: list[Any]) -> list[Any]:
    """Responses by their indices; as they stand where they have none, or there is but one."""
    numbers = [each.get("index") for each in found]
    if len(found) == 1 or numbers == [None] * len(found):
        return found
    if sorted(numbers) != [*range(len(found))]:
        raise ValueError(f"choices have the indices {numbers} instead of 0 to {len(found) - 1}")
    return [found[numbers.index(number)] for number in range(len(found))]


def _choice(found: Mapping[str, Any]) -> Choice:
    finish = _finish(found.get("finish_reason"), found.get("error"))
    message = found.get("message")
    text = found.get("text") if message is None else _message_text(message)
    if not isinstance(text, str):
        raise ValueError(f"text is {text!r:.40} and not a string")
    told = found.get("logprobs")
    told = told if isinstance(told, Mapping) else {}
    pieces, logq = told.get("tokens"), told.get("token_logprobs")
    if isinstance(told.get("content"), list):  # the form of chat answers, which llama.cpp's server uses for all
        pieces = [entry["token"] for entry in told["content"]]
        logq = [entry["logprob"] for entry in told["content"]]
    ids = found.get("token_ids")
    if ids is not None and not all(type(token) is int and token >= 0 for token in ids):
        raise ValueError(f"token_ids holds {ids!r:.60} instead of whole numbers")
    return Choice(_proper(text), finish, _tuple(ids, int), _tuple(pieces, _piece), _tuple(logq, _nats))


def _finish(reason: Any, error: Any) -> Literal["stop", "length"]:
    name = reason.lower() if isinstance(reason, str) else ""
    if name in _FILTERED:
        raise PromptError(
            f"the server's content filter cut an answer to this prompt ({reason}): the model's own draw is not available"
        )
    if name in _CONTEXT_ENDED:
        raise PromptError(f"the model's context ended ({reason}): shorten the prompt or lower max_tokens")
    if name in _STOPPED:
        return "stop"
    if name in _CUT:
        return "length"
    raise ValueError(f"finish_reason={reason!r} does not say how the answer ended" + (f"; {error}" if error else ""))


def _message_text(message: Mapping[str, Any]) -> str:
    """The text of a chat answer: its content, the text of its chunks, or the words by which the model refuses."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(_chunk_text(chunk) for chunk in content)
    if content is None and message.get("tool_calls"):
        raise ValueError("the answer calls a tool, but none was offered")
    return message.get("refusal") or "" if content is None else content


def _chunk_text(chunk: Any) -> str:
    if isinstance(chunk, str):
        return chunk
    kind = chunk.get("type")
    if kind in _UNSAID:
        return ""
    if kind not in ("text", "output_text") or not isinstance(chunk.get("text"), str):
        raise ValueError(f"content has a chunk of type {kind!r}, which is not text")
    return chunk["text"]


def _proper(text: str) -> str:
    """The text with halves of surrogate pairs, which no file can hold, replaced as decoders replace broken bytes."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _nats(value: Any) -> float:
    """A number as JSON has it; what else stands there is not a number, which `checked_logq` refuses where it counts."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _piece(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"logprobs gives the token {value!r:.40} instead of a string")
    return _proper(value)


def _whole(value: Any) -> int | None:
    """A count of tokens; None for what is not one."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if number and 0 <= value < 2**53 and value == int(value) else None


def _tuple(values: Any, kind: Any) -> Any:
    return None if values is None else tuple(kind(value) for value in values)
