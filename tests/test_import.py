"""What `import exptilt` brings, and what it leaves alone."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

import exptilt as xt
from exptilt.moved import MOVED


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.strip()


def test_heavy_packages_wait_until_they_are_used() -> None:
    heavy = {"torch", "transformers", "tokenizers", "rich", "tyro", "matplotlib", "pytest", "requests", "fastapi"}
    heavy |= {"accelerate", "datasets", "peft", "trl"}
    assert python(f"import sys, exptilt; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_the_public_names_are_there() -> None:
    assert all(name in vars(xt) for name in xt.__all__)
    assert {"TableEngine", "MaskedTableEngine"} <= set(vars(xt.engines))
    assert xt.__version__ == "0.1.0"


def test_the_public_surface_is_what_was_agreed() -> None:
    """Users rely on these names: one may come, none may go without an alias."""
    errors = "AllWeightsZero BudgetSpent CapabilityError ClusterError ExptiltError ModelError PromptError RewardError StoreError"
    errors += " AnswerError SelectError TargetError WeightsError"
    nouns = "Budget Chat Cluster Draft ETS Failure Independent Key Metropolised Population Result SMC SuffixMCMC Target"
    verbs = "answers best choose_beta draw engines load mbr rewards run sample testing vote"
    promised = f"{errors} {nouns} {verbs}".split()
    assert set(promised) <= set(xt.__all__)
    assert all(name in xt.__all__ or name.startswith("_") or is_module(name) for name in vars(xt))


def is_module(name: str) -> bool:
    return isinstance(vars(xt)[name], ModuleType)


def test_the_package_is_a_command() -> None:
    said = subprocess.run([sys.executable, "-m", "exptilt", "--version"], capture_output=True, check=True, text=True).stdout
    assert said == f"exptilt {xt.__version__}\n"


@pytest.mark.parametrize("old", MOVED)
def test_modules_are_found_by_the_names_they_had(old: str) -> None:
    """Scripts that imported `exptilt.population` go on working, with a word on where it went."""
    if old == "harness":
        pytest.importorskip("lm_eval")
    sys.modules.pop(f"exptilt.{old}", None)
    new = importlib.import_module(f"exptilt.{MOVED[old]}")
    spec = new.__spec__
    with pytest.warns(DeprecationWarning, match=f"exptilt.{MOVED[old]} now"):
        found = importlib.import_module(f"exptilt.{old}")
    assert found is new
    assert new.__spec__ is spec


def test_the_masked_table_is_found_where_it_was() -> None:
    """Code of users imports both tables from one module; the second moved to a module of its own."""
    import exptilt.engines.table as table

    with pytest.warns(DeprecationWarning, match="MaskedTableEngine is in exptilt.engines now"):
        assert table.MaskedTableEngine is xt.engines.MaskedTableEngine
    with pytest.raises(AttributeError, match="no attribute 'Masked'"):
        table.Masked  # noqa: B018


def test_the_old_module_run_does_not_take_the_place_of_the_function() -> None:
    """Importing a module puts it into its package: `import exptilt.run` made xt.run a module, and nothing could be run."""
    assert python(
        "import exptilt as xt, exptilt.run; from exptilt.run import sample; print(callable(xt.run), sample is xt.sample)"
    ) == ("True True")


def test_a_module_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"exptilt\.populatoin"):
        importlib.import_module("exptilt.populatoin")
