"""The real command with --profile: what it shows, and that the run is the same."""
import json
import signal

import pytest

from tests.commands import answers, assert_every_step_once, kill_at_step, metrics, mirrorline, result, start

TRAIN = ("train", "--model=cnn", "--image_size=8", "--batch_size=32", "--steps=24",
         "--evaluate_every=8", "--checkpoint_every=8", "--steps_per_loop=3", "--seed=5", "--tensorboard=scalars")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The result of the run without a profile."""
    folder = tmp_path_factory.mktemp("whole")
    done = mirrorline(*TRAIN, "--workdir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not list((folder / "run").glob("profile*"))
    assert result(folder / "run")["goodput"]["seconds"]["profiling"] == 0
    return result(folder / "run")


def traces(workdir):
    """Returns the names of the traces that TensorBoard finds."""
    return {path.parent.name for path in workdir.glob("tensorboard/train/plugins/profile/*/*.xplane.pb")}


def profile(workdir):
    """Returns what profile.json holds, once its shares are seen to add up."""
    found = json.loads((workdir / "profile.json").read_text())
    assert sum(row["step_share"] for row in found["operations"]) + found["idle_share"] == pytest.approx(1, abs=1e-6)
    return found


def test_a_profile_is_shown_and_changes_nothing(tmp_path):
    train = ("train", "--model=mlp", "--batch_size=32", "--steps=6", "--steps_per_loop=2", "--tensorboard=scalars")
    (_, _, _), (code, output, errors) = answers([(*train, "--workdir=plain"),
                                                 (*train, "--workdir=run", "--profile=2:5")], tmp_path)
    assert (code, errors) == (0, "")
    assert result(tmp_path / "run")["weights_sha256"] == result(tmp_path / "plain")["weights_sha256"]
    found = profile(tmp_path / "run")
    assert found["steps"] == [3, 5] and any("MatMul" in row["operation"] for row in found["operations"])
    assert (tmp_path / "run" / "profile.txt").read_text() in output and traces(tmp_path / "run")
    assert result(tmp_path / "run")["goodput"]["seconds"]["profiling"] > 0


@pytest.mark.acceptance
def test_a_profile_says_what_is_expensive_and_changes_nothing(whole, tmp_path):
    done = mirrorline(*TRAIN, "--profile=5:10", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "run")["weights_sha256"] == whole["weights_sha256"]
    found = profile(tmp_path / "run")
    assert found["steps"] == [6, 10] and found["notes"] == [] and 0 <= found["input_wait_share"] <= 1
    convolutions = [row for row in found["operations"] if row["operation"].startswith("Conv2D")]
    assert {"Conv2D", "Conv2DBackpropFilter", "Conv2DBackpropInput"} <= {row["operation"] for row in convolutions}
    assert sum(row["operations_share"] for row in convolutions) > 0
    assert {row["calls_per_step"] for row in convolutions} <= {2, 3}  # Once a layer and step: no step too many.
    assert all("/block" in row["example"] for row in convolutions)
    table = (tmp_path / "run" / "profile.txt").read_text()
    assert table in done.stdout and table.startswith("profile of steps 6 to 10: ") and "Conv2DBackpropFilter" in table
    assert traces(tmp_path / "run") == {"steps_6_to_8", "steps_9_to_10"}  # The evaluation between is not looked into.
    assert [r["step"] for r in metrics(tmp_path / "run", "train") if "examples_per_second" in r] == [
        4, 5, 13, 16, 19, 22, 24]
    assert result(tmp_path / "run")["goodput"]["seconds"]["profiling"] > 0


@pytest.mark.acceptance
def test_a_run_stopped_in_the_window_shows_its_steps_and_goes_on_with_the_others(whole, tmp_path):
    command = (*TRAIN, "--profile=9:23", "--workdir=run", "--steps_per_loop=1")
    code, errors = kill_at_step(start(*command, cwd=tmp_path), tmp_path / "run", 11, signal.SIGTERM)
    assert code == 75 and len(errors.splitlines()) == 1, errors
    first, stopped = profile(tmp_path / "run")["steps"]
    assert first == 10 and 11 <= stopped < 23 and result(tmp_path / "run")["step"] == stopped
    again = mirrorline(*command, cwd=tmp_path)
    assert again.returncode == 0 and again.stderr == "", again.stderr
    found = profile(tmp_path / "run")
    assert found["steps"] == [stopped + 1, 23] and "traced and compiled" in found["notes"][0]
    assert result(tmp_path / "run")["weights_sha256"] == whole["weights_sha256"]
    assert_every_step_once(tmp_path / "run", 24)


@pytest.mark.acceptance
def test_a_rollback_in_a_window_beyond_the_end_and_a_window_that_is_none(tmp_path):
    done = mirrorline("train", "--model=mlp", "--optimizer=sgd", "--learning_rate=100", "--schedule=constant",
                      "--augment=", "--batch_size=100", "--steps=20", "--divergence_steps=3", "--loss_limit=50",
                      "--rollback_factor=0.001", "--profile=1:30", "--tensorboard=scalars", "--workdir=run",
                      cwd=tmp_path)
    assert done.returncode == 0 and "back to step 0" in done.stderr, done.stderr
    assert profile(tmp_path / "run")["steps"] == [2, 20] and result(tmp_path / "run")["rollbacks"] == 1
    refused = mirrorline("train", "--profile=4:2", "--workdir=none", cwd=tmp_path)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1 and not (tmp_path / "none").exists()
