"""Cells of `make acceptance` about mirrorline export: every model in every form, however it was trained."""
import json
import pathlib
import tempfile

from pipeline.choices import EXPORT_FORMATS
from pipeline.export.export_format import find_format
from tests.commands import mirrorline, result, succeed
from tests.export.damaged import decode_damaged

EXACT = ("saved_model", "keras", "weights", "tflite", "onnx")  # In float32: these have to hold whatever the model is.
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
LEAST_ACCURACY = 0.9  # Below it classes lie too close together for int8 to have a fair chance.
# A training that takes each model well above that, in little time: epochs and learning rate.
TRAINING = {"mlp": (8, 5e-3), "cnn": (3, 1e-3), "resnet_like": (3, 1e-3), "inception": (4, 2e-3),
            "mini_inception": (4, 2e-3), "three_apis": (12, 3e-3)}
SLOW = "mixed_float16"  # On a CPU, many times slower than the others: one epoch, whatever int8 makes of its model.
COMMON = ("--dataset=digits", "--batch_size=32", "--schedule=one-cycle", "--normalize=per_channel", "--ema_decay=0.9",
          "--tensorboard=scalars", "--verbosity=quiet")


def exported(folder, *flags):
    """Exports the run in a folder in every form; returns (exit code, standard error, what proof.json holds)."""
    done = mirrorline("export", "--workdir=run", f"--format={','.join(EXPORT_FORMATS)}", "--output=out", *flags,
                      cwd=folder, timeout=1500)
    assert done.returncode in (0, 1), f"exit {done.returncode}: {done.stderr[-800:]}"
    report, = pathlib.Path(folder, "out", "reports").glob("1*/proof.json")
    return done.returncode, done.stderr, json.loads(report.read_text())


def holds(name, proof):
    """Tells from the figures alone whether a form is within its tolerance."""
    tolerance = find_format(name).tolerance
    allowed = max(tolerance.probability or 0, min(3 * proof["rounding"], 1e-3))
    return ((tolerance.probability is None or proof["difference"] <= allowed)
            and (tolerance.equal is None or proof["equal"] >= tolerance.equal)
            and (tolerance.accuracy_lost is None
                 or proof["live_accuracy"] - proof["accuracy"] <= tolerance.accuracy_lost + 1e-12))


def check(folder, code, errors, report):
    """Checks that what is published is what is within its tolerance; returns the figures."""
    out, found = pathlib.Path(folder, "out"), {}
    for name, record in report["forms"].items():
        proof = record["proof"]
        assert proof, f"{name}: {record['problems']}"
        assert holds(name, proof) == record["published"] == (out / name / "1").is_dir(), f"{name}: {proof}"
        assert record["published"] != (out / name / "1.unproved").exists(), name
        assert record["published"] != (f"{name} is not published" in errors), errors
        assert record["published"] or name not in EXACT, f"{name}: {record['problems']}"
        found[name] = {"bytes": record["bytes"], **{key: proof[key] for key in ("difference", "allowed", "equal",
                                                                                        "accuracy")}}
    assert (code == 1) == any(not record["published"] for record in report["forms"].values()), errors
    return found


def every_form(model, replicas, precision):
    """Trains a model until it is good, and exports it in every form: of those in float32 each has to be published.

    In single precision latency is measured too, and it is the best checkpoint. What is beyond its bound has to
    be refused, and to be left under its temporary name.
    """
    single, (epochs, rate) = precision == "float32", TRAINING[model]
    with tempfile.TemporaryDirectory() as folder:
        succeed("train", *COMMON, f"--model={model}", f"--epochs={1 if precision == SLOW else epochs}",
                f"--learning_rate={rate}", f"--replicas={replicas}", f"--precision={precision}", "--force",
                "--workdir=run", cwd=folder)
        code, errors, report = exported(folder, *(("--checkpoint=best",) if single else ("--nolatency",)))
        assert report["metadata"]["precision"] == {"trained": precision, "exported": "float32"}
        assert report["metadata"]["trained_with"]["replicas"] == replicas
        figures = check(folder, code, errors, report)
        if precision != SLOW:
            assert report["live_accuracy"] >= LEAST_ACCURACY, f"trained too little: {report['live_accuracy']}"
            assert code == 0, errors
        if single:
            assert report["live_accuracy"] == result(f"{folder}/run")["best"]["accuracy"], report["live_accuracy"]
        for name, figure in figures.items():
            figure.update({"p50_ms": {size: round(times["p50"], 3) for size, times in
                                      report["forms"][name]["latency"].items()}} if single else {})
        return {"live_accuracy": report["live_accuracy"],
                "not_published": [name for name in figures if not report["forms"][name]["published"]], **figures}


def damaged_files(count):
    """Sends damaged image files to what decodes them in a SavedModel: the process does not die of one."""
    with tempfile.TemporaryDirectory() as folder:
        return decode_damaged(count, 1, folder)


def cells(models):
    """Yields (name, function, arguments) of every cell, for the names of models.

    Each model in every form and every precision, on one replica and on two; and what an exported model is sent.
    """
    yield "10,000 damaged image files", damaged_files, (10_000,)
    for i, model in enumerate(models):
        for j, precision in enumerate(PRECISIONS):
            replicas = 1 + (i + j) % 2
            yield f"every form: {model}, {replicas} replica(s), {precision}", every_form, (model, replicas, precision)
