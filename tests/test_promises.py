"""docs/promises.md names existing tests."""
import re

from tests.commands import REPOSITORY

PAGE = (REPOSITORY / "docs" / "promises.md").read_text(encoding="utf-8")


def test_every_promise_names_an_existing_test():
    named = re.findall(r"`([a-z_0-9/]+/|[a-z_0-9/]+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) > 30
    for path, test in named:
        found = REPOSITORY / "tests" / path
        assert found.exists(), path
        if test:
            assert f"def {test}(" in found.read_text(encoding="utf-8"), test
