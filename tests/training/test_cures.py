"""Every cure of a way to go wrong is needed: with it taken out a test fails, and fails for that reason."""
import json
import re
import subprocess
import sys

import pytest

from tests.commands import REPOSITORY, environment
from tests.cures import TESTED


@pytest.fixture(scope="module")
def outcomes():
    """How the test of each row ended without its cure; one process for all, since a start takes seconds."""
    done = subprocess.run([sys.executable, "-m", "tests.training.cures"], cwd=REPOSITORY, env=environment(), text=True,
                          capture_output=True, timeout=600, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["row"]: row["outcome"] for row in rows}


@pytest.mark.parametrize("row", range(len(TESTED)), ids=[cure.wrong for cure in TESTED])
def test_without_it_a_test_fails(outcomes, row):
    assert re.search(TESTED[row].symptom, outcomes[row]), f"{TESTED[row].test} without the cure: {outcomes[row]}"
