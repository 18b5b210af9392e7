"""A run with --ema_decay: its averaged weights are what is evaluated, selected and used, and every headline says so."""
import json
import signal

import pytest

from pipeline.models.identity import weights_sha256
from pipeline.runs import load
from tests.commands import answers, kill_at_step, metrics, result, start, succeed

STEPS = ("--dataset=digits", "--model=mlp", "--batch_size=16", "--subset=10", "--steps=12", "--evaluate_every=3",
         "--checkpoint_every=3", "--keep_checkpoints=9", "--schedule=constant", "--learning_rate=0.03", "--augment=",
         "--steps_per_loop=1", "--validation_split=0.1", "--tensorboard=scalars")
TRAIN = ("train", *STEPS, "--ema_decay=0.99")
AVERAGE = "moving average of the weights"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the run `whole`; the output of its command is in `output`."""
    folder = tmp_path_factory.mktemp("average")
    (folder / "output").write_text(succeed(*TRAIN, "--workdir=whole", cwd=folder).stdout)
    return folder


def figures(folder, *lines):
    """Returns what evaluations of one process print, one for each line of flags."""
    found = answers([("evaluate", "--noreport", "--verbosity=quiet", *line) for line in lines], folder)
    assert [code for code, _, _ in found] == [0] * len(lines), found
    return [json.loads(output) for _, output, _ in found]


def test_it_is_what_a_run_evaluates_selects_and_reports(folder):
    found, output = result(folder / "whole"), (folder / "output").read_text()
    assert found["evaluated_weights"] == AVERAGE and found["ema_weights_sha256"] != found["weights_sha256"]
    finished, = [line for line in output.splitlines() if line.startswith("finished: ")]
    assert f"({AVERAGE})" in finished and f"the final metrics are of the {AVERAGE}" in output
    evaluations = metrics(folder / "whole", "evaluation")
    assert {record["weights"] for record in evaluations} == {AVERAGE}
    record = evaluations[0]
    line = ("evaluate", "--noreport", "--workdir=whole")
    early = (*line, "--verbosity=quiet", f"--checkpoint={record['step']}", "--split=validation")
    shown = answers([early, (*early, "--noema"), line], folder)
    averaged, plain = (json.loads(printed) for _, printed, _ in shown[:2])
    assert averaged["loss"] == record["loss"] != plain["loss"]
    assert (averaged["weights"], plain["weights"]) == (AVERAGE, "as trained")
    best = min(evaluations, key=lambda r: (-r["accuracy"], r["step"]))
    assert found["best"] == {"step": best["step"], "accuracy": best["accuracy"]}
    assert f"step 12, {AVERAGE}, on test" in shown[2][1]


def test_a_loaded_model_has_it(folder):
    found, run = result(folder / "whole"), str(folder / "whole")
    assert weights_sha256(load(run).model) == found["ema_weights_sha256"] == weights_sha256(load(run, ema=True).model)
    assert weights_sha256(load(run, ema=False).model) == found["weights_sha256"]


@pytest.mark.acceptance  # In make test tests/launch/test_export.py exports one of another run.
def test_an_export_is_of_it(folder):
    found = result(folder / "whole")
    done = succeed("export", "--workdir=whole", "--format=weights", "--nolatency", cwd=folder)
    assert f"model   mlp at step 12, {AVERAGE}" in done.stdout
    about = json.loads((folder / "whole/export/weights/1/metadata.json").read_text())
    assert about["weights_sha256"] == found["ema_weights_sha256"] and about["checkpoint"]["weights"] == AVERAGE


@pytest.mark.acceptance
def test_it_changes_no_training_and_resumes_exactly(folder):
    succeed("train", *STEPS, "--workdir=plain", cwd=folder)
    plain, whole = result(folder / "plain"), result(folder / "whole")
    assert plain["weights_sha256"] == whole["weights_sha256"] and "ema_weights_sha256" not in plain
    assert plain["evaluated_weights"] == "as trained" and plain["test_loss"] != whole["test_loss"]
    code, errors = kill_at_step(start(*TRAIN, "--workdir=killed", cwd=folder), folder / "killed", 7)
    assert code == -signal.SIGKILL, errors
    succeed(*TRAIN, "--workdir=killed", cwd=folder)
    killed = result(folder / "killed")
    for name in ("weights_sha256", "ema_weights_sha256", "best", "test_loss", "validation_loss"):
        assert killed[name] == whole[name], name


@pytest.mark.acceptance
def test_a_run_begun_before_goes_on_with_the_weights_as_trained(folder):
    succeed(*TRAIN, "--workdir=before", "--steps=6", cwd=folder)
    path = folder / "before" / "config.json"
    stored = json.loads(path.read_text())
    del stored["evaluated_weights"]  # As it was written before the average was evaluated.
    path.write_text(json.dumps(stored))
    done = succeed(*TRAIN, "--workdir=before", cwd=folder)
    assert "are of the weights as trained, as when this run was begun" in done.stdout
    assert [record.get("weights") for record in metrics(folder / "before", "evaluation")] == [AVERAGE] * 2 + [None] * 2
    found, (plain, averaged) = result(folder / "before"), figures(folder, ("--workdir=before",),
                                                                  ("--workdir=before", "--ema"))
    assert found["test_loss"] == plain["loss"] and plain["weights"] == "as trained"
    assert found["weights_sha256"] == result(folder / "whole")["weights_sha256"]
    assert averaged["loss"] == result(folder / "whole")["test_loss"]
