"""Moved to exptilt.testing.enumeration."""

from exptilt.testing.enumeration import *  # noqa: F403
