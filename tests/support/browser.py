"""A real browser: Chromium without a window, with a profile of its own; what its console says is kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

_SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--window-size=1200,800", "--no-proxy-server"),
)


@contextmanager
def chromium(profile: Path, *switches: str) -> Iterator[webdriver.Chrome]:
    """The browser, which ends with the context."""
    driver, program = shutil.which("chromedriver"), shutil.which("chromium")
    assert driver, "chromedriver is not installed: apt-get install chromium-driver"
    assert program, "chromium is not installed: apt-get install chromium"
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for switch in (*_SWITCHES, f"--user-data-dir={profile}", *switches):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    try:
        found.set_page_load_timeout(60)
        yield found
    finally:
        found.quit()
