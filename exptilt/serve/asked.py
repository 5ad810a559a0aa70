"""What a request asks, whichever protocol it is written in; and the fields that the protocols share, checked one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from exptilt.draft import Prompt

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


@dataclass(frozen=True)
class Asked:
    """A request in exptilt's own words.

    model: by the name that clients know.
    prompts: one or several; each is answered `n` times.
    sampling: the sampling parameters that differ from the model's own.
    seed: None where any will do.
    logprobs: whether the log-probability of each token is wanted.
    changes: the request's object `exptilt`, without its budget.
    budget: its budget.
    raw: whether prompts are texts to be continued as they are, without the chat template.
    usage: whether a stream ends with the number of tokens.
    where: the field that the prompts stand in.
    """

    model: str
    prompts: tuple[Prompt, ...]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    seed: int | None = None
    stream: bool = False
    logprobs: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    budget: Mapping[str, Any] = field(default_factory=dict)
    raw: bool = False
    usage: bool = False
    where: str = "messages"


# ---------------------------------------------------------------------------------------------------------- the fields


def only(*values: Any) -> AfterValidator:
    """A check that a field has a value that changes nothing: the field is known and not supported."""

    def check(value: Any) -> Any:
        if value not in values:
            raise ValueError(f"this server supports only {' or '.join(map(repr, values))} here: leave it out")
        return value

    return AfterValidator(check)


def _warm(value: float) -> float:
    """Logits divided by less would leave the range of float32."""
    if 0 < value < 1e-6:
        raise ValueError("give 0, which takes the likeliest token, or at least 1e-6")
    return value


def _token(value: str) -> str:
    if not (value.isascii() and value.isdecimal() and len(value) < 10):
        raise ValueError('give the id of a token as a whole number, such as "198"')
    return value


Temperature = Annotated[float, Field(ge=0, le=100, description="0 takes the likeliest token"), AfterValidator(_warm)]
TopP = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Text = Annotated[str, Field(min_length=1)]
Stop = Text | Annotated[list[Text], Field(max_length=16)]
Model = Annotated[str, Field(min_length=1, max_length=256)]
Penalty = Annotated[float, Field(ge=-2, le=2, description="subtracted from the logits of tokens of the answer so far")]
Bias = Annotated[float, Field(ge=-100, le=100)]
NoneOf = Annotated[list[Any], Field(max_length=0)]
Biases = Annotated[dict[Annotated[str, AfterValidator(_token)], Bias], Field(max_length=1024, description="by the ids of tokens")]


class BudgetFields(BaseModel):
    """Limits of each answer."""

    model_config = STRICT
    tokens: Count | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None
    reward_calls: Count | None = None

    @property
    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class Changes(BaseModel):
    """How the answer is found: a sampler, its settings by their names, and the rest of a recipe."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    sampler: str | None = None
    inner: str | None = None
    select: str | None = None
    answer: str | None = None
    utility: str | None = None
    reward: str | None = None
    beta: Annotated[float, Field(gt=0)] | None = None
    until: str | None = None
    budget: BudgetFields | None = None

    @property
    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude={"budget"}, exclude_unset=True)


class StreamOptions(BaseModel):
    """What a stream has besides the answer."""

    model_config = STRICT
    include_usage: bool | None = None
    include_obfuscation: Annotated[bool, only(False)] | None = None


def sampling_of(**given: Any) -> dict[str, Any]:
    """The sampling parameters that a request gives."""
    return {name: value for name, value in given.items() if value is not None}


def stops(given: str | list[str] | None) -> tuple[str, ...] | None:
    return None if given is None else (given,) if isinstance(given, str) else tuple(given)
