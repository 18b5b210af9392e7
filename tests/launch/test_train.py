"""The main job as a user runs it: real processes, real files, real kills."""
import json
import os
import re
import signal
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.commands import assert_every_step_once, kill_at_step, metrics, mirrorline, result, start

# 44 steps: an evaluation at 15, 29 and 44, so that a resume passes over one.
QUICK = ("--dataset=digits", "--epochs=3", "--batch_size=100", "--checkpoint_every=7", "--schedule=cosine",
         "--augment=crop,mixup", "--learning_rate=1e-3")
CURVES = "--tensorboard=scalars"  # What else TensorBoard shows is looked at elsewhere, and takes a second of each run.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished run of three_apis on 2 replicas in runs/whole, and what the command printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = mirrorline("train", *QUICK, "--model=three_apis", "--replicas=2", "--workdir=runs/whole", cwd=folder,
                      fresh=True)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_writes_what_its_directory_promises(finished):
    folder, done = finished
    workdir = folder / "runs" / "whole"
    assert {"config.json", "metrics.jsonl", "launches.jsonl", "result.json", "checkpoints", "tensorboard"} <= set(
        os.listdir(workdir))
    found = result(workdir)
    assert (found["status"], found["step"], found["examples_seen"]) == ("finished", 44, 4400)
    assert len(found["weights_sha256"]) == 64 and found["examples_per_second"] > 0
    assert found["selected_on"] == "test" and found["test_examples"] == 360
    train = metrics(workdir, "train")
    last_epoch = [r["loss"] for r in train[-15:]]
    assert found["train_loss"] == pytest.approx(sum(last_epoch) / 15)
    evaluations = metrics(workdir, "evaluation")
    assert [r["step"] for r in evaluations] == [15, 29, 44]
    assert found["test_accuracy"] == evaluations[-1]["accuracy"]
    assert [r["examples"] for r in evaluations] == [360] * 3
    assert_every_step_once(workdir, 44)
    stored = json.loads((workdir / "config.json").read_text())
    assert stored["config"]["model"] == "three_apis" and len(stored["data"]["fingerprint"]) == 64
    # Nothing of TensorFlow's own chatter, and where to look.
    assert done.stderr == ""
    assert "mirrorline tensorboard --logdir=" in done.stdout and "runs/whole/result.json" in done.stdout


def test_tensorboard_shows_both_runs_on_one_axis(finished):
    folder, _ = finished

    def scalars(part):
        accumulator = EventAccumulator(str(folder / "runs" / "whole" / "tensorboard" / part))
        accumulator.Reload()
        return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}
    train, validation = scalars("train"), scalars("validation")
    assert {"loss", "accuracy", "learning_rate", "speed/examples_per_second"} <= set(train)
    assert {"loss", "accuracy"} <= set(validation) and [s for s, _ in validation["loss"]] == [15, 29, 44]
    assert train["learning_rate"][0][1] == pytest.approx(1e-3) and train["learning_rate"][-1][1] < 2e-5


def test_a_finished_run_says_so(finished):
    folder, _ = finished
    before = {p: p.stat().st_mtime_ns for p in (folder / "runs" / "whole").rglob("*") if p.is_file()}
    again = mirrorline("train", *QUICK, "--model=three_apis", "--replicas=2", "--workdir=runs/whole", cwd=folder)
    assert again.returncode == 0 and "is finished: step 44" in again.stdout
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "runs" / "whole").rglob("*") if p.is_file()}


def test_evaluate_counts_every_example_once_whatever_the_batch(finished):
    folder, _ = finished
    found = result(folder / "runs" / "whole")
    for more in (("--batch_size=37",), ("--batch_size=361", "--replicas=1"), ("--replicas=4", "--batch_size=64")):
        done = mirrorline("evaluate", "--workdir=runs/whole", "--noreport", "--verbosity=quiet", *more, cwd=folder)
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        assert figures["examples"] == 360 and figures["step"] == 44
        assert figures["accuracy"] == found["test_accuracy"]
        assert figures["loss"] == pytest.approx(found["test_loss"], rel=1e-5)


def test_evaluate_finds_the_best_and_a_named_checkpoint(finished):
    folder, _ = finished
    evaluations = metrics(folder / "runs" / "whole", "evaluation")
    best = max(evaluations, key=lambda r: (r["accuracy"], -r["step"]))
    for name, step in (("best", best["step"]), ("35", 35), ("runs/whole/checkpoints/ckpt-42", 42)):
        done = mirrorline("evaluate", "--workdir=runs/whole", f"--checkpoint={name}", "--noreport", "--verbosity=quiet",
                          cwd=folder)
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        assert figures["step"] == step and figures["examples"] == 360
        if name == "best":
            assert figures["accuracy"] == best["accuracy"]


@pytest.mark.parametrize("step,extra", [(9, ()), (31, ("--steps_per_loop=3",))])
def test_a_killed_run_ends_with_the_same_weights(finished, step, extra):
    folder, _ = finished
    command = ("train", *QUICK, "--model=three_apis", "--replicas=2", f"--workdir=runs/killed{step}", CURVES, *extra)
    code, _ = kill_at_step(start(*command, "--steps_per_loop=1", cwd=folder), folder / "runs" / f"killed{step}", step)
    assert code == -signal.SIGKILL
    assert max(r["step"] for r in metrics(folder / "runs" / f"killed{step}", "train")) < 44
    resumed = mirrorline(*command, cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    if step > 14:  # The first checkpoint may still have been on its way to the disk.
        assert 0 < int(re.search(r"resume .* step (\d+)", resumed.stdout)[1]) <= step
    whole, killed = result(folder / "runs" / "whole"), result(folder / "runs" / f"killed{step}")
    assert killed["weights_sha256"] == whole["weights_sha256"]
    assert killed["test_loss"] == whole["test_loss"] and killed["train_loss"] == whole["train_loss"]
    assert killed["best"] == whole["best"]
    assert_every_step_once(folder / "runs" / f"killed{step}", 44)


def test_a_terminated_run_saves_and_is_resumed(finished):
    folder, _ = finished
    command = ("train", *QUICK, "--model=three_apis", "--replicas=2", "--workdir=runs/stopped", CURVES)
    code, errors = kill_at_step(start(*command, "--steps_per_loop=1", "--checkpoint_every=1000", cwd=folder),
                                folder / "runs" / "stopped", 10, signal.SIGTERM)
    assert code == 75, errors
    stopped = result(folder / "runs" / "stopped")
    assert stopped["status"] == "preempted" and f"stopped at step {stopped['step']} of 44" in errors
    assert mirrorline(*command, cwd=folder).returncode == 0
    assert result(folder / "runs" / "stopped")["weights_sha256"] == result(folder / "runs" / "whole")["weights_sha256"]


def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path):
    command = ("train", *QUICK, "--model=mlp", "--steps_per_loop=1", "--workdir=shared")
    command = tuple(a for a in command if not a.startswith("--epochs")) + ("--steps=100000",)
    first = start(*command, cwd=tmp_path)
    try:
        while not metrics(tmp_path / "shared"):
            assert first.poll() is None
        second = mirrorline(*command, cwd=tmp_path)
    finally:
        first.kill()
        first.communicate()
    assert second.returncode == 2 and f"process {first.pid}" in second.stderr and second.stderr.count("\n") == 1


def test_early_stopping_holds_a_part_out_and_stops(tmp_path):
    command = ("train", "--model=mlp", "--schedule=constant", "--learning_rate=1e-9", "--augment=",
               "--early_stopping_patience=2", "--epochs=50", CURVES)
    done = mirrorline(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = result(tmp_path / "runs" / "digits-mlp")
    assert found["status"] == "early_stopped" and found["selected_on"] == "validation"
    assert len(metrics(tmp_path / "runs" / "digits-mlp", "evaluation")) == 3
    again = mirrorline(*command, cwd=tmp_path)
    assert again.returncode == 0 and "is finished" in again.stdout


def test_a_finished_run_goes_on_under_a_constant_schedule(tmp_path):
    command = ("train", "--model=mlp", "--schedule=constant", "--augment=", "--workdir=run", "--precision=float32",
               CURVES)
    assert mirrorline(*command, "--steps=20", cwd=tmp_path).returncode == 0
    code, _ = kill_at_step(start(*command, "--steps=40", "--steps_per_loop=1", cwd=tmp_path), tmp_path / "run", 25)
    assert code == -signal.SIGKILL
    assert not (tmp_path / "run" / "result.json").exists()  # It is no longer the result of what is stored.
    assert mirrorline(*command, "--steps=40", cwd=tmp_path).returncode == 0
    assert mirrorline(*command, "--steps=40", "--workdir=whole", cwd=tmp_path).returncode == 0
    assert result(tmp_path / "run")["weights_sha256"] == result(tmp_path / "whole")["weights_sha256"]
    assert_every_step_once(tmp_path / "run", 40)


def test_more_steps_under_a_schedule_are_accepted_with_the_rate_that_follows(tmp_path):
    command = ("train", "--model=mlp", "--schedule=cosine", "--learning_rate=0.01", "--augment=", "--workdir=run",
               CURVES)
    assert mirrorline(*command, "--steps=20", cwd=tmp_path).returncode == 0
    refused = mirrorline(*command, "--steps=40", cwd=tmp_path)
    assert refused.returncode == 2 and "20 steps (now 40 steps)" in refused.stderr
    done = mirrorline(*command, "--steps=40", "--allow=steps", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "steps was 20 steps, is 40 steps from here on; the learning rate of step 21 is 0.005" in done.stdout
    rates = [r["learning_rate"] for r in metrics(tmp_path / "run", "train")]
    assert rates[20] == pytest.approx(0.005) and len(rates) == 40  # Half of the cosine over 40 steps.
    starts = [json.loads(line) for line in (tmp_path / "run" / "launches.jsonl").read_text().splitlines()]
    assert [e["allowed"] for e in starts if e["event"] == "start"] == [[], [["steps", "20 steps", "40 steps"]]]


def test_a_stop_in_the_middle_of_an_evaluation_is_not_kept_waiting(finished):
    folder, _ = finished
    command = ("train", *QUICK, "--model=three_apis", "--replicas=2", "--workdir=runs/middle", CURVES)
    # The first part of the first evaluation, one batch of four, is traced, which takes most of a second.
    process, middle = start(*command, "--steps_per_loop=1", cwd=folder), folder / "runs" / "middle"
    while not metrics(middle) or metrics(middle)[-1]["step"] < 15:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and "stopped at step 15 of 44" in errors, errors
    assert time.monotonic() - began < 10
    assert metrics(middle, "evaluation") == []
    assert mirrorline(*command, cwd=folder).returncode == 0
    stopped, whole = result(middle), result(folder / "runs" / "whole")
    assert (stopped["weights_sha256"], stopped["best"]) == (whole["weights_sha256"], whole["best"])
    assert [(r["step"], r["loss"]) for r in metrics(middle, "evaluation")] == [
        (r["step"], r["loss"]) for r in metrics(folder / "runs" / "whole", "evaluation")]


def test_goodput_counts_what_a_kill_has_cost(finished):
    folder, _ = finished
    command = ("train", *QUICK, "--model=three_apis", "--workdir=runs/goodput", "--steps_per_loop=1", CURVES)
    code, _ = kill_at_step(start(*command, cwd=folder, fresh=True), folder / "runs" / "goodput", 18)
    assert code == -signal.SIGKILL
    reached = metrics(folder / "runs" / "goodput", "train")[-1]["step"]
    again = mirrorline(*command, cwd=folder, fresh=True)
    assert again.returncode == 0, again.stderr
    restored = int(re.search(r"resume .* step (\d+)", again.stdout)[1])
    found = result(folder / "runs" / "goodput")["goodput"]
    assert (found["launches"], found["steps_repeated"]) == (2, reached - restored)
    assert set(found["seconds"]) == {"steps", "input", "lost", "compiling", "saving", "evaluating", "reporting",
                                     "profiling", "starting", "other"}
    assert (found["seconds"]["lost"] > 0) == (reached > restored)
    assert found["seconds"]["starting"] > 2 and found["seconds"]["compiling"] > 0.5
    assert 0 < found["share"] < 1
    whole = result(folder / "runs" / "whole")["goodput"]
    assert (whole["launches"], whole["steps_repeated"], whole["seconds"]["lost"]) == (1, 0, 0)


def test_a_run_that_diverges_ends_with_a_result(tmp_path):
    done = mirrorline("train", "--model=mlp", "--steps=6", "--schedule=constant", "--learning_rate=1e30",
                      "--optimizer=sgd", "--workdir=run", CURVES, cwd=tmp_path)
    assert "Traceback" not in done.stderr and done.returncode == 0, done.stderr
    assert result(tmp_path / "run")["test_loss"] is None
    assert len(metrics(tmp_path / "run", "train")) == 6


def test_a_second_signal_ends_at_once(tmp_path):
    process = start("train", "--model=cnn", "--steps=4000", "--batch_size=256", "--steps_per_loop=2000",
                    "--evaluate_every=4000", "--checkpoint_every=4000", "--workdir=run", cwd=tmp_path)
    while not metrics(tmp_path / "run"):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)  # It is inside one long call of TensorFlow, where no Python handler runs.
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM


def test_a_start_that_was_killed_leaves_nothing_in_the_way(tmp_path):
    (tmp_path / "run").mkdir()
    for name in (".lock", "config.json.tmp", "launches.jsonl", "hang.txt"):
        (tmp_path / "run" / name).write_text("{")
    done = mirrorline("train", "--model=mlp", "--steps=2", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_unsynchronized_replicas_are_part_of_the_settings(tmp_path):
    command = ("train", "--model=three_apis", "--nosync_batch_norm", "--schedule=constant", "--workdir=run", CURVES)
    assert mirrorline(*command, "--steps=2", "--replicas=2", cwd=tmp_path).returncode == 0
    refused = mirrorline(*command, "--steps=4", "--replicas=1", cwd=tmp_path)
    assert refused.returncode == 2 and "replicas 2 (now 1)" in refused.stderr
    assert mirrorline(*command, "--steps=4", "--replicas=1", "--allow=replicas", cwd=tmp_path).returncode == 0


def test_the_first_step_comes_within_15_seconds_of_the_start(tmp_path):
    began = time.time()
    done = mirrorline("train", "--model=cnn", "--steps=1", "--evaluate_every=1000", "--workdir=run", cwd=tmp_path,
                      fresh=True)
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path / "run", "train")[0]["wall_time"] - began < 15
