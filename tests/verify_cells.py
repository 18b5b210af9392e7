"""Cells of `make acceptance` about mirrorline verify: the default proof in time, more models, every cure."""
import json
import math
import pathlib
import tempfile
import time

from tests.commands import metrics, mirrorline, succeed
from tests.cures import PROVED, verify_without

SECONDS = 120  # Of the default proof on 2 quiet cores.
# The standard architectures on images of 32x32: seconds a step there, and minutes to trace.
ARCHITECTURES = (("resnet50",), ("efficientnet_v2_b0",), ("convnext_tiny", "--model_options=drop_path=0.1"),
                 ("mobilenet_v3_large",), ("vit_ti16", "--model_options=patch_size=8,drop_path=0.1"))
TINY = ("--dataset=synthetic:32x32x3", "--batch_size=4")
SLOW = ("--verify_steps=6", "--learning_rate=1e-5")  # Normalization over 4 values of a pixel is chaotic at usual rates.
SMALL = ("--model=three_apis", "--augment=crop,mixup")


def proved(*arguments, limit=None):
    """Runs a proof that has to hold; returns its seconds and the largest difference of each part."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        done = mirrorline("verify", *arguments, "--output=proof.json", cwd=folder, timeout=1500)
        seconds = time.monotonic() - began
        assert done.returncode == 0, done.stderr[-800:]
        rows = json.loads((pathlib.Path(folder) / "proof.json").read_text())["rows"]
    assert limit is None or seconds < limit, f"{seconds:.0f} s"
    largest = {}
    for row in rows:
        if not row["unclaimed"]:
            assert row["verdict"] == "ok", row
            largest[row["part"]] = max(largest.get(row["part"], 0.0), row["difference"])
    return {"seconds": round(seconds, 1), "largest_difference": largest}


def default_proof():
    """mirrorline verify alone, which may take 2 minutes."""
    return proved(limit=SECONDS)


def unclaimed():
    """Batch statistics of each replica's own: the parts of replicas differ, and nobody claims that they do not."""
    with tempfile.TemporaryDirectory() as folder:
        done = mirrorline("verify", *SMALL, "--nosync_batch_norm", "--only=replicas", "--output=proof.json", cwd=folder)
        assert done.returncode == 0, done.stderr[-800:]
        rows = json.loads((pathlib.Path(folder) / "proof.json").read_text())["rows"]
        assert [row["verdict"] for row in rows] == ["not claimed"] * 3, rows
        assert all("--nosync_batch_norm" in row["unclaimed"] and row["difference"] > 1e-8 for row in rows), rows
        return {"differences": [row["difference"] for row in rows]}


def violated_without(name):
    """Takes one cure out: the proof ends with 1 and names the part that the cure is for."""
    with tempfile.TemporaryDirectory() as folder:
        done = verify_without([name], pathlib.Path(folder), *SMALL, "--output=proof.json")
        assert done.returncode == 1, f"exit {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}"
        assert done.stderr.startswith(f"mirrorline verify: VIOLATED: {PROVED[name].part}: "), done.stderr
        rows = json.loads((pathlib.Path(folder) / "proof.json").read_text())["rows"]
        assert all(row["compared"] != "what its process found" for row in rows), f"it failed instead: {done.stderr}"
        return {"violated": {row["compared"]: row["difference"] for row in rows if row["verdict"] == "VIOLATED"}}


def trained(model, *arguments):
    """Trains an architecture for a few steps; its losses are finite."""
    with tempfile.TemporaryDirectory() as folder:
        succeed("train", f"--model={model}", *TINY, "--steps=6", "--subset=6", *arguments, "--workdir=run", cwd=folder)
        losses = [row["loss"] for row in metrics(f"{folder}/run", "train")]
    assert len(losses) == 6 and all(map(math.isfinite, losses)), losses
    return {"losses": losses}


def cells():
    """Yields (name, function, arguments) of every cell."""
    yield "mirrorline verify, default", default_proof, ()
    for model in ("mlp", "resnet_like", "inception", "mini_inception", "three_apis"):
        yield f"mirrorline verify, {model}", proved, (f"--model={model}", "--batch_size=16")
    for model, *options in ARCHITECTURES:
        yield f"mirrorline verify, {model}", proved, (f"--model={model}", *options, *TINY, *SLOW)
        for name, more in (("bfloat16", ("--precision=mixed_bfloat16",)),
                           ("float16", ("--precision=mixed_float16", "--force")),
                           ("XLA", ("--xla=on", "--nosync_batch_norm"))):
            yield f"{model} trains in {name}", trained, (model, *options, *more)
    yield "mirrorline verify, everything on", proved, (
        "--model=three_apis", "--augment=flip,crop,mixup", "--optimizer=adamw", "--weight_decay=0.05", "--l2=1e-4",
        "--clip_norm=1", "--label_smoothing=0.1", "--ema_decay=0.99", "--accumulate_steps=2", "--replicas=4",
        "--precision=mixed_bfloat16", "--class_weight=balanced")
    yield "mirrorline verify, replicas that are not synchronized", unclaimed, ()
    for name in PROVED:
        yield f"mirrorline verify sees it when {name}", violated_without, (name,)
