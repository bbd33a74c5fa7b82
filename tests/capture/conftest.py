"""The two ways to run a command that the tests of capture compare."""

from __future__ import annotations

import pytest
from support import Sqstee
from support.wrapping import Prefix


@pytest.fixture(params=["bare", "wrapped"])
def prefix(request: pytest.FixtureRequest, sqstee: Sqstee) -> Prefix:
    """Nothing, or the wrapper: what a test says holds for both."""
    return [] if request.param == "bare" else sqstee.words("--to", "local", "--")
