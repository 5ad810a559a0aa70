"""What a client is told where there is no answer: a status and an error in OpenAI's form, whatever went wrong.

What is wrong with a request names its field. What is wrong with the server tells only its kind, because its words may hold
paths, code or another text that is not for clients; the log has the rest under the request's id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exptilt.errors import (
    AllWeightsZero,
    AnswerError,
    BudgetSpent,
    Cancelled,
    ExptiltError,
    ModelError,
    PromptError,
    RewardError,
    SandboxError,
    SelectError,
    TargetError,
    UsageError,
    WeightsError,
)

INVALID = "invalid_request_error"
SERVER = "server_error"


class Refusal(ExptiltError):
    """There is no answer to a request.

    status: as HTTP numbers them.
    param: the field at fault, None where none is.
    code: one word for programs.
    retry_after: seconds after which another attempt may succeed; None where none will.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        Exception.__init__(self, message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The error as OpenAI's API writes it."""
        kind = _TYPES.get(self.status, INVALID if self.status < 500 else SERVER)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class _Kind:
    """How errors of a class are told. hidden: what clients read in place of the error's own words; None for these."""

    status: int
    code: str
    hidden: str | None = None


_KINDS: Mapping[type[BaseException], _Kind] = {
    PromptError: _Kind(400, "invalid_prompt"),
    UsageError: _Kind(400, "invalid_value"),
    TargetError: _Kind(400, "does_not_fit"),
    AllWeightsZero: _Kind(422, "all_excluded"),
    BudgetSpent: _Kind(422, "budget_spent"),
    Cancelled: _Kind(503, "cancelled"),
    AnswerError: _Kind(502, "upstream_failed", "the server behind this one gave no usable answer"),
    ModelError: _Kind(503, "model_failed", "the model of this server failed"),
    RewardError: _Kind(500, "reward_failed", "the reward of this server failed on this prompt"),
    SelectError: _Kind(500, "select_failed", "the select or stop rule of this server failed on this prompt"),
    SandboxError: _Kind(500, "sandbox_failed", "the sandbox of this server failed"),
    WeightsError: _Kind(500, "weights_failed", "the weights of this prompt's drafts are not numbers"),
}
_UNKNOWN = _Kind(500, "internal_error", "this server failed")


def refusal(error: BaseException) -> Refusal:
    """What a client is told of an error; a `Refusal` is told as it is."""
    if isinstance(error, Refusal):
        return error
    kind = next((kind for each, kind in _KINDS.items() if isinstance(error, each)), _UNKNOWN)
    told = str(error) if kind.hidden is None else f"{kind.hidden}: its log has the reason under the request's id (x-request-id)"
    param = "exptilt.budget" if isinstance(error, BudgetSpent) else "messages" if isinstance(error, PromptError) else None
    return Refusal(told, kind.status, param=param, code=kind.code)
