"""Moved to exptilt.testing.toys."""

from exptilt.testing.toys import *  # noqa: F403
