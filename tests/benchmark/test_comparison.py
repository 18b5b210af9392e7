"""Comparison of two benchmarks."""
import copy
import io
import json

import numpy as np
import pytest

from pipeline.benchmark.comparison import compare, print_table, ratio_of_medians, read, summary
from pipeline.errors import UsageError
from tests.benchmark.reports import cell, failed, report


def compared(before, after, tolerance=0.05):
    rows, regressed = compare(report([before]), report([after]), tolerance)
    (row,) = rows
    return row, regressed


def noisy(*repeats):
    return cell(rate=float(np.median(repeats)), repeats=list(repeats))


@pytest.mark.parametrize("after, verdict, regressed", [
    (cell(rate=800.0), "same", False),
    (cell(rate=790.0), "same", False),  # Inside the spread of the repeats.
    (cell(rate=860.0), "faster", False),
    (cell(rate=764.0), "slower", False),  # Beyond the noise, and the tolerance still inside the interval.
    (cell(rate=700.0), "REGRESSED", True),
    (noisy(600, 650, 700, 750, 810), "same", False),  # Too noisy to say.
    (failed(), "REGRESSED", True),
    (cell(rate=800.0, fitted_batch_size=32), "REGRESSED", True),
    (cell(rate=800.0, repeats=[800.0] * 4), "not comparable", False),
    (cell(rate=800.0, repeats=None), "not comparable", False),
])
def test_a_verdict_needs_more_than_noise(after, verdict, regressed):
    row, found = compared(cell(rate=800.0), after)
    assert (row.verdict, found) == (verdict, regressed)


def test_the_tolerance_is_what_the_whole_interval_must_miss():
    row, regressed = compared(cell(rate=800.0), cell(rate=700.0), tolerance=0.05)
    assert row.ratio == pytest.approx(0.875) and row.low < row.ratio < row.high < 0.95 and regressed
    assert compared(cell(rate=800.0), cell(rate=700.0), tolerance=0.2)[1] is False
    assert compared(cell(rate=800.0), cell(rate=700.0), tolerance=1 - row.high - 1e-6)[1] is True
    assert compared(cell(rate=800.0), cell(rate=700.0), tolerance=1 - row.high + 1e-6)[1] is False


def test_the_interval_has_its_nominal_coverage():
    """Ten repeats of a noise of 3%: the interval excludes an unchanged speed rarely, and one a tenth lower always."""
    generator = np.random.default_rng(1)
    same = changed = 0
    for _ in range(60):
        old, new = 100 * generator.lognormal(0, 0.03, (2, 10))
        _, low, high = ratio_of_medians(old, new)
        same += not low <= 1 <= high
        changed += ratio_of_medians(old, 0.9 * new)[2] < 1
    assert same <= 8 and changed >= 58


def test_a_cell_in_one_file_only_is_listed_and_is_no_regression():
    old = report([cell(), cell(batch_size=128)])
    new = report([cell(batch_size=256), cell()])
    rows, regressed = compare(old, new, 0.05)
    assert [(row.verdict, row.cell.split("batch ")[1].split(",")[0]) for row in rows] == [
        ("only new", "256"), ("same", "64"), ("only old", "128")]
    assert not regressed and summary(rows) == "1 only new, 1 same, 1 only old"


def test_a_cell_that_had_failed_is_better_and_one_that_still_fails_is_the_same():
    assert compared(failed("out of memory"), cell())[0].note == "had failed: out of memory"
    assert compared(failed(), cell())[0].verdict == "faster"
    assert compared(failed(), failed()) == (compared(failed(), failed())[0], False)


def test_another_machine_or_version_is_reported_first():
    old, new = report([cell()]), report([cell()])
    new["machine"] = {**new["machine"], "cores": 8, "gpus": ["NVIDIA H100"]}
    new["versions"] = {**new["versions"], "keras": "3.16.0"}
    new["flags"] = {**new["flags"], "augment": ["flip"], "workdir": "/elsewhere"}
    new["complete"] = False
    rows, _ = compare(old, new, 0.05)
    assert [row.note for row in rows] == [
        "other machine: cores was 2, is 8", "other machine: gpus was none, is NVIDIA H100",
        "other version: keras was 3.15.1, is 3.16.0", "other flag: augment was flip, crop:3, is flip",
        "the new benchmark was interrupted: cells are missing", ""]


def test_the_table_shows_figures_remarks_and_verdicts():
    old = report([cell(model="[bold]"), cell(rate=800.0, batch_size=128)])
    new = copy.deepcopy(old)
    new["cells"][1] = cell(rate=600.0, batch_size=128)
    new["versions"]["numpy"] = "3.0"
    text = io.StringIO()
    print_table(compare(old, new, 0.05)[0], text)
    lines = text.getvalue().splitlines()
    assert lines[0] == "other version: numpy was 2.4.6, is 3.0"
    (line,) = [line for line in lines[:-1] if "REGRESSED" in line]
    assert "batch 128" in line and "800" in line and "600" in line and "0.750" in line
    assert "[bold]" in text.getvalue() and lines[-1] == "1 same, 1 REGRESSED"
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("text, words", [
    (None, "cannot read .*no such file"), ("{", "line 1, column 2"), ("[1]", "schema 1 .found: none"),
    ('{"schema": 2, "cells": []}', "schema 1 .found: 2"), ('{"schema": 1}', "no list of cells"),
    ('{"schema": 1, "cells": [{"model": "cnn"}]}', "no list of cells"),
])
def test_a_file_that_is_no_benchmark_is_an_error_of_one_line(tmp_path, text, words):
    path = tmp_path / "old.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=words) as raised:
        read(path)
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_a_written_report_is_read(tmp_path):
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(report([cell()])))
    assert read(path) == report([cell()])
    with pytest.raises(UsageError, match="directory"):
        read(tmp_path)


def test_reports_without_workers_are_read_as_of_one_worker(tmp_path):
    path, whole = tmp_path / "old.json", report([cell(), cell(workers=2)])
    before = {**whole, "cells": [{name: value for name, value in whole["cells"][0].items() if name != "workers"}]}
    path.write_text(json.dumps(before))
    rows, regressed = compare(read(path), whole, 0.05)
    assert [row.verdict for row in rows] == ["same", "only new"] and not regressed
    assert "2 workers, batch 64" in rows[1].cell and "1 replica, batch 64" in rows[0].cell
