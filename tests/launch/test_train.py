"""The main job as a user runs it: real processes, real files, real kills."""
import json
import os
import re
import signal
import subprocess
import time

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.commands import answers, assert_every_step_once, kill_at_step, metrics, mirrorline, result, start

# 44 steps: an evaluation at 15, 29 and 44, so that a resume passes over one.
QUICK = ("--dataset=digits", "--epochs=3", "--batch_size=100", "--checkpoint_every=7", "--schedule=cosine",
         "--augment=crop", "--learning_rate=1e-3")
CURVES = "--tensorboard=scalars"  # What else TensorBoard shows is looked at elsewhere, and takes a second of each run.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished run of mlp on 2 replicas in runs/whole, and what the command printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = mirrorline("train", *QUICK, "--model=mlp", "--replicas=2", "--workdir=runs/whole", cwd=folder)
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
    assert stored["config"]["model"] == "mlp" and len(stored["data"]["fingerprint"]) == 64
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
    again = mirrorline("train", *QUICK, "--model=mlp", "--replicas=2", "--workdir=runs/whole", cwd=folder)
    assert again.returncode == 0 and "is finished: step 44" in again.stdout
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "runs" / "whole").rglob("*") if p.is_file()}


@pytest.mark.acceptance
def test_evaluate_counts_every_example_once_whatever_the_batch(finished):
    folder, _ = finished
    found = result(folder / "runs" / "whole")
    done = mirrorline("evaluate", "--workdir=runs/whole", "--noreport", "--verbosity=quiet", "--batch_size=364",
                      "--replicas=4", cwd=folder)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["examples"] == 360 and figures["step"] == 44
    assert figures["accuracy"] == found["test_accuracy"]
    assert figures["loss"] == pytest.approx(found["test_loss"], rel=1e-5)


@pytest.mark.acceptance  # In make test test_evaluate names a checkpoint.
def test_evaluate_finds_the_best_and_a_named_checkpoint(finished):
    folder, _ = finished
    evaluations = metrics(folder / "runs" / "whole", "evaluation")
    best = max(evaluations, key=lambda r: (r["accuracy"], -r["step"]))
    steps = {"best": best["step"], "runs/whole/checkpoints/ckpt-42": 42}
    found = answers([("evaluate", "--workdir=runs/whole", f"--checkpoint={name}", "--noreport", "--verbosity=quiet")
                     for name in steps], folder)
    for (name, step), (code, shown, errors) in zip(steps.items(), found, strict=True):
        assert code == 0, errors
        figures = json.loads(shown)
        assert figures["step"] == step and figures["examples"] == 360
        if name == "best":
            assert figures["accuracy"] == best["accuracy"]


def test_a_run_that_was_terminated_and_killed_ends_with_the_same_weights(finished):
    folder, _ = finished
    command, run = ("train", *QUICK, "--model=mlp", "--replicas=2", "--workdir=runs/stopped", CURVES), (
        folder / "runs" / "stopped")
    code, errors = kill_at_step(start(*command, "--steps_per_loop=1", "--checkpoint_every=1000", cwd=folder), run, 10,
                                signal.SIGTERM)
    assert code == 75, errors
    stopped = result(run)
    assert stopped["status"] == "preempted" and f"stopped at step {stopped['step']} of 44" in errors
    assert kill_at_step(start(*command, "--steps_per_loop=1", cwd=folder), run, 31)[0] == -signal.SIGKILL
    reached = metrics(run, "train")[-1]["step"]
    assert reached < 44 and not (run / "result.json").exists()
    resumed = mirrorline(*command, "--steps_per_loop=3", cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    restored = int(re.search(r"resume .* step (\d+)", resumed.stdout)[1])
    assert stopped["step"] <= restored <= reached
    whole, found = result(folder / "runs" / "whole"), result(run)
    for name in ("weights_sha256", "test_loss", "train_loss", "best"):
        assert found[name] == whole[name]
    assert_every_step_once(run, 44)
    for goodput, launches, repeated in ((whole["goodput"], 1, 0), (found["goodput"], 3, reached - restored)):
        assert (goodput["launches"], goodput["steps_repeated"]) == (launches, repeated)
        assert (goodput["seconds"]["lost"] > 0) == (repeated > 0)
    assert set(found["goodput"]["seconds"]) == {"steps", "input", "lost", "compiling", "saving", "evaluating",
                                                "reporting", "profiling", "starting", "other"}
    assert found["goodput"]["seconds"]["compiling"] > 0 and 0 < found["goodput"]["share"] < 1


def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path):
    command = ("train", "--model=mlp", "--augment=", "--steps_per_loop=1", "--steps=100000", "--workdir=shared")
    first = start(*command, cwd=tmp_path)
    try:
        while not metrics(tmp_path / "shared"):
            assert first.poll() is None
            time.sleep(0.05)
        first.send_signal(signal.SIGSTOP)  # It waits, and still has the run.
        second = mirrorline(*command, cwd=tmp_path)
    finally:
        first.kill()
        first.communicate()
    assert second.returncode == 2 and f"process {first.pid}" in second.stderr and second.stderr.count("\n") == 1


def test_the_moving_average_is_asked_for_where_there_is_none(finished):
    folder, _ = finished
    for code, _, errors in answers([(command, "--workdir=runs/whole", "--ema") for command in ("evaluate", "export")],
                                   folder):
        assert code == 2 and errors.count("\n") == 1 and "--ema_decay" in errors


COSINE = ("train", "--model=mlp", "--schedule=cosine", "--learning_rate=0.01", "--augment=", "--workdir=run", CURVES)


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """(folder, {what: (exit code, standard output, standard error)}) of trainings one after another in one process."""
    folder = tmp_path_factory.mktemp("answered")
    lines = {
        "early": ("train", "--model=mlp", "--schedule=constant", "--learning_rate=1e-9", "--augment=",
                  "--early_stopping_patience=2", "--epochs=50", CURVES),
        "short": (*COSINE, "--steps=20"), "refused": (*COSINE, "--steps=40"),
        "longer": (*COSINE, "--steps=40", "--allow=steps"),
        "diverged": ("train", "--model=mlp", "--steps=6", "--schedule=constant", "--learning_rate=1e30",
                     "--optimizer=sgd", "--augment=", "--workdir=diverged", CURVES)}
    return folder, dict(zip(lines, answers(lines.values(), folder), strict=True))


def test_early_stopping_holds_a_part_out_and_stops(answered):
    folder, shown = answered
    assert shown["early"][0] == 0, shown["early"]
    found = result(folder / "runs" / "digits-mlp")
    assert found["status"] == "early_stopped" and found["selected_on"] == "validation"
    assert len(metrics(folder / "runs" / "digits-mlp", "evaluation")) == 3


@pytest.mark.acceptance
def test_a_finished_run_goes_on_under_a_constant_schedule(tmp_path):
    command = ("train", "--model=mlp", "--schedule=constant", "--augment=", "--workdir=run", "--precision=float32",
               CURVES)
    assert mirrorline(*command, "--steps=20", cwd=tmp_path).returncode == 0
    assert mirrorline(*command, "--steps=40", cwd=tmp_path).returncode == 0
    assert mirrorline(*command, "--steps=40", "--workdir=whole", cwd=tmp_path).returncode == 0
    assert result(tmp_path / "run")["weights_sha256"] == result(tmp_path / "whole")["weights_sha256"]
    assert_every_step_once(tmp_path / "run", 40)


def test_more_steps_under_a_schedule_are_accepted_with_the_rate_that_follows(answered):
    folder, found = answered
    assert found["short"][0] == 0, found["short"]
    code, _, errors = found["refused"]
    assert code == 2 and "20 steps (now 40 steps)" in errors
    code, shown, errors = found["longer"]
    assert code == 0, errors
    assert "steps was 20 steps, is 40 steps from here on; the learning rate of step 21 is 0.005" in shown
    rates = [r["learning_rate"] for r in metrics(folder / "run", "train")]
    assert rates[20] == pytest.approx(0.005) and len(rates) == 40  # Half of the cosine over 40 steps.
    starts = [json.loads(line) for line in (folder / "run" / "launches.jsonl").read_text().splitlines()]
    assert [e["allowed"] for e in starts if e["event"] == "start"] == [[], [["steps", "20 steps", "40 steps"]]]


def test_a_run_that_diverges_ends_with_a_result(answered):
    folder, found = answered
    code, _, errors = found["diverged"]
    assert "Traceback" not in errors and code == 0, errors
    assert result(folder / "diverged")["test_loss"] is None
    assert len(metrics(folder / "diverged", "train")) == 6


@pytest.mark.acceptance  # tests/training/test_preemption.py has it in one process.
def test_a_second_signal_ends_at_once(tmp_path):
    forever = 10**6
    process = start("train", "--model=mlp", f"--steps={forever}", f"--steps_per_loop={forever}", "--augment=",
                    f"--evaluate_every={forever}", f"--checkpoint_every={forever}", "--workdir=run", cwd=tmp_path)
    while not metrics(tmp_path / "run"):
        assert process.poll() is None
        time.sleep(0.05)
    # After a second of its own it is inside one long call of TensorFlow, where no Python handler runs.
    child = psutil.Process(process.pid)
    before = child.cpu_times().user
    while child.cpu_times().user < before + 1:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.acceptance
def test_a_start_that_was_killed_leaves_nothing_in_the_way(tmp_path):
    (tmp_path / "run").mkdir()
    for name in (".lock", "config.json.tmp", "launches.jsonl", "hang.txt"):
        (tmp_path / "run" / name).write_text("{")
    done = mirrorline("train", "--model=mlp", "--augment=", "--steps=2", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.acceptance
def test_unsynchronized_replicas_are_part_of_the_settings(tmp_path):
    command = ("train", "--model=mlp", "--nosync_batch_norm", "--schedule=constant", "--augment=",
               "--workdir=run", CURVES)
    assert mirrorline(*command, "--steps=2", "--replicas=2", cwd=tmp_path).returncode == 0
    refused = mirrorline(*command, "--steps=4", "--replicas=1", cwd=tmp_path)
    assert refused.returncode == 2 and "replicas 2 (now 1)" in refused.stderr and "--allow=replicas" in refused.stderr
