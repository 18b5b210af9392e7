"""Cells of make acceptance: every command on a model and a data set that lie outside of this package."""
import json
import pathlib
import tempfile

from tests.commands import REPOSITORY, kill_at_step, mirrorline, result, start, succeed

EXAMPLE = (f"--extension={REPOSITORY / 'docs' / 'example_extension.py'}", "--dataset=shapes", "--model=small_net")
KERAS = (f"--extension={REPOSITORY / 'tests' / 'extension' / 'keras_layers.py'}", "--dataset=digits", "--model=plain")


def verified(flags, unclaimed):
    """mirrorline verify: every claim holds, but for parts that are named as not claimed."""
    with tempfile.TemporaryDirectory() as folder:
        succeed("verify", *flags, "--output=proof.json", cwd=folder)
        rows = json.loads((pathlib.Path(folder) / "proof.json").read_text())["rows"]
        found = {row["part"] for row in rows if row["verdict"] == "not claimed"}
        assert found == set(unclaimed), f"not claimed: {found}"
        return {"rows": [[row["part"], row["difference"], row["verdict"]] for row in rows]}


def killed(flags):
    """Killed in the middle and started again: the same weights as in one piece."""
    with tempfile.TemporaryDirectory() as folder:
        train = ("train", *flags, "--steps=40", "--batch_size=32", "--schedule=constant", "--checkpoint_every=5",
                 "--steps_per_loop=1", "--verbosity=quiet")
        succeed(*train, "--workdir=whole", cwd=folder)
        kill_at_step(start(*train, "--workdir=killed", cwd=folder), f"{folder}/killed", 17)
        succeed(*train, "--workdir=killed", cwd=folder)
        hashes = [result(f"{folder}/{name}")["weights_sha256"] for name in ("whole", "killed")]
        assert hashes[0] == hashes[1], hashes
        return {"weights_sha256": hashes[0]}


def every_command(flags, model):
    """Trains, evaluates with a report, exports, benchmarks and sweeps."""
    with tempfile.TemporaryDirectory() as folder:
        train = ("train", *flags, "--epochs=2", "--workdir=run", "--verbosity=quiet")
        succeed(*train, "--ema_decay=0.9", "--replicas=2", cwd=folder)
        succeed("evaluate", "--workdir=run", "--ema", "--tta=2", "--verbosity=quiet", cwd=folder)
        succeed("export", "--workdir=run", "--format=saved_model,keras,weights", "--nolatency", "--verbosity=quiet",
                cwd=folder)
        succeed("benchmark", *flags, "--precisions=float32,mixed_bfloat16", "--replica_counts=1,2", "--batch_sizes=32",
                "--repeat_seconds=0.1", "--output=bench", "--verbosity=quiet", cwd=folder)
        succeed("sweep", *flags[:2], f"--space=model={model}|mlp,learning_rate=1e-3|1e-2", "--search=grid",
                "--epochs=1", "--output=sweep", "--verbosity=quiet", cwd=folder)
        wrong = mirrorline("sweep", *flags[:2], "--space=model=small_nte|mlp", cwd=folder)
        assert wrong.returncode == 2 and "unknown model 'small_nte'" in wrong.stderr, wrong.stderr
        best = json.loads((pathlib.Path(folder) / "sweep" / "sweep.json").read_text())["best"]
        succeed("train", "--flagfile=sweep/best.flags", "--workdir=again", "--verbosity=quiet", cwd=folder)
        return {"test_accuracy": result(f"{folder}/run")["test_accuracy"], "best": best["values"]}


def cells():
    """Yields (name, function, arguments) of every cell."""
    yield "verify: a model of a user's", verified, (EXAMPLE, ())
    yield "verify: Keras's own layers", verified, (KERAS, ("replicas",))
    yield "killed and resumed: a model of a user's", killed, (EXAMPLE,)
    yield "killed and resumed: Keras's own layers, 2 replicas", killed, ((*KERAS, "--replicas=2"),)
    yield "every command: a model of a user's", every_command, (EXAMPLE, "small_net")
    yield "every command: Keras's own layers", every_command, (KERAS, "plain")
