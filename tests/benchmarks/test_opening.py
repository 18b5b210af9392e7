"""The benchmark of opening a large data set."""
import sys

import pytest

from benchmarks import opening


@pytest.mark.acceptance
def test_it_measures_a_first_and_a_later_start_of_both_kinds(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["opening", f"--place={tmp_path}", "--files=2000", "--classes=4", "--distinct=3",
                                      "--records=2000"])
    opening.main()
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert [line[0] for line in lines if line[0] in ("first", "again")] == 2 * ["first", "again", "again"]
    assert {line[line.index("examples,") - 1] for line in lines if "examples," in line} == {"1,995"}
