"""The server does as its own OpenAPI description says: requests made from it, right and wrong ones, by schemathesis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from exptilt.serve.app import create_app
from exptilt.serve.config import Config, Limits
from exptilt.serve.desk import Desk
from tests.serve.served import catalogue, live

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LIMITS = Limits(deadline=5.0, max_tokens=64, count=64)


OFFERED = catalogue()
CONFIG = Config(name="table", port=0, limits=LIMITS)
APP = create_app(Desk(OFFERED, CONFIG))
OPERATIONS: list[Any] = [each.ok() for each in schemathesis.openapi.from_asgi("/openapi.json", APP).get_all_operations()]  # pyright: ignore

MODELS = st.sampled_from([*OFFERED.models, "table@smc3", "table@mcmc4"])
CHANGES = st.sampled_from(
    [
        None,
        {"sampler": "ets", "candidates": 2, "block": 2, "returns": "chain", "budget": {"tokens": 20}},
        {"sampler": "gibbs", "particles": 2, "steps": 2, "select": "vote", "answer": "exact"},
        {"sampler": "metropolised", "inner": "independent", "n": 2, "steps": 2, "until": "ess:2"},
        {"reward": "none", "select": "best"},
    ]
)


def test_all_paths_are_described() -> None:
    assert {operation.path for operation in OPERATIONS} == {
        *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/events"),
        *("/v1/models", "/v1/models/{model}", "/healthz", "/metrics", "/", "/offers"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with live(OFFERED, CONFIG) as server:
        yield server.url


def described(operation: Any, body: Any) -> bool:
    """Whether a body is as the description says; some that are made to be wrong are right all the same."""
    if operation.method != "post":
        return True
    whole = operation.schema.raw_schema
    [content] = whole["paths"][operation.path]["post"]["requestBody"]["content"].values()
    return bool(jsonschema_rs.is_valid({**content["schema"], "components": whole["components"]}, body))


CASES = [(each, GenerationMode.POSITIVE) for each in OPERATIONS]
CASES += [(each, GenerationMode.NEGATIVE) for each in OPERATIONS if each.method == "post"]


@pytest.mark.parametrize("place", ["asgi", "uvicorn"])
@pytest.mark.parametrize(("operation", "mode"), CASES, ids=lambda value: getattr(value, "path", str(value)))
def test_every_response_is_as_described(operation: Any, mode: GenerationMode, place: str, url: str) -> None:
    """Right requests and wrong ones, made from the description, for models and samplers that there are, so that they get far.

    Where the model was always made up, most requests ended at its name.
    """

    @given(case=operation.as_strategy(generation_mode=mode), model=MODELS, changes=CHANGES)
    @settings(
        max_examples=20, deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )  # fmt: skip
    def check(case: Any, model: str, changes: dict[str, Any] | None) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = model
            if mode == GenerationMode.POSITIVE:
                case.body["exptilt"] = changes
        if "model" in (case.path_parameters or {}):
            case.path_parameters["model"] = model
        where = {} if place == "asgi" else {"base_url": url}
        status = case.call_and_validate(checks=CHECKS, **where).status_code
        statuses.append(status)
        assert status != 200 or described(operation, case.body), case.body

    statuses: list[int] = []
    check()
    assert mode == GenerationMode.NEGATIVE or 200 in statuses, "no request was answered"
