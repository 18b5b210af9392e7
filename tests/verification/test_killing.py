"""The files of two runs are the same, or where they begin to differ. With real runs: tests/verify_cells.py."""
import json
import math

import pytest

from pipeline.errors import RunFailure
from pipeline.verification.killing import compare_runs

LOSSES = {1: 2.5, 2: 2.0, 3: 1.5, 4: 1.0}


def write(folder, losses=LOSSES, weights="abc", steps=None):
    """Writes the files of a run: its result, and its records with an evaluation among them."""
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"weights_sha256": weights}))
    records = [{"kind": "train", "step": step, "loss": losses[step]} for step in steps or losses]
    records.insert(2, {"kind": "evaluation", "step": 2, "loss": 9.0, "accuracy": 0.5})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(folder)


@pytest.mark.parametrize("changed, kills, difference, note", [
    ({}, (3, 2), 0.0, ""),
    ({"losses": {**LOSSES, 3: 1.53, 4: 1.01}}, (3, 2), 0.02, "from the loss of step 3 on"),
    ({"losses": {**LOSSES, 3: 1.515, 4: 1.02}}, (3, 2), 0.02, "from the loss of step 3 on"),
    ({"losses": {**LOSSES, 4: None}}, (3, 2), math.inf, "from the loss of step 4 on"),
    ({"weights": "abd"}, (3, 2), math.inf, "weights_sha256"),
    ({}, (3, 0), math.inf, "killed after step 3 it continued from step 0"),
    ({}, (2, 3), math.inf, "killed after step 2 it continued from step 3"),
])
def test_losses_weights_and_the_step_it_continued_from(tmp_path, changed, kills, difference, note):
    row, steps = compare_runs(write(tmp_path / "whole"), write(tmp_path / "killed", **changed), kills, 4)
    assert (row.difference, row.note) == (pytest.approx(difference), note)
    assert (row.verdict, steps.verdict) == ("VIOLATED" if difference else "ok", "ok")


@pytest.mark.parametrize("written, odd", [([1, 2, 3], "4"), ([1, 2, 3, 3, 4], "3"), ([1, 1, 2, 4], "1, 3")])
def test_every_step_is_recorded_once(tmp_path, written, odd):
    _, row = compare_runs(write(tmp_path / "whole"), write(tmp_path / "killed", steps=written), (3, 2), 4)
    assert (row.verdict, row.note) == ("VIOLATED", f"steps {odd}")


def test_a_difference_that_is_not_claimed_is_shown(tmp_path):
    row, _ = compare_runs(write(tmp_path / "whole"), write(tmp_path / "killed", weights="abd"), (3, 2), 4, "on a GPU")
    assert (row.verdict, row.difference) == ("not claimed", math.inf)


def test_a_run_without_a_result_is_a_failure(tmp_path):
    (tmp_path / "killed").mkdir()
    with pytest.raises(RunFailure, match="without a result.json"):
        compare_runs(write(tmp_path / "whole"), str(tmp_path / "killed"), (3, 2), 4)
