"""The processes that read LaTeX: threads, forks, expressions that never end, and a missing package."""

from __future__ import annotations

import math
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("math_verify")

from exptilt import answers
from exptilt.answers import reader_pool
from exptilt.answers.reader_pool import ReaderPool
from exptilt.errors import ExptiltError

BOMB = "10000000! + x + {}"


def test_latex_is_read_in_many_threads() -> None:
    """Samplers run in threads, where a time-out by signal raises: each thread must get the answer of its own formula."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(answers.latex, [f"\\boxed{{\\sqrt{{{number}}} + x}}" for number in range(2, 26)]))
    assert len(set(found)) == 24
    assert found[2] == answers.latex("\\boxed{x + 2}")


def test_endless_expressions_are_compared_as_written_and_the_next_is_read() -> None:
    """Ten million factorial takes sympy for ever: its process ends by its CPU limit, and another one reads on."""
    pool = ReaderPool(1)
    assert pool.read(BOMB.format(1)) is None
    assert pool.read("\\frac{x}{2} + \\frac{x}{2}") == pool.read("0 + \\left(x\\right)^1 + 0")
    pool.close()
    assert answers.latex("\\boxed{10000000! + x}") == "10000000!+x"


def test_an_endless_expression_keeps_no_other_thread_waiting() -> None:
    """One process behind one lock made every thread wait 6 to 10 s for each such expression."""
    pool = ReaderPool(2)
    assert pool.read("x") == pool.read("1 x")
    with ThreadPoolExecutor(2) as threads:
        bombs = threads.submit(lambda: [pool.read(BOMB.format(number)) for number in range(3)])
        time.sleep(0.2)
        assert pool.read("\\sqrt{3}") == f"≈{math.sqrt(3):.12g}"
        assert not bombs.done()
        assert bombs.result() == [None, None, None]
    pool.close()


def _root_of(number: int) -> str | None:
    return answers.latex(f"\\boxed{{\\sqrt{{{number}}}}}")


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_forked_children_read_with_processes_of_their_own() -> None:
    """Children shared the pipe of their parent's reader: of 198 answers most were swapped, or the call crashed."""
    assert _root_of(2) == f"≈{math.sqrt(2):.12g}"
    numbers = [number * number + 1 for number in range(2, 40)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(_root_of, numbers, chunksize=1)
    assert found == [f"≈{math.sqrt(number):.12g}" for number in numbers]
    assert _root_of(3) == f"≈{math.sqrt(3):.12g}"  # the parent's own still serves it


def test_a_reading_that_is_interrupted_leaves_no_answer_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C the next formula got the answer of the one that was given up, and each one after it that of the one before."""
    pool, right = ReaderPool(1), reader_pool.Reader._line
    forms = [pool.read("\\sqrt{2}"), pool.read("\\sqrt{3}")]

    def interrupted(reader: reader_pool.Reader) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(reader_pool.Reader, "_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.read("\\sqrt{5}")
    monkeypatch.setattr(reader_pool.Reader, "_line", right)
    assert [pool.read("\\sqrt{2}"), pool.read("\\sqrt{3}")] == forms
    pool.close()


def test_latex_without_math_verify_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formulas must not be compared in a weaker way without a word; what is plainly a number needs no package."""
    monkeypatch.setattr("exptilt.answers.maths.POOL", ReaderPool())
    monkeypatch.setattr(reader_pool.importlib.util, "find_spec", lambda name: None)
    assert answers.latex("\\boxed{1,234.50}") == "1234.5"
    with pytest.raises(ExptiltError, match=r"math-verify, not installed here\. Install: .*\[eval\]"):
        answers.latex("\\boxed{x^2 + 17}")


def test_a_reader_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end was once taken for an expression that cannot be read, and all were compared as written without a word."""
    monkeypatch.setattr(reader_pool.sys, "executable", "/bin/false")
    with pytest.raises(ExptiltError, match="did not start"):
        ReaderPool().read("x^2 + 18")
