"""What `import exptilt` brings, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

import exptilt as xt


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.strip()


def test_heavy_packages_wait_until_they_are_used() -> None:
    heavy = {"torch", "transformers", "tokenizers", "rich", "tyro", "matplotlib", "pytest", "requests"}
    assert python(f"import sys, exptilt; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_the_public_names_are_there() -> None:
    assert all(name in vars(xt) for name in xt.__all__)
    assert {"TableEngine", "MaskedTableEngine"} <= set(vars(xt.engines))
    assert xt.__version__ == "0.1.0"


def test_the_package_is_a_command() -> None:
    said = subprocess.run([sys.executable, "-m", "exptilt", "--version"], capture_output=True, check=True, text=True).stdout
    assert said == f"exptilt {xt.__version__}\n"
