"""mirrorline evaluate on real runs: the report, other runs beside, views, means of checkpoints, and wrong use."""
import json
import shutil

import numpy as np
import pytest
from sklearn import metrics

from tests.commands import metrics as recorded
from tests.commands import mirrorline, result

# 12 steps with checkpoints at 4, 8 and 12; flipped digits, so that a mirrored view is one the model knows.
TRAIN = ("train", "--model=mlp", "--batch_size=60", "--steps=12", "--checkpoint_every=4", "--evaluate_every=4",
         "--schedule=constant", "--learning_rate=3e-3", "--augment=flip", "--tensorboard=scalars")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two runs of other seeds, `first` and `second`, and `held`, which held a part of training out."""
    folder = tmp_path_factory.mktemp("evaluated")
    for name, more in (("first", ()), ("second", ("--seed=1",)), ("held", ("--validation_split=0.2",))):
        done = mirrorline(*TRAIN, f"--workdir={name}", *more, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def succeed(*arguments, cwd):
    done = mirrorline("evaluate", *arguments, cwd=cwd)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def compared(trained):
    """What evaluate says of `first` beside `second`, and its report."""
    said = succeed("--workdir=first", "--compare=second", cwd=trained)
    return said, json.loads((trained / "first" / "report" / "report.json").read_text())


def outputs(workdir, average=1):
    """Returns (function of images to float64 probabilities, images, labels) of a run and the digits' test split."""
    from pipeline.data.digits import load_digits
    from pipeline.data.stream import examples
    from pipeline.trained import TrainedModel
    from pipeline.training.run_directory import RunDirectory
    model = TrainedModel.load(RunDirectory(str(workdir)), average=average)
    return lambda images: model.probabilities(images).astype(np.float64), *examples(load_digits(None).test,
                                                                                   np.arange(360))


def test_the_report_says_what_training_said_and_what_scikit_learn_says(trained, compared):
    _, report = compared
    headline, known = {item["name"]: item for item in report["headline"]}, result(trained / "first")
    assert headline["accuracy"]["value"] == known["test_accuracy"] and headline["loss"]["value"] == known["test_loss"]
    predict, images, labels = outputs(trained / "first")
    probabilities = predict(images)
    predicted = probabilities.argmax(axis=1)
    assert report["confusion"] == metrics.confusion_matrix(labels, predicted).tolist()
    expected = metrics.classification_report(labels, predicted, output_dict=True)
    assert [[c[k] for k in ("precision", "recall", "f1", "support")] for c in report["per_class"]] == [
        list(expected[str(i)].values()) for i in range(10)]
    assert headline["macro ROC AUC"]["value"] == pytest.approx(
        metrics.roc_auc_score(labels, probabilities, multi_class="ovr"), abs=1e-6)
    assert report["pr"]["macro"]["area"] == pytest.approx(
        metrics.average_precision_score(np.eye(10)[labels], probabilities), abs=1e-5)
    assert report["calibration"]["before"]["nll"] == pytest.approx(known["test_loss"], rel=1e-5)
    mistake = report["mistakes"][0]
    assert str(predicted[mistake["index"]]) == mistake["predicted"] != mistake["true"] == str(labels[mistake["index"]])
    assert mistake["confidence"] == pytest.approx(probabilities[mistake["index"]].max(), abs=1e-5)


def test_the_report_says_where_the_model_is_from(trained, compared):
    _, report = compared
    known, run = result(trained / "first"), report["run"]
    assert run["weights_sha256"] == known["weights_sha256"] and (run["step"], run["checkpoint"]) == (12, "ckpt-12")
    assert (run["parameters"], run["status"], run["selected_on"], run["weights"]) == (
        50_890, "finished", "test", "as trained")
    assert run["changed"]["augment"] == ["flip"] and run["config"]["learning_rate"] == 3e-3
    assert report["command"].startswith("mirrorline evaluate ")
    assert set(report["command"].split()[2:]) == {"--compare=second", "--workdir=first"}
    assert report["goodput"] == known["goodput"] and report["cost"]["examples_seen"] == 720
    # Three times a forward pass: two operations for each weight of the two matrices.
    assert report["cost"]["training_flops"] == 3 * 2 * (784 * 64 + 64 * 10) * 720
    train = recorded(trained / "first", "train")
    assert report["curves"]["train"]["loss"] == [r["loss"] for r in train]
    assert report["curves"]["evaluation"]["test"]["step"] == [4, 8, 12]


def test_two_runs_are_compared_on_the_same_examples(trained, compared):
    said, report = compared
    (predict, images, labels), (other, _, _) = outputs(trained / "first"), outputs(trained / "second")
    ours, theirs = (p(images).argmax(axis=1) == labels for p in (predict, other))
    second = report["compared"][0]
    assert second["name"] == "second" and second["accuracy"] == result(trained / "second")["test_accuracy"]
    assert second["only_this_right"] == (theirs & ~ours).sum() and second["both_wrong"] == (~theirs & ~ours).sum()
    from scipy.stats import binomtest
    discordant = int((theirs != ours).sum())
    p_value = binomtest(int((theirs & ~ours).sum()), discordant).pvalue
    assert second["mcnemar_p"] == pytest.approx(p_value)
    assert (p_value < 0.05) == ("the first, beyond chance" in second["verdict"])
    assert second["verdict"] in said and f"{second['accuracy']:.2%}" in said
    assert (trained / "first" / "report" / "index.html").stat().st_size > 10_000 and "report/index.html" in said
    assert not (trained / "second" / "report").exists()


def test_a_temperature_is_fitted_on_what_was_held_out(trained):
    said = succeed("--workdir=held", "--report=elsewhere/held", "--verbosity=quiet", cwd=trained)
    assert json.loads(said)["accuracy"] == result(trained / "held")["test_accuracy"]
    report = json.loads((trained / "elsewhere" / "held" / "report.json").read_text())
    assert report["calibration"]["fitted_on"] == "the validation split, 287 examples"
    assert report["run"]["selected_on"] == "validation" and not (trained / "held" / "report").exists()
    assert (trained / "elsewhere" / "held" / "index.html").exists()


def test_views_and_means_of_checkpoints(trained):
    said = json.loads(succeed("--workdir=first", "--tta=3", "--average_checkpoints=2", "--report=averaged",
                              "--verbosity=quiet", "--replicas=2", "--batch_size=70", cwd=trained))
    predict, images, labels = outputs(trained / "first", average=2)
    shifted = np.pad(images, [(0, 0), (0, 0), (1, 0), (0, 0)], mode="edge")[:, :, :-1]
    probabilities = np.mean([predict(images), predict(images[:, :, ::-1]), predict(shifted)], axis=0)
    assert said["accuracy"] == np.mean(probabilities.argmax(axis=1) == labels) and said["examples"] == 360
    assert said["loss"] == pytest.approx(metrics.log_loss(labels, probabilities), rel=1e-4)
    run = json.loads((trained / "averaged" / "report.json").read_text())["run"]
    assert run["views"] == ["as it is", "mirrored", "1 right"]
    assert run["weights"] == "mean of 2 checkpoints (steps 8, 12)"


def test_without_a_report_nothing_is_written(trained):
    said = succeed("--workdir=second", "--noreport", "--checkpoint=8", cwd=trained)
    assert said.startswith("second at step 8 on test: accuracy ") and said.count("\n") == 1
    assert not (trained / "second" / "report").exists()


def test_a_directory_that_cannot_be_written_is_named_and_the_figures_are_given(trained, tmp_path):
    shutil.copytree(trained / "second", tmp_path / "run")
    (tmp_path / "run" / "report").write_text("not a folder")
    done = mirrorline("evaluate", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 0 and "macro F1" in done.stdout and "look" not in done.stdout
    assert done.stderr.count("\n") == 1 and "--report=DIR" in done.stderr and "run/report" in done.stderr
    assert (tmp_path / "run" / "report").read_text() == "not a folder"


def test_a_model_whose_outputs_are_not_numbers_gets_no_report(tmp_path):
    done = mirrorline("train", "--model=mlp", "--steps=3", "--optimizer=sgd", "--learning_rate=1e30",
                      "--schedule=constant", "--on_divergence=ignore", "--tensorboard=scalars", "--workdir=run",
                      cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = mirrorline("evaluate", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 0 and "accuracy" in done.stdout and "not finite" in done.stderr
    assert not (tmp_path / "run" / "report").exists()


def snapshot(folder):
    return {str(p): (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def other_data(trained):
    """A run that says it was trained on other data."""
    shutil.copytree(trained / "second", trained / "strange")
    path = trained / "strange" / "config.json"
    stored = json.loads(path.read_text())
    stored["data"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(stored))


@pytest.mark.usefixtures("other_data")
@pytest.mark.parametrize("arguments,says", [
    (("--compare=nowhere",), ["--compare=nowhere", "no run"]),
    (("--compare=second,nowhere",), ["--compare=nowhere", "no run"]),
    (("--compare=strange",), ["--compare=strange", "first", "000000000000", "other data"]),
    (("--compare=first",), ["--compare=first", "itself"]),
    (("--compare=second", "--compare=./second"), ["--compare=./second", "itself"]),
    (("--compare=second", "--checkpoint=first/checkpoints/ckpt-8"), ["first/checkpoints/ckpt-8", "newest"]),
    (("--tta=0",), ["--tta", "1 to 16", "found 0"]),
    (("--tta=17",), ["--tta", "1 to 16", "found 17"]),
    (("--average_checkpoints=0",), ["--average_checkpoints", "at least 1", "found 0"]),
    (("--average_checkpoints=99",), ["--average_checkpoints=99", "3 good ones", "12, 8, 4", "--keep_checkpoints"]),
    (("--checkpoint=270",), ["270", "first/checkpoints", "12, 8, 4"]),
    (("--report=first/config.json/deep",), ["--report=first/config.json/deep", "not a directory"]),
    (("--report=/proc/mirrorline",), ["--report=/proc/mirrorline", "cannot be written"]),
    (("--report=",), ["--report", "is empty"]),
    (("--ema",), ["--ema", "--ema_decay"]),
    (("--split=validation",), ["--split=validation", "--split=test"]),
])
def test_wrong_use_is_one_line_and_touches_nothing(trained, arguments, says):
    before = snapshot(trained)
    done = mirrorline("evaluate", "--workdir=first", *arguments, cwd=trained)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, (done.returncode, done.stderr)
    assert [text for text in says if text not in done.stderr] == [], done.stderr
    assert snapshot(trained) == before
