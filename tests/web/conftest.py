"""A real browser for the tests of the pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium import webdriver
from support.browser import chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium, with a profile of its own; what its console says is kept."""
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found
