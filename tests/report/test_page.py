"""What a page holds is what the files hold, and hostile texts stay texts."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import exptilt as xt
from exptilt.report import write_report
from exptilt.report.page import to_json
from exptilt.running.lines import decode, encode
from tests.report.stores import BETA, HOSTILE, PROMPTS, SAMPLERS, Page, details, lines, run_all, target

OLD = Path(__file__).parents[1] / "running" / "data" / "before_traces"  # results files made at commit 0af91df

# ----------------------------------------------------------------------------------------------- what the page holds


def test_every_prompt_and_method_is_there(page: Page, stores: list[Path]) -> None:
    overview = page.data["overview"]
    assert [method["name"] for method in overview["methods"]] == list(SAMPLERS)
    assert overview["methods"][0]["label"] == "ETS candidates 3, rollouts 2, block 2 · vote"
    assert overview["methods"][4]["label"] == "Metropolised of (Independent n 3), steps 4 · vote"
    for number, prompt in enumerate(overview["prompts"]):
        for place, store in enumerate(stores):
            line = next(line for line in lines(store) if line["id"] == prompt["id"])
            shown, entry = page.detail(number, place), prompt["by"][place]
            assert shown["texts"][shown["chosen"]] == line["text"]
            assert sum(draft[4] for draft in shown["drafts"]) == 1
            assert entry["reward"] == pytest.approx(line["reward"])
            assert entry["tokens"] == line["usage"]["reference"]["generated"]
            texts = [shown["texts"][shown["drafts"][row][0]] for row in shown["rows"]]
            stored = line["population"]
            assert texts == [stored["drafts"][row]["text"] for row in stored["rows"]]
            log_w = np.array(stored["log_w"])
            np.testing.assert_allclose(shown["weights"], np.exp(log_w - np.logaddexp.reduce(log_w)), rtol=1e-5, atol=1e-12)
            assert sum(share for _, share in shown["posterior"]) == pytest.approx(1, abs=1e-4)


def test_energies_are_those_of_the_rollouts_shown(page: Page) -> None:
    """Each card's log Ê is the log mean of exp(r/β) over the rollouts that the page shows for it, and they continue its text."""
    for shown in details(page, "ets"):
        rows = 0
        for column in shown["tree"]["columns"]:
            assert sum(card["share"] for card in column["cards"]) == pytest.approx(1, abs=1e-4)
            assert sum("path" in card for card in column["cards"]) == 1
            for card in column["cards"]:
                first, count = card["rollouts"]
                assert first == rows
                rows += count
                rewards = np.array(shown["rewards"][first:rows])
                assert card["log"] == pytest.approx(np.logaddexp.reduce(rewards / BETA) - math.log(count), rel=1e-4, abs=1e-4)
                texts = [shown["texts"][shown["drafts"][row][0]] for row in shown["rows"][first:rows]]
                assert all(text.startswith(shown["texts"][card["text"]]) for text in texts)
        assert len(shown["rows"]) - rows in (0, 1)  # a chain that ended early counts once more at the end


def test_a_chain_of_ets_keeps_its_whole_tree(page: Page) -> None:
    """It yields one population only, so the steps before it were once lost from the trace."""
    for chain in details(page, "chain"):
        assert any("rollouts behind the energies" in words for words in chain["missing"])
        columns, parent = chain["tree"]["columns"], -1
        for column in columns:
            assert {card["parent"] for card in column["cards"]} == {parent}
            parent = next(place for place, card in enumerate(column["cards"]) if "path" in card)
        assert chain["texts"][columns[-1]["cards"][parent]["text"]] == chain["texts"][chain["chosen"]]


def test_generations_lead_to_the_chosen_particle(page: Page) -> None:
    for shown in details(page, "smc"):
        columns = shown["tree"]["columns"]
        np.testing.assert_allclose([card["share"] for card in columns[-1]["cards"]], shown["weights"], rtol=1e-4, atol=1e-9)
        for before, column in pairwise(columns):
            for card in column["cards"]:
                above = before["cards"][card["parent"]]
                assert shown["texts"][card["text"]].startswith(shown["texts"][above["text"]])
                assert "path" not in card or "path" in above
        assert any("path" in card and card["text"] == shown["chosen"] for card in columns[-1]["cards"])


def test_chains_are_laid_out_by_steps(page: Page) -> None:
    for shown in details(page, "qalign"):
        assert shown["chain"] == {"chains": 2, "burn_in": 2, "steps": 11}
        assert len(shown["rows"]) == 22
    assert all(shown["chain"] == {"chains": 1, "burn_in": 0, "steps": 5} for shown in details(page, "pimh"))
    assert not any("chain" in shown or "tree" in shown for shown in details(page, "plain"))


# ------------------------------------------------------------------------------------------------------ hostile texts


def test_hostile_texts_come_back_as_they_were(tmp_path: Path) -> None:
    prompts = [*HOSTILE[:3], "half of a pair: \ud800", "]]></style></title><svg onload=window.hacked=1>"]
    made = Page(write_report(run_all(tmp_path, prompts, HOSTILE), tmp_path / "report.html", title=HOSTILE[0]))
    assert {prompt["prompt"] for prompt in made.data["overview"]["prompts"]} == set(prompts)
    drawn = {text for shown in details(made, "plain") if "texts" in shown for text in shown["texts"]}
    assert any(HOSTILE[0] in text for text in drawn)
    assert set(made.ids.values()) == {1}
    assert made.html.count("</script>") == 2 + sum(1 for name in made.data if name.startswith("detail-"))
    assert "<img" not in made.html


def test_json_stands_in_a_script_element() -> None:
    value = {"text": "</script><!--\u2028\ud800 β", "numbers": [math.inf, -math.inf, math.nan, 1 / 3]}
    written = to_json(value)
    written.encode("utf-8")
    assert "<" not in written
    assert json.loads(written) == {"text": value["text"], "numbers": ["inf", "-inf", None, 0.333333]}


def test_nothing_is_fetched_and_nothing_else_runs(page: Page) -> None:
    policy = next(value for name, value in page.attributes if name == "content" and value and "default-src" in value)
    assert "default-src 'none'" in policy
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.code[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert {name for name, _ in page.attributes}.isdisjoint({"src", "action", "onclick", "onload", "style"})
    assert all(value and value.startswith("#") for name, value in page.attributes if name == "href")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|Function\(|fetch\(|XMLHttp|import\(",
        page.code["script"],
    )
    assert not re.search(r"url\(|@import", page.code["style"])
    assert set(re.findall(r"https?://[^\"'\s]*", page.code["script"])) == {"http://www.w3.org/2000/svg"}


# ----------------------------------------------------------------------------------------------- files that lack things


def test_older_files_open_and_say_what_they_lack(tmp_path: Path) -> None:
    """Before reports there were no generations, and no telling which rollout belongs to which candidate."""
    for name in ("ets", "smc"):
        header, *rows = (OLD / f"{name}.jsonl").read_text().splitlines()
        old = []
        for row in map(decode, rows):
            for entry in row["trace"]:
                for key in ("rollouts", "first", "earlier", "generations"):
                    entry["stats"].pop(key, None)
            old.append(encode(row))
        (tmp_path / f"{name}.jsonl").write_text("\n".join([header, *old]) + "\n")
    made = Page(write_report([tmp_path / "ets.jsonl", tmp_path / "smc.jsonl"], tmp_path / "report.html"))
    assert "before rollouts were recorded by candidate" in made.detail(0, 0)["missing"][0]
    assert made.detail(0, 0)["tree"]["columns"]
    assert "before generations were recorded" in made.detail(0, 1)["missing"][0]


def test_files_without_populations_open(tmp_path: Path) -> None:
    xt.run(
        target(), PROMPTS, xt.ETS(3, 2, 2), store=tmp_path / "a.jsonl", store_population=False, select=xt.vote(xt.answers.number)
    )
    made = Page(write_report([tmp_path / "a.jsonl"], tmp_path / "report.html"))
    shown = made.detail(0, 0)
    assert "--no-population" in shown["missing"][0]
    assert "drafts" not in shown
    assert shown["tree"]["columns"]
    assert shown["posterior"]


def test_many_drafts_keep_the_heaviest_texts(stores: list[Path], tmp_path: Path) -> None:
    made = Page(write_report([stores[-1]], tmp_path / "report.html", most_drafts=1))
    shown = made.detail(0, 0)
    kept = [number for number, draft in enumerate(shown["drafts"]) if draft[0] is not None]
    totals = [
        sum(weight for row, weight in zip(shown["rows"], shown["weights"], strict=True) if row == draft)
        for draft in range(len(shown["drafts"]))
    ]
    assert int(np.argmax(totals)) in kept
    assert 1 <= len(kept) <= 2  # the heaviest, and the chosen one
    assert shown["left_out"] == len(shown["drafts"]) - len(kept)


def test_a_file_that_is_being_written_is_left_alone(stores: list[Path], tmp_path: Path) -> None:
    content = stores[0].read_bytes()[:-30]  # a torn last line
    store = tmp_path / "a.jsonl"
    store.write_bytes(content)
    made = Page(write_report([store], tmp_path / "report.html"))
    assert len(made.data["overview"]["prompts"]) == len(PROMPTS) - 1
    assert store.read_bytes() == content
