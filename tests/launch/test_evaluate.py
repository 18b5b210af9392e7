"""mirrorline evaluate on real runs: the report, comparison, views, means of checkpoints, and wrong use."""
import json
import shutil

import numpy as np
import pytest
from sklearn import metrics

from tests.commands import answers, result
from tests.commands import metrics as recorded

# 12 steps with checkpoints at 4, 8 and 12; flipped digits, so that a mirrored view is one the model knows.
TRAIN = ("train", "--model=mlp", "--batch_size=60", "--steps=12", "--checkpoint_every=4", "--evaluate_every=4",
         "--schedule=constant", "--learning_rate=3e-3", "--augment=flip")


DIVERGED = ("train", "--model=mlp", "--steps=3", "--subset=20", "--augment=", "--optimizer=sgd", "--learning_rate=1e30",
            "--schedule=constant", "--on_divergence=ignore")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with runs: `first`, `second` (`first` at step 8), and `diverged`."""
    folder = tmp_path_factory.mktemp("evaluated")
    quiet = ("--verbosity=quiet", "--tensorboard=scalars")
    for code, _, errors in answers([(*TRAIN, "--workdir=first", *quiet),
                                    (*DIVERGED, "--workdir=diverged", *quiet)], folder):
        assert code == 0, errors
    for name in ("second", "read_only"):
        shutil.copytree(folder / "first", folder / name)
        for path in (folder / name / "checkpoints").glob("ckpt-12*"):
            path.unlink()
    (folder / "read_only" / "report").write_text("not a folder")
    return folder


@pytest.fixture(scope="module")
def printed(trained):
    """{evaluation: (standard output, standard error)} of one process."""
    lines = {"compare": ("--workdir=first", "--compare=second"),
             "none": ("--workdir=second", "--noreport", "--checkpoint=4"),
             "read_only": ("--workdir=read_only",), "diverged": ("--workdir=diverged",)}
    answered = answers([("evaluate", *line) for line in lines.values()], trained)
    assert [code for code, _, _ in answered] == [0] * len(lines), answered
    return {name: found[1:] for name, found in zip(lines, answered, strict=True)}


@pytest.fixture(scope="module")
def compared(trained, printed):
    """What evaluate prints of `first` compared with `second`, and its report."""
    assert printed["compare"][1] == ""
    return printed["compare"][0], json.loads((trained / "first" / "report" / "report.json").read_text())


def outputs(workdir, average=1):
    """Returns (function of images to float64 probabilities, images, labels) of a run and the digits' test split."""
    from pipeline.data.sources.digits import load_digits
    from pipeline.data.stream import examples
    from pipeline.evaluation.trained_model import TrainedModel
    from pipeline.run_directory import RunDirectory
    model = TrainedModel.load(RunDirectory(str(workdir)), average=average)
    return lambda images: model.probabilities(images).astype(np.float64), *examples(load_digits(None).test,
                                                                                   np.arange(360))


def test_the_report_agrees_with_training_and_scikit_learn(trained, compared):
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


def test_the_report_names_the_origin_of_the_model(trained, compared):
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
    shown, report = compared
    (predict, images, labels), (other, _, _) = outputs(trained / "first"), outputs(trained / "second")
    ours, theirs = (p(images).argmax(axis=1) == labels for p in (predict, other))
    second = report["compared"][0]
    assert second["name"] == "second" and second["accuracy"] == theirs.mean() != ours.mean()
    assert second["only_this_right"] == (theirs & ~ours).sum() and second["both_wrong"] == (~theirs & ~ours).sum()
    from scipy.stats import binomtest
    discordant = int((theirs != ours).sum())
    p_value = binomtest(int((theirs & ~ours).sum()), discordant).pvalue
    assert second["mcnemar_p"] == pytest.approx(p_value)
    assert (p_value < 0.05) == ("the first, beyond chance" in second["verdict"])
    assert second["verdict"] in shown and f"{second['accuracy']:.2%}" in shown
    assert (trained / "first" / "report" / "index.html").stat().st_size > 10_000 and "report/index.html" in shown
    assert not (trained / "second" / "report").exists()


@pytest.mark.acceptance
def test_a_temperature_is_fitted_on_the_held_out_part(trained):
    (code, _, errors), (_, shown, _) = answers([
        (*TRAIN, "--workdir=held", "--validation_split=0.2", "--steps=4", "--verbosity=quiet"),
        ("evaluate", "--workdir=held", "--report=elsewhere/held", "--verbosity=quiet")], trained)
    assert code == 0 and json.loads(shown)["accuracy"] == result(trained / "held")["test_accuracy"], errors
    report = json.loads((trained / "elsewhere" / "held" / "report.json").read_text())
    assert report["calibration"]["fitted_on"] == "the validation split, 287 examples"
    assert report["run"]["selected_on"] == "validation" and not (trained / "held" / "report").exists()
    assert (trained / "elsewhere" / "held" / "index.html").exists()


@pytest.mark.acceptance
def test_views_and_means_of_checkpoints(trained):
    (_, shown, _), = answers([("evaluate", "--workdir=first", "--tta=3", "--average_checkpoints=2", "--report=averaged",
                                "--verbosity=quiet", "--batch_size=70")], trained)
    shown = json.loads(shown)
    predict, images, labels = outputs(trained / "first", average=2)
    shifted = np.pad(images, [(0, 0), (0, 0), (1, 0), (0, 0)], mode="edge")[:, :, :-1]
    probabilities = np.mean([predict(images), predict(images[:, :, ::-1]), predict(shifted)], axis=0)
    assert shown["accuracy"] == np.mean(probabilities.argmax(axis=1) == labels) and shown["examples"] == 360
    assert shown["loss"] == pytest.approx(metrics.log_loss(labels, probabilities), rel=1e-4)
    run = json.loads((trained / "averaged" / "report.json").read_text())["run"]
    assert run["views"] == ["as it is", "mirrored", "1 right"]
    assert run["weights"] == "mean of 2 checkpoints (steps 8, 12)"


def test_without_a_report_nothing_is_written(trained, printed):
    shown, _ = printed["none"]
    assert shown.startswith("second at step 4 on test: accuracy ") and shown.count("\n") == 1
    assert not (trained / "second" / "report").exists()


def test_a_read_only_directory_is_named_and_the_metrics_are_printed(trained, printed):
    shown, errors = printed["read_only"]
    assert "macro F1" in shown and "look" not in shown
    assert errors.count("\n") == 1 and "--report=DIR" in errors and "read_only/report" in errors
    assert (trained / "read_only" / "report").read_text() == "not a folder"


def test_a_model_with_non_finite_outputs_gets_no_report(trained, printed):
    shown, errors = printed["diverged"]
    assert "accuracy" in shown and "not finite" in errors and not (trained / "diverged" / "report").exists()


def snapshot(folder):
    return {str(p): (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in sorted(folder.rglob("*"))}


@pytest.fixture
def other_data(trained, printed):
    """A run whose config.json has the fingerprint of other data."""
    shutil.copytree(trained / "second", trained / "strange")
    path = trained / "strange" / "config.json"
    stored = json.loads(path.read_text())
    stored["data"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(stored))


REFUSED = [
    (("--compare=nowhere",), ["--compare=nowhere", "no run"]),
    (("--compare=second,nowhere",), ["--compare=nowhere", "no run"]),
    (("--compare=strange",), ["--compare=strange", "first", "000000000000", "other data"]),
    (("--compare=first",), ["--compare=first", "itself"]),
    (("--compare=second", "--compare=./second"), ["--compare=./second", "itself"]),
    (("--compare=second", "--checkpoint=first/checkpoints/ckpt-8"), ["first/checkpoints/ckpt-8", "latest"]),
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
]


@pytest.mark.usefixtures("other_data")
def test_wrong_use_is_one_line_and_touches_nothing(trained):
    before = snapshot(trained)
    answered = answers([("evaluate", "--workdir=first", *arguments) for arguments, _ in REFUSED], trained)
    for (arguments, says), (code, _, errors) in zip(REFUSED, answered, strict=True):
        assert code == 2 and errors.count("\n") == 1, (arguments, code, errors)
        assert [text for text in says if text not in errors] == [], (arguments, errors)
    assert snapshot(trained) == before
