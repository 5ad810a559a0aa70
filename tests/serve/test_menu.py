"""The page at `/` without a browser: it opens without a key, nothing else runs in it, and what it offers is accepted."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from exptilt import names
from exptilt.serve.asked import Asked
from exptilt.serve.config import Config, Limits
from exptilt.serve.menu import offers
from exptilt.serve.page import page
from exptilt.serve.plan import plan
from exptilt.serve.recipes import Catalogue
from tests.serve.served import Live, catalogue, live, recipe

OFFERED = replace(catalogue(), more={"table@careful": recipe("ets", candidates=6, block=3)})


@pytest.fixture(scope="module")
def locked() -> Iterator[Live]:
    with live(OFFERED, Config(name="table", port=0, api_key="key-1", limits=Limits(grace=1.0))) as started:
        yield started


def test_the_page_opens_without_the_key_and_what_it_asks_for_does_not(locked: Live) -> None:
    shown = httpx2.get(f"{locked.url}/")
    assert (shown.status_code, shown.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "key-1" not in shown.text
    assert "careful" not in shown.text
    assert httpx2.get(f"{locked.url}/offers").status_code == 401
    given = httpx2.get(f"{locked.url}/offers", headers={"authorization": "Bearer key-1"}).json()
    assert given == offers(locked.desk.catalogue, locked.desk.config.limits)


def test_nothing_but_its_own_script_and_style_is_in_the_page() -> None:
    response = page()
    policy, html = response.headers["content-security-policy"], bytes(response.body).decode()
    for kind in ("style", "script"):
        [code] = re.findall(rf"<{kind}>(.*?)</{kind}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
        assert not re.search(r"url\(|@import|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", code)
    assert {part for part in policy.split("; ") if "-src" not in part} == {
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    }  # fmt: skip
    directives = [part.split()[0] for part in policy.split("; ")]
    assert len({*directives}) == len(directives), "a browser ignores what is said a second time"
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert not re.search(r"<[^>]* (?:src|onclick|onload|style|action)=", html)
    assert {*re.findall(r"https?://[^\"'\s]*", html)} == {"http://www.w3.org/2000/svg"}


def accepted(offered: Catalogue, model: str, changes: dict[str, Any]) -> Any:
    return plan(Asked(model, ("hi",), changes=changes), None, offered, Limits())


def cases() -> list[Any]:
    given = offers(OFFERED, Limits())
    found = []
    for sampler in given["samplers"]:
        for inner, settings in (sampler["inners"] or {None: sampler["settings"]}).items():
            found.append(pytest.param(sampler, inner, settings, id=f"{sampler['name']}-{inner}"))
    return found


@pytest.mark.parametrize(("sampler", "inner", "settings"), cases())
def test_every_sampler_that_is_offered_is_taken_with_its_settings(sampler: Any, inner: str | None, settings: Any) -> None:
    """What a person leaves as it is, sent in full, is the recipe that the server would have taken by itself."""
    words = {"sampler": sampler["name"]} | ({} if inner is None else {"inner": inner})
    full = accepted(OFFERED, "table", words | {each["name"]: each["default"] for each in settings})
    assert full.sampler == names.choose_sampler(sampler["name"], inner).make({})
    reward = sampler["reward"] or "heads"
    assert (full.recipe.select, full.recipe.reward) == (sampler["select"], reward)
    assert {each["type"] for each in settings} <= {"whole", "number", "text", "flag", "choice", "numbers", "number or text"}


def test_every_model_that_is_offered_is_told_as_it_answers() -> None:
    given = offers(OFFERED, Limits())
    assert [each["id"] for each in given["models"]] == OFFERED.models
    for model in given["models"]:
        own = accepted(OFFERED, model["id"], {})
        assert accepted(OFFERED, model["id"], model["settings"]).sampler == own.sampler
        told = {name: model[name] for name in ("select", "answer", "reward", "beta", "until")}
        assert told == {name: getattr(own.recipe, name) for name in told}
    careful = next(each for each in given["models"] if each["id"] == "table@careful")
    assert (careful["sampler"], careful["settings"]["candidates"], careful["settings"]["block"]) == ("ets", 6, 3)
    assert given["rewards"] == ["none", "heads"]
