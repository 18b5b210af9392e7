"""Cells of `make acceptance` about mirrorline export: every model in every form, however it was trained."""
import json
import pathlib
import tempfile

from pipeline.export.form import FORMS
from tests.commands import mirrorline, result

EXACT = ("saved_model", "keras", "weights", "tflite", "onnx")  # In float32: these have to hold whatever the model is.
STEPS = 24
SHORT = ("--batch_size=16", f"--steps={STEPS}", "--subset=12", "--evaluate_every=12", "--checkpoint_every=12",
         "--schedule=constant", "--learning_rate=2e-3", "--augment=crop", "--normalize=per_channel", "--ema_decay=0.9")


def exported(folder, *flags):
    """Exports the run in a folder in every form; returns (exit code, standard error, what proof.json holds)."""
    done = mirrorline("export", "--workdir=run", f"--format={','.join(FORMS)}", "--output=out", *flags, cwd=folder,
                      timeout=1500)
    assert done.returncode in (0, 1), f"exit {done.returncode}: {done.stderr[-800:]}"
    report, = pathlib.Path(folder, "out", "reports").glob("1*/proof.json")
    return done.returncode, done.stderr, json.loads(report.read_text())


def holds(name, proof):
    """Tells from the figures alone whether a form is within its bounds."""
    bounds = FORMS[name].bounds
    allowed = max(bounds.probability or 0, min(3 * proof["rounding"], 1e-3))
    return ((bounds.probability is None or proof["difference"] <= allowed)
            and (bounds.equal is None or proof["equal"] >= bounds.equal)
            and (bounds.accuracy_lost is None
                 or proof["live_accuracy"] - proof["accuracy"] <= bounds.accuracy_lost + 1e-12))


def check(folder, code, errors, report):
    """Checks that what is published is what is within its bounds; returns the figures."""
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


def round_trip(model, replicas, precision):
    """Trains briefly and exports the moving averages in every form: those in float32 have to hold."""
    with tempfile.TemporaryDirectory() as folder:
        done = mirrorline("train", "--dataset=digits", *SHORT, f"--model={model}", f"--replicas={replicas}",
                          f"--precision={precision}", "--force", "--workdir=run", cwd=folder, timeout=1500)
        assert done.returncode == 0, done.stderr[-800:]
        code, errors, report = exported(folder, "--nolatency", "--ema")
        assert report["metadata"]["precision"] == {"trained": precision, "exported": "float32"}
        assert report["metadata"]["checkpoint"]["step"] == STEPS
        return check(folder, code, errors, report)


def every_form(model):
    """Trains a model until it is good, and publishes it in every form, with latencies."""
    with tempfile.TemporaryDirectory() as folder:
        done = mirrorline("train", "--dataset=digits", f"--model={model}", "--workdir=run",
                          *(("--learning_rate=5e-3",) if model == "mlp" else ()), cwd=folder, timeout=3000)
        assert done.returncode == 0, done.stderr[-800:]
        code, errors, report = exported(folder, "--checkpoint=best")
        figures = check(folder, code, errors, report)
        assert code == 0, errors
        assert report["live_accuracy"] == result(f"{folder}/run")["best"]["accuracy"], report["live_accuracy"]
        return {name: {**figures[name], "p50_ms": {size: round(times["p50"], 3) for size, times in
                                                   report["forms"][name]["latency"].items()}} for name in figures}


def cells(models):
    """Yields (name, function, arguments) of every cell, for the names of models."""
    for model in models:
        yield f"every form published: {model}", every_form, (model,)
    for model in models:
        for replicas in (1, 2):
            for precision in ("float32", "mixed_bfloat16", "mixed_float16"):
                yield (f"round trip in every form: {model}, {replicas} replica(s), {precision}", round_trip,
                       (model, replicas, precision))
