"""The cells of acceptance on `mirrorline benchmark`, each the real command."""
import json
import pathlib
import tempfile

from tests.commands import succeed

FLAGS = ("--precisions=float32", "--repeat_seconds=0.02", "--output=out", "--verbosity=quiet")


def sweep(folder, *arguments):
    """Runs the command in a folder; returns its benchmark.json."""
    succeed("benchmark", *FLAGS, *arguments, cwd=folder)
    return json.loads((pathlib.Path(folder) / "out" / "benchmark.json").read_text())


def halved():
    """Measures a batch that takes more memory than its process may have: its half, or a half of that."""
    with tempfile.TemporaryDirectory() as folder:
        (cell,) = sweep(folder, "--models=mlp", "--dataset=synthetic:8x8x1", "--augment=crop:1", "--replica_counts=1",
                        "--batch_sizes=262144", "--memory_limit=900")["cells"]
        assert cell["status"] == "ok" and cell["fitted_batch_size"] < 262144 == cell["batch_size"], cell
        assert cell["batch_size"] % cell["fitted_batch_size"] == 0 and cell["peak_memory_mib"]["host"] < 1100, cell
        return {"fitted_batch_size": cell["fitted_batch_size"], "host_mib": round(cell["peak_memory_mib"]["host"])}


def on_workers():
    """Measures 1 and 2 workers of 1 and 2 replicas of a model with synchronized batch statistics: the same losses."""
    with tempfile.TemporaryDirectory() as folder:
        cells = sweep(folder, "--models=three_apis", "--dataset=digits", "--workers=1,2", "--replica_counts=1,2",
                      "--batch_sizes=16,32")["cells"]
        found = {(cell["batch_size"], cell["workers"], cell["replicas"]): cell for cell in cells}
        assert len(found) == 8 and all(cell["status"] == "ok" for cell in cells), cells
        for (batch, _, _), cell in found.items():
            for loss, one in zip(cell["first_losses"], found[batch, 1, 1]["first_losses"], strict=True):
                assert abs(loss - one) < 1e-4 * one, (cell["first_losses"], found[batch, 1, 1]["first_losses"])
            assert cell["flops_per_example"] == cells[0]["flops_per_example"]
        most = found[32, 2, 1]
        assert most["weak_scaling_efficiency"] and most["strong_scaling_efficiency"] and most["slowest_worker"]
        return {"examples_per_second": {f"{w} x {r}, batch {b}": round(cell["examples_per_second"])
                                        for (b, w, r), cell in found.items()}}


def cells():
    """Yields (name, function, arguments) of every cell."""
    yield "benchmark: a batch that does not fit is halved", halved, ()
    yield "benchmark: 1 and 2 workers of 1 and 2 replicas", on_workers, ()
