"""The server does as its own OpenAPI description says: requests made from it, right and wrong ones, by schemathesis."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
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
from tests.serve.served import catalogue

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LIMITS = Limits(deadline=5.0, max_tokens=64, count=64)


APP = create_app(Desk(catalogue(), Config(name="table", limits=LIMITS)))
OPERATIONS: list[Any] = [each.ok() for each in schemathesis.openapi.from_asgi("/openapi.json", APP).get_all_operations()]  # pyright: ignore


def test_all_paths_are_described() -> None:
    assert {operation.path for operation in OPERATIONS} == {
        *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/events"),
        *("/v1/models", "/v1/models/{model}", "/healthz", "/metrics", "/", "/offers"),
    }  # fmt: skip


CASES = [(each, GenerationMode.POSITIVE) for each in OPERATIONS]
CASES += [(each, GenerationMode.NEGATIVE) for each in OPERATIONS if each.method == "post"]


@pytest.mark.parametrize(("operation", "mode"), CASES, ids=lambda value: getattr(value, "path", str(value)))
def test_every_response_is_as_described(operation: Any, mode: GenerationMode) -> None:
    """Right requests and wrong ones, made from the description; of the right ones, all are for the model that there is."""

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=20, deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )  # fmt: skip
    def check(case: Any) -> None:
        if isinstance(case.body, dict) and mode == GenerationMode.POSITIVE:
            case.body["model"] = "table"
        statuses.append(case.call_and_validate(checks=CHECKS).status_code)

    statuses: list[int] = []
    check()
    assert mode == GenerationMode.POSITIVE or 200 not in statuses
    assert mode == GenerationMode.NEGATIVE or "{" in operation.path or 200 in statuses, "no request was answered"
