"""Tests of the core judge results, never how long they take."""

from hypothesis import settings

settings.register_profile("core", deadline=None)
settings.load_profile("core")
