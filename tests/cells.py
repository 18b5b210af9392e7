"""The cells of the full matrices that make acceptance runs: the real command, and rows of tests marked acceptance."""
import itertools
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

from tests import benchmark_cells, export_cells, extension_cells, transfer_cells, verify_cells
from tests.commands import (
    REPOSITORY,
    assert_every_step_once,
    environment,
    kill_at_step,
    metrics,
    result,
    start,
    succeed,
)
from tests.kills import killed_again_and_again
from tests.launch.cluster import launch_cells, ray_cells, slurm_cells
from tests.parity_cells import parity

MODELS = ("mlp", "cnn", "resnet_like", "inception", "mini_inception", "three_apis")
STEPS = 24
KILLS = 100
COMMON = ("--dataset=digits", "--batch_size=16", f"--steps={STEPS}", "--subset=12", "--evaluate_every=12",
          "--checkpoint_every=5", "--augment=crop,flip", "--schedule=constant", "--learning_rate=2e-3")


def train_command(model, replicas, precision, *more):
    """The command of a cell."""
    return ("train", "--tensorboard=full", *COMMON, f"--model={model}", f"--replicas={replicas}",
            f"--precision={precision}", *(("--force",) if precision == "mixed_float16" else ()), *more)


def killed_and_resumed(model, replicas):
    """Trains uninterrupted; trains again, killed at a random step and resumed; evaluates."""
    with tempfile.TemporaryDirectory() as folder:
        command = train_command(model, replicas, "float32")
        succeed(*command, "--workdir=whole", cwd=folder)
        # From 11 on the checkpoint of step 5 is on disk: the save at step 10 waited for it.
        step = random.Random(f"{model} {replicas}").randrange(11, STEPS - 1)
        code, _ = kill_at_step(start(*command, "--workdir=killed", "--steps_per_loop=1", cwd=folder),
                               f"{folder}/killed", step)
        resumed = succeed(*command, "--workdir=killed", cwd=folder)
        whole, killed = result(f"{folder}/whole"), result(f"{folder}/killed")
        assert code == -9, f"the process ended by itself with {code}"
        assert "resume" in resumed.stdout, f"it started from step 0: {resumed.stdout[-500:]}"
        assert whole["weights_sha256"] == killed["weights_sha256"], "other weights after the resume"
        assert_every_step_once(f"{folder}/killed", STEPS)
        losses = [r["loss"] for r in metrics(f"{folder}/whole", "train")]
        assert sum(losses[-4:]) < sum(losses[:4]), f"the loss did not fall: {losses}"
        output = succeed("evaluate", "--workdir=killed", cwd=folder).stdout
        assert f"{whole['test_accuracy']:.4%}" in output, f"evaluate printed {output}"
        return {"killed_at_step": step, "weights_sha256": whole["weights_sha256"],
                "loss": [losses[0], losses[-1]], "test_accuracy": whole["test_accuracy"]}


def loss_falls(model, replicas, precision):
    """Trains in a precision: the loss falls, and the stored weights stay float32."""
    with tempfile.TemporaryDirectory() as folder:
        succeed(*train_command(model, replicas, precision, "--workdir=run"), cwd=folder)
        losses = [r["loss"] for r in metrics(f"{folder}/run", "train")]
        applied = [loss for loss, r in zip(losses, metrics(f"{folder}/run", "train"), strict=True)
                   if not r.get("skipped")]
        assert sum(applied[-4:]) < sum(applied[:4]), f"the loss did not fall: {losses}"
        return {"loss": [applied[0], applied[-1]], "skipped_steps": result(f"{folder}/run")["skipped_steps"]}


def digits(seed):
    """The default run: mirrorline train with another seed."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        succeed("train", "--tensorboard=full", f"--seed={seed}", "--workdir=run", cwd=folder)
        found = result(f"{folder}/run")
        assert found["test_accuracy"] >= 0.983, found
        return {"test_accuracy": found["test_accuracy"], "process_seconds": round(time.monotonic() - began, 1)}


def random_kills(model, replicas, precision, wanted):
    """Kills a setting at random moments, in starting, training, evaluating and saving."""
    with tempfile.TemporaryDirectory() as folder:
        return killed_again_and_again(pathlib.Path(folder), model, replicas, precision, wanted, seed=17)


def kill_cells():
    """Yields the cells of 100 kills over the settings."""
    settings = list(itertools.product(("cnn", "three_apis"), (1, 2), ("float32", "mixed_bfloat16", "mixed_float16")))
    for i, (model, replicas, precision) in enumerate(settings):
        wanted = KILLS // len(settings) + (i < KILLS % len(settings))
        yield (f"{wanted} random kills: {model}, {replicas} replica(s), {precision}", random_kills,
               (model, replicas, precision, wanted))


def marked(path):
    """Runs the tests of a file that are marked acceptance."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "acceptance", path], cwd=REPOSITORY, text=True,
                          env=environment(), capture_output=True, timeout=3600, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout[-2000:]
    return {"tests": int(re.search(r"(\d+) passed", done.stdout)[1])}


def marked_cells():
    """Yields a cell for each file that has such tests."""
    for path in sorted((REPOSITORY / "tests").glob("**/test_*.py")):
        if re.search(r"selection import quick|mark\.acceptance", path.read_text(encoding="utf-8")):
            name = str(path.relative_to(REPOSITORY))
            yield f"rows marked acceptance: {name}", marked, (name,)


def cells():
    """Yields (name, function, arguments) of every cell; a function asserts, and returns what is reported."""
    yield from kill_cells()
    yield from marked_cells()
    for model in ("cnn", "resnet_like", "mini_inception", "three_apis"):
        yield f"1, 2 and 4 replicas agree: {model}", parity, (model,)
    yield from verify_cells.cells()
    yield from extension_cells.cells()
    yield from benchmark_cells.cells()
    for model in MODELS:
        for replicas in (1, 2):
            yield f"killed and resumed: {model}, {replicas} replica(s), float32", killed_and_resumed, (model, replicas)
    for i, model in enumerate(MODELS):
        for j, precision in enumerate(("mixed_bfloat16", "mixed_float16")):
            replicas = 1 + (i + j) % 2
            yield (f"loss falls: {model}, {replicas} replica(s), {precision}", loss_falls,
                   (model, replicas, precision))
    yield from slurm_cells.cells()
    yield from ray_cells.cells()
    yield from export_cells.cells(MODELS)
    yield from transfer_cells.cells(MODELS)
    yield from launch_cells.cells()
    for seed in range(5):
        yield f"mirrorline train, seed {seed}", digits, (seed,)
