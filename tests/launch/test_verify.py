"""mirrorline verify as a user runs it: it holds, and it does not hold with a cure taken out."""
import json
import os
import re
import signal
import time

import pytest

from launch.commands import verify
from pipeline.config import ExperimentConfig
from pipeline.distributed import cuda
from pipeline.errors import UsageError
from tests import commands
from tests.commands import mirrorline, start
from tests.cures import PROVED, verify_without
from tests.selection import quick

# A small model with batch normalization and dropout.
SMALL = ("--model=three_apis", "--augment=crop,mixup")
# The one without which nothing else can be measured; all others are in tests/verify_cells.py.
FIRST = "the reduction loses a replica"


def rows(path):
    """Returns the rows that --output wrote."""
    return json.loads(path.read_text())["rows"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, completed process) of a proof of everything."""
    folder = tmp_path_factory.mktemp("proof")
    return folder, commands.with_forked_children("verify", *SMALL, "--output=proof.json", cwd=folder)


def test_parts_alone_hold_and_are_shown(tmp_path):
    done = commands.with_forked_children("verify", "--model=mlp", "--augment=crop", "--only=ragged,infinite",
                                         "--output=proof.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = json.loads((tmp_path / "proof.json").read_text())
    assert found["holds"] and [row["part"] for row in found["rows"]] == ["infinite"] * 2 + ["ragged"] * 2
    assert_shown(done.stdout, "mlp", 4)
    assert os.listdir(tmp_path) == ["proof.json"]  # No run, no temporary file.


def assert_shown(text, model, claims):
    """Checks the table of so many claims that hold, the last of what is printed."""
    lines = text.splitlines()
    assert lines[:2] == [f"verify  digits, {model}, float32, 2 CPU replicas",
                         "        10 steps of 32 examples on 5 batches of each split"]
    table = lines[lines.index(next(line for line in lines if line.startswith("part"))):]
    assert max(map(len, table)) <= 80
    assert sum(line.endswith(" ok") for line in table) == claims
    assert re.fullmatch(rf"{claims} of {claims} claims hold, in \d+ s", table[-1])


@pytest.mark.acceptance
def test_every_claim_holds(whole):
    folder, done = whole
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = json.loads((folder / "proof.json").read_text())
    assert found["holds"] and (found["device"], found["replicas"]) == ("CPU", 2)
    assert {row["verdict"] for row in found["rows"]} == {"ok"}
    assert [row["part"] for row in found["rows"]] == (
        ["reduction"] + ["replicas"] * 3 + ["resume"] * 2 + ["infinite"] * 2 + ["ragged"] * 2)
    bounds = [row["bound"] for row in found["rows"]]
    assert bounds == [0, 1e-8, 1e-8, 1e-4, 0, 0, 0, 0, 0, 1e-10]
    parity = [row for row in found["rows"] if row["part"] == "replicas"]
    assert all("1 against 2 replicas" in row["compared"] for row in parity)
    assert all(row["difference"] < row["bound"] for row in parity)
    assert sum(row["difference"] > 0 for row in parity) >= 2  # Two computations, not one with itself.
    assert found["config"]["augment"] == ["crop", "mixup"]


@pytest.mark.acceptance
def test_the_killed_run_lost_steps_and_went_on(whole):
    folder, _ = whole
    compared = next(row["compared"] for row in rows(folder / "proof.json") if row["part"] == "resume")
    killed_at, resumed_from = map(int, re.search(r"after step (\d+), resumed from (\d+)", compared).groups())
    assert 0 < resumed_from <= killed_at < 10


@pytest.mark.acceptance
def test_it_says_what_it_does_and_prints_a_table(whole):
    folder, done = whole
    lines = done.stdout.splitlines()
    assert sum(line.startswith("done ") for line in lines) == sum(line.startswith("start ") for line in lines) == 4
    assert_shown(done.stdout, "three_apis", 10)
    assert os.listdir(folder) == ["proof.json"]


@pytest.mark.acceptance
def test_without_a_cure_its_part_is_violated(tmp_path):
    """Its processes start from nothing."""
    folder, done = tmp_path, verify_without((FIRST,), tmp_path, *SMALL, "--output=proof.json")
    part = PROVED[FIRST].part
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("mirrorline verify: VIOLATED: ") and done.stderr.count("\n") == 1
    assert re.search(f"(VIOLATED:|;) {part}: ", done.stderr)
    found = rows(folder / "proof.json")
    assert {row["part"] for row in found} == {part}
    violated = [row for row in found if row["verdict"] == "VIOLATED"]
    assert done.stdout.count("VIOLATED") == len(violated)
    of_it = [row for row in violated if row["part"] == part]
    assert of_it and all(row["compared"] != "what its process found" for row in of_it)  # Measured, not failed.


@pytest.mark.parametrize("arguments, line", quick([
    (["--only=replica"], "mirrorline verify: unknown part 'replica': did you mean 'replicas'? known: infinite, "),
    (["--only="], "mirrorline verify: --only is empty: "),
    (["--output=no/such/folder.json"], "mirrorline verify: --output=no/such/folder.json cannot be written: "),
    (["--verify_steps=5"], "mirrorline verify: --verify_steps=5 is too short: a run is killed in its middle, so it "
                           "needs a checkpoint, steps after it to lose, and an end; give at least 6"),
    (["--replicas=9"], "mirrorline verify: --replicas=9 without a GPU"),
    (["--replicas=3", "--only=infinite"], "mirrorline verify: --batch_size=32 does not divide by 3 replicas"),
], 0, 1, 2, 3, 4))
def test_wrong_use_is_one_line_and_leaves_nothing(arguments, line, tmp_path):
    done = mirrorline("verify", "--verbosity=quiet", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(line) and done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("gpus, options, expected", [
    (0, {}, ("CPU", 2)), (0, {"replicas": 1}, ("CPU", 1)), (0, {"batch_size": 63}, ("CPU", 3)),
    (0, {"batch_size": 30, "augment": ("mixup",)}, ("CPU", 3)), (0, {"batch_size": 24, "accumulate_steps": 8},
                                                                 ("CPU", 3)),
    (4, {}, ("GPU", 4)), (4, {"devices": ("0", "2")}, ("GPU", 2)), (4, {"replicas": 3}, ("GPU", 3)),
])
def test_replicas_are_those_asked_for_or_every_gpu_or_few_cpus(gpus, options, expected, monkeypatch):
    monkeypatch.setattr(cuda, "count_gpus", lambda: gpus)
    assert verify.choose_replicas(ExperimentConfig.from_flat({"batch_size": 64, **options})) == expected


@pytest.mark.acceptance  # In a process from nothing.
def test_gpus_are_counted_by_tensorflow(monkeypatch):
    monkeypatch.setattr(cuda, "hardware", lambda: "1 device file")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert cuda.count_gpus() == 0


def test_a_signal_ends_its_processes_and_clears_its_files(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    process = start("verify", *SMALL, "--only=resume", cwd=tmp_path)
    deadline = time.monotonic() + 600
    while not any("launch" in command and str(scratch) in command for command in running().values()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM
    assert not [command for command in running().values() if str(scratch) in command]
    assert os.listdir(scratch) == []


def running():
    """Returns {process id: command line} of every process that runs."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", encoding="utf-8", errors="replace") as file:
                found[name] = file.read().replace("\0", " ")
        except OSError:  # Gone meanwhile.
            continue
    return found


def test_points_of_unfreezing_are_moved_into_the_short_run():
    config = ExperimentConfig.from_flat(dict(freeze=("backbone",), unfreeze_at=("block2", "block3@2epochs", "50epochs"),
                                             epochs=90.0))
    short = verify.shortened(config, 10, 2)
    assert short.model.unfreeze_at == ("block2", "block3@3", "all@6") and short.training.steps == 10
    with pytest.raises(UsageError, match="--verify_steps=2 has no room for the 2 points of --unfreeze_at"):
        verify.moved(config.model.unfreeze_at, 2)
