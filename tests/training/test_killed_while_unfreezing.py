"""A run with --unfreeze_at that is killed at every moment around each point ends as the run nobody touched."""
import functools
import signal

import pytest

from tests.commands import REPOSITORY, assert_every_step_once, metrics, mirrorline, result, start
from tests.selection import quick

STEPS, POINTS = 12, (4, 8)
RUN = ("train", "--image_size=8", "--batch_size=16", "--subset=5", f"--steps={STEPS}", "--augment=crop:1",
       "--schedule=cosine", "--freeze=backbone", "--rewarmup=2", "--optimizer=adamw",
       "--weight_decay=0.01", "--ema_decay=0.9", "--evaluate_every=4", "--checkpoint_every=2",
       f"--extension={REPOSITORY}/tests/training/killed_at.py", "--callbacks=killed_at")
THAWS = {"cnn": "block3@4,all@8", "mlp": "hidden/w@4,all@8"}
LINES = {"cnn": "8 of 14 weights: 19,008 parameters stay", "mlp": "1 of 4 weights: 64 parameters stay"}
# Before and after each point, while its evaluation and its checkpoint are written, and while the next step is compiled.
AROUND = ((-1, "window", 0), (0, "window", 0), (0, "evaluation", 0), (0, "checkpoint", 0), (0, "window", 0.1),
          (0, "evaluation", 0.3), (0, "checkpoint", 0.6), (1, "window", 0), (2, "checkpoint", 0), (0, "window", 1.0))
MOMENTS = [f"{event}:{point + offset}:{seconds}" for point in POINTS for offset, event, seconds in AROUND]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns a function of (model, number of replicas) to the folder with the uninterrupted run."""
    @functools.cache
    def run(model, replicas):
        folder = tmp_path_factory.mktemp("whole")
        done = mirrorline(*command(model, replicas, "whole"), cwd=folder)
        assert done.returncode == 0, done.stderr
        for point, says in ((4, LINES[model]), (8, "none: all ")):
            assert f"frozen  after step {point}: {says}" in done.stdout
        return folder / "whole"

    return run


def command(model, replicas, workdir):
    return (*RUN, f"--model={model}", f"--unfreeze_at={THAWS[model]}", f"--replicas={replicas}", f"--workdir={workdir}")


@pytest.mark.parametrize("model, replicas, moment", quick(
    [(model, n, moment) for model, moments in (("mlp", MOMENTS), ("cnn", MOMENTS[1::5])) for n in (1, 2)
     for moment in moments]))
def test_a_run_killed_around_a_point_ends_with_the_same_weights(whole, tmp_path, model, replicas, moment):
    expected, arguments = whole(model, replicas), command(model, replicas, "killed")
    steps = () if moment.startswith("evaluation") else ("--steps_per_loop=1",)
    killed = start(*arguments, *steps, cwd=tmp_path, more={"KILL_AT": moment})
    _, errors = killed.communicate(timeout=600)
    assert killed.returncode == -signal.SIGKILL, errors
    last = mirrorline(*arguments, cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    assert_every_step_once(tmp_path / "killed", STEPS)
    for name in ("weights_sha256", "ema_weights_sha256", "test_loss", "best"):
        assert result(tmp_path / "killed")[name] == result(expected)[name]
    losses = [[r["loss"] for r in metrics(folder, "train")] for folder in (expected, tmp_path / "killed")]
    assert losses[0] == losses[1]
