"""A headless Chromium for the tests of a module, and waiting for a page from here: its own policy forbids strings of code."""

import shutil

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    """Chromium through Playwright, which allows one at a time: so for one module, not for the whole session."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        yield opened
        opened.close()


def until(page, says, arg=None, seconds=30):
    """Wait until an expression of JavaScript is true in a page."""
    for _ in range(10 * seconds):
        if page.evaluate(says, arg):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never came true: {says}")
