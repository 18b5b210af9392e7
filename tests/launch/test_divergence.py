"""What a user sees of a run that diverges: back to a good checkpoint, or an end that says where it began."""
import json
import signal

import pytest

from tests.commands import assert_every_step_once, kill_at_step, metrics, mirrorline, result, start

# At a rate of 100 the loss is beyond 50 from the second step on; at a thousandth of it the run trains.
DIVERGING = ("train", "--model=mlp", "--optimizer=sgd", "--learning_rate=100", "--schedule=constant", "--augment=",
             "--batch_size=100", "--steps=40", "--evaluate_every=20", "--checkpoint_every=6", "--divergence_steps=3",
             "--loss_limit=50", "--tensorboard=scalars")


def events(workdir, name):
    """Returns the records of one kind in launches.jsonl."""
    records = [json.loads(line) for line in (workdir / "launches.jsonl").read_text().splitlines()]
    return [r for r in records if r["event"] == name]


@pytest.fixture(scope="module")
def healed(tmp_path_factory):
    """A folder with a run that diverged once and finished in `whole`, and the output of the command."""
    folder = tmp_path_factory.mktemp("healed")
    done = mirrorline(*DIVERGING, "--rollback_factor=0.001", "--workdir=whole", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_rollback_lowers_the_rate_and_the_run_finishes(healed):
    folder, done = healed
    assert "the training loss diverged in steps 2 to 4" in done.stderr and "layer mlp/" in done.stderr
    assert "back to step 0 with 0.001 times the learning rate (rollback 1 of 3)" in done.stderr
    found = result(folder / "whole")
    assert (found["status"], found["rollbacks"], found["learning_rate_factor"]) == (
        "finished", 1, pytest.approx(1e-3))
    assert found["test_accuracy"] > 0.8 and found["goodput"]["rollbacks"] == 1
    assert found["goodput"]["steps_repeated"] >= 4 and found["goodput"]["seconds"]["lost"] > 0
    assert_every_step_once(folder / "whole", 40)
    assert all(r["learning_rate"] == pytest.approx(0.1) for r in metrics(folder / "whole", "train"))
    (event,) = events(folder / "whole", "rollback")
    assert (event["step"], event["from_step"], event["to_step"]) == (0, 2, 4)


@pytest.mark.acceptance
def test_a_run_killed_after_a_rollback_ends_the_same(healed):
    folder, _ = healed
    command = (*DIVERGING, "--rollback_factor=0.001", "--workdir=killed")
    code, _ = kill_at_step(start(*command, "--steps_per_loop=1", cwd=folder), folder / "killed", 9)
    assert code == -signal.SIGKILL and max(r["step"] for r in metrics(folder / "killed", "train")) < 40
    again = mirrorline(*command, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert result(folder / "killed")["weights_sha256"] == result(folder / "whole")["weights_sha256"]
    assert result(folder / "killed")["rollbacks"] == 1
    assert_every_step_once(folder / "killed", 40)


@pytest.mark.acceptance
def test_after_the_last_rollback_the_run_ends_and_says_where_it_began(tmp_path):
    done = mirrorline(*DIVERGING, "--rollback_factor=0.9", "--max_rollbacks=2", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 1
    *rollbacks, last = done.stderr.splitlines()
    assert len(rollbacks) == 2 and "0.81 times the learning rate" in rollbacks[1]
    assert "diverged in steps 2 to 4" in last and "after 2 rollbacks" in last and "layer mlp/" in last
    assert not (tmp_path / "run" / "result.json").exists()
    assert [e["from_step"] for e in events(tmp_path / "run", "diverged")] == [2]


@pytest.mark.acceptance
def test_stop_ends_at_the_first_divergence_and_ignore_goes_on(tmp_path):
    stopped = mirrorline(*DIVERGING, "--on_divergence=stop", "--workdir=stopped", cwd=tmp_path)
    assert stopped.returncode == 1 and len(stopped.stderr.splitlines()) == 1 and "steps 2 to 4" in stopped.stderr
    # The same directory can be continued with another policy.
    ignored = mirrorline(*DIVERGING, "--on_divergence=ignore", "--workdir=stopped", cwd=tmp_path)
    assert ignored.returncode == 0 and ignored.stderr == ""
    assert result(tmp_path / "stopped")["rollbacks"] == 0 and result(tmp_path / "stopped")["step"] == 40


@pytest.mark.acceptance
def test_a_stop_before_the_divergence_does_not_change_where_it_goes_back_to(tmp_path):
    # The rate rises: a checkpoint that the stop leaves at step 4 is one that an uninterrupted run does not have.
    command = ("train", "--model=mlp", "--optimizer=sgd", "--learning_rate=100", "--warmup=200", "--schedule=constant",
               "--augment=", "--batch_size=100", "--evaluate_every=100", "--checkpoint_every=20", "--steps=60",
               "--divergence_steps=5", "--loss_limit=4", "--rollback_factor=0.01", "--tensorboard=scalars")
    whole = mirrorline(*command, "--workdir=whole", cwd=tmp_path)
    assert whole.returncode == 0 and "back to step 0" in whole.stderr, whole.stderr
    code, errors = kill_at_step(start(*command, "--workdir=stopped", "--steps_per_loop=1", cwd=tmp_path),
                                tmp_path / "stopped", 3, signal.SIGTERM)
    assert code == 75, errors
    again = mirrorline(*command, "--workdir=stopped", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert result(tmp_path / "stopped")["weights_sha256"] == result(tmp_path / "whole")["weights_sha256"]
    assert_every_step_once(tmp_path / "stopped", 60)


@pytest.mark.acceptance
def test_the_best_is_kept_though_its_step_had_diverged(tmp_path):
    command = ("train", "--model=mlp", "--optimizer=sgd", "--learning_rate=0.05", "--schedule=constant", "--augment=",
               "--batch_size=16", "--evaluate_every=10", "--checkpoint_every=1000", "--steps=60", "--loss_limit=0.01",
               "--divergence_steps=100", "--tensorboard=scalars", "--workdir=run")
    assert mirrorline(*command, cwd=tmp_path).returncode == 0
    best = result(tmp_path / "run")["best"]
    output = mirrorline("evaluate", "--workdir=run", "--checkpoint=best", "--noreport", "--verbosity=quiet",
                        cwd=tmp_path)
    assert {key: json.loads(output.stdout)[key] for key in best} == best
