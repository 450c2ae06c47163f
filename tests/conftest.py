"""For every test: types are checked at run time; properties get the same examples each run, and no deadline."""

from __future__ import annotations

from hypothesis import settings

from tests import runtime_types

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")
runtime_types.install()
