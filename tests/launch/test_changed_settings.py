"""A run that goes on with other settings, and one whose checkpoints have gone."""
import os
import shutil

import pytest

from tests.commands import metrics, mirrorline, result
from tests.selection import quick

TRAIN = ("train", "--model=mlp", "--batch_size=100", "--schedule=constant", "--augment=", "--optimizer=sgd",
         "--learning_rate=0.01", "--verbosity=quiet", "--tensorboard=scalars", "--workdir=run")


def succeed(*command, cwd):
    """Runs a command that has to end well; returns it completed."""
    done = mirrorline(*command, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    """A folder with a finished run of 20 steps in `run`, with checkpoints of 5, 10, 15 and 20."""
    folder = tmp_path_factory.mktemp("twenty")
    succeed(*TRAIN, "--steps=20", "--checkpoint_every=5", "--keep_checkpoints=4", cwd=folder)
    return folder


@pytest.fixture
def copy(twenty, tmp_path):
    """A folder with a copy of that run, to be changed."""
    shutil.copytree(twenty / "run", tmp_path / "run")
    return tmp_path


@pytest.mark.acceptance
def test_another_precision_takes_its_own_loss_scale(tmp_path):
    succeed(*TRAIN, "--steps=10", "--precision=mixed_float16", "--force", cwd=tmp_path)
    for steps, precision in ((14, "float32"), (18, "mixed_float16")):
        succeed(*TRAIN, f"--steps={steps}", f"--precision={precision}", "--force", "--allow=precision", cwd=tmp_path)
    records = metrics(tmp_path / "run", "train")
    assert all(r["gradient_norm"] is None or r["gradient_norm"] < 20 for r in records)
    assert records[9]["loss_scale"] == 2.0**15 == records[14]["loss_scale"] and "loss_scale" not in records[10]


@pytest.mark.acceptance
def test_another_best_metric_forgets_the_best_of_the_one_before(tmp_path):
    succeed(*TRAIN, "--steps=4", "--evaluate_every=2", "--best_metric=loss", cwd=tmp_path)
    succeed(*TRAIN, "--steps=40", "--evaluate_every=2", "--best_metric=accuracy", "--allow=best_metric", cwd=tmp_path)
    best = result(tmp_path / "run")["best"]
    accuracies = {r["step"]: r["accuracy"] for r in metrics(tmp_path / "run", "evaluation") if r["step"] > 4}
    assert best["accuracy"] == max(accuracies.values()) == accuracies[best["step"]]


def test_fewer_steps_than_are_done_end_the_run_where_it_is(copy):
    (copy / "run" / "result.json").unlink()
    succeed(*TRAIN, "--steps=12", "--checkpoint_every=5", "--keep_checkpoints=4", cwd=copy)
    assert (result(copy / "run")["status"], result(copy / "run")["step"]) == ("finished", 20)


@pytest.mark.parametrize("gone", quick(["checkpoints", "manifests"], 0))
def test_checkpoints_that_are_gone_are_no_fresh_start(copy, gone):
    (copy / "run" / "result.json").unlink()
    folder = copy / "run" / "checkpoints"
    if gone == "checkpoints":
        shutil.rmtree(folder)
    else:
        for name in os.listdir(folder):
            if name == "checkpoint" or name.endswith(".manifest.json"):
                (folder / name).unlink()
    before = sorted(os.listdir(folder)) if folder.exists() else None
    done = mirrorline(*TRAIN, "--steps=20", cwd=copy)
    assert done.returncode == 1 and "there was one of step 20" in done.stderr and done.stderr.count("\n") == 1
    assert (sorted(os.listdir(folder)) if folder.exists() else None) == before
    assert len(metrics(copy / "run", "train")) == 20


@pytest.mark.parametrize("name,old,new", quick([("ckpt-20.manifest.json", b'"bytes"', b'"bxtes"'),
                                                ("ckpt-20.manifest.json", b"64", b"65"),
                                                ("checkpoint", b"ckpt-20", b"ckp\xf4-20")], 2))
def test_a_flipped_bit_beside_the_data_is_recognized(copy, name, old, new):
    path = copy / "run" / "checkpoints" / name
    path.write_bytes(path.read_bytes().replace(old, new))
    (copy / "run" / "result.json").unlink()
    whole = result(succeeded_again(copy))
    assert whole["step"] == 24 and len(metrics(copy / "run", "train")) == 24


def succeeded_again(folder):
    """Trains the run in a folder on to step 24; returns its directory."""
    succeed(*TRAIN, "--steps=24", "--checkpoint_every=5", "--keep_checkpoints=4", cwd=folder)
    return folder / "run"
