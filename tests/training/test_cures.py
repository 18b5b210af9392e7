"""Every cure of a possible error is needed: without it a test fails, and for that reason.

Those that a whole training step shows take minutes, and all but one of them are in make acceptance alone.
"""
import json
import re

import pytest

from tests.commands import REPOSITORY, mirrorline
from tests.cures import TESTED
from tests.selection import quick

STEPS = ("tests.training.test_step:", "tests.training.test_own_models:", "tests.training.test_parity:")
QUICK = [row for row, cure in enumerate(TESTED)
         if not cure.test.startswith(STEPS) or cure.wrong == "gradients are clipped on each replica"]


@pytest.fixture(scope="module")
def outcomes(request):
    """The outcome of the test of each row without its cure, all in one process."""
    rows = {item.callspec.params["row"] for item in request.session.items if item.path == request.path}
    done = mirrorline(*map(str, sorted(rows)), cwd=REPOSITORY, module="tests.training.cures")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["row"]: row["outcome"] for row in rows}


@pytest.mark.parametrize("row", quick(range(len(TESTED)), *QUICK), ids=[cure.wrong for cure in TESTED])
def test_a_test_fails_without_the_cure(outcomes, row):
    assert re.search(TESTED[row].symptom, outcomes[row]), f"{TESTED[row].test} without the cure: {outcomes[row]}"
