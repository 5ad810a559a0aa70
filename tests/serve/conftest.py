"""The program with a table for a model, as the tests of the command line have it."""

from tests.cli.conftest import program

__all__ = ["program"]
