"""The verdict of a comparison, and its row in the table."""
import io
import math

import pytest

from pipeline.verification.report import COLUMNS, Comparison, plain_text, show, violations


@pytest.mark.parametrize("difference, bound, unclaimed, verdict", [
    (0.0, 0.0, "", "ok"),
    (1e-9, 1e-8, "", "ok"),
    (1.1e-8, 1e-8, "", "VIOLATED"),
    (math.inf, 1e-8, "", "VIOLATED"),
    (math.nan, 1e-8, "", "VIOLATED"),  # Neither above nor below: nothing was shown to hold.
    (None, 1e-8, "", "VIOLATED"),
    (0.5, 1e-8, "half precision", "not claimed"),
    (None, 1e-8, "one replica", "not claimed"),
])
def test_a_verdict_needs_a_number_within_the_bound(difference, bound, unclaimed, verdict):
    row = Comparison("replicas", "loss", difference, bound, unclaimed)
    assert row.verdict == row.described()["verdict"] == row.cells()[-1] == verdict
    assert bool(violations([row])) == (verdict == "VIOLATED")


ROWS = [
    Comparison("replicas", "every variable after 10 steps, 1 against 2 replicas, float64, --normalize=per_channel",
               0.25, 1e-8, note="[block]/convolution/kernel"),
    Comparison("replicas", "loss of 10 steps", math.inf, 1e-8, note="step 3"),
    Comparison("resume", "losses and weights", 2e-16, 0.0, "on a GPU it is claimed with --deterministic",
               "loss of step 2"),
    Comparison("ragged", "examples", 0.0, 0.0, note="size 1"),
]


def test_one_line_names_each_violated_part_with_its_figures():
    assert violations(ROWS) == (
        "replicas: every variable after 10 steps, 1 against 2 replicas, float64, --normalize=per_channel: difference "
        "0.25, bound 1.0e-08 ([block]/convolution/kernel), and 1 more of this part")
    assert violations(ROWS[1:]) == "replicas: loss of 10 steps: different, bound 1.0e-08 (step 3)"
    assert violations(ROWS[2:]) == ""


def test_the_plain_table_fits_80_columns_and_says_everything():
    lines = plain_text(ROWS).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == list(COLUMNS)
    first = [line.split()[-3:] for line in lines if line.split()[0] in ("replicas", "resume", "ragged")]
    assert first == [["0.25", "1.0e-08", "VIOLATED"], ["differs", "1.0e-08", "VIOLATED"],
                     ["0", "not", "claimed"], ["0", "0", "ok"]]
    text = " ".join(" ".join(lines).split())
    assert "([block]/convolution/kernel)" in text and "(on a GPU it is claimed with --deterministic)" in text
    assert "loss of step 2" not in text and "size 1" not in text  # Where nothing is wrong, where does not matter.


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_of_a_terminal_fits_and_says_everything(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR", "1")  # As on a terminal.
    monkeypatch.setenv("TERM", "dumb")  # Without colors.
    file = io.StringIO()
    show(ROWS, file)
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    text = " ".join(file.getvalue().split())
    for output in ("[block]/", "VIOLATED", "not claimed", "2.0e-16", "1.0e-08", "differs"):
        assert output in text
