"""The browser that the tests of this folder look with."""
import pytest

from tests.browser import chromium


@pytest.fixture(scope="module")
def browser():
    """Playwright's Browser: a real Chromium without a window."""
    try:
        with chromium.launched() as started:
            yield started
    except chromium.NoBrowser as problem:
        pytest.fail(str(problem), pytrace=False)
