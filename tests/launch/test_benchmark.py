"""mirrorline benchmark as a user runs it: measured once, stopped, gone on with, halved, failed, compared."""
import concurrent.futures
import json
import os
import re
import time

import pytest

from launch import __main__ as command_line
from pipeline.benchmark.sweep import ending, ends_for_memory
from pipeline.verification import processes
from tests.commands import metrics, mirrorline, start

FLAGS = ("--dataset=synthetic:8x8x1", "--augment=crop:1", "--schedule=cosine", "--steps=4")
# The second batch takes more than its process may have, its half does not.
REAL = ("benchmark", *FLAGS, "--models=mlp", "--precisions=float32", "--replica_counts=1", "--repeat_seconds=0.01",
        "--batch_sizes=16,262144", "--memory_limit=900", "--output=out")
FIGURES = {
    "model": str, "image_size": str, "precision": str, "replicas": int, "batch_size": int, "xla": str, "status": str,
    "error": type(None), "fitted_batch_size": int, "emulated": bool, "examples_per_second": float, "spread": list,
    "repeats": list, "examples_per_second_per_replica": float, "step_ms": dict, "synthetic_examples_per_second": float,
    "input_wait_share": float, "split_ms": dict, "trace_seconds": float, "compile_seconds": type(None),
    "first_step_seconds": float, "peak_memory_mib": dict, "gradient_bytes": int, "reduced_bytes": int,
    "flops_per_example": float, "speedup_over_float32": type(None), "weak_scaling_efficiency": type(None),
    "strong_scaling_efficiency": type(None), "ceiling_share": float}


def children(folder):
    """Returns the process ids of cells whose parent runs in a folder, by the folder for temporary files."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", encoding="utf-8", errors="replace") as file:
                if "launch.benchmark_cell" in (command := file.read()) and str(folder) in command:
                    found.append(int(name))
        except OSError:  # Gone meanwhile.
            continue
    return found


def wait_for(condition, seconds=120):
    """Waits until a condition holds; returns what it returned."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A sweep that was killed after its first cell and went on to its end; and a training beside it."""
    folder, scratch = tmp_path_factory.mktemp("sweep"), tmp_path_factory.mktemp("scratch")
    patch = pytest.MonkeyPatch()
    patch.setenv("TMPDIR", str(scratch))
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            trained = executor.submit(mirrorline, "train", *FLAGS, "--model=mlp", "--batch_size=16", "--workdir=run",
                                      cwd=folder)
            first, kept = start(*REAL, cwd=folder), folder / "out" / "cells"
            wait_for(lambda: first.poll() is not None or list(kept.glob("*batch16-*.json")) and children(scratch))
            running = children(scratch)
            first.kill()
            first.communicate(timeout=60)
            wait_for(lambda: not children(scratch), 10)
            assert trained.result().returncode == 0
        written = next(kept.glob("*.json")).stat().st_mtime_ns
        done = mirrorline(*REAL, cwd=folder)
    finally:
        patch.undo()
    return {"folder": folder, "running": running, "done": done,
            "kept": next(kept.glob("*batch16-*.json")).stat().st_mtime_ns == written}


def test_it_goes_on_where_it_stopped_and_its_processes_die_with_it(measured):
    done = measured["done"]
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert len(measured["running"]) == 1  # There was one to die, and it is gone.
    assert measured["kept"] and "1 of them measured before" in done.stdout
    assert re.search(r"^1/2  mlp 8x8x1 float32, 1 replica, batch 16, .* measured before$", done.stdout, re.MULTILINE)


def test_every_figure_of_a_cell_is_there(measured):
    report = json.loads((measured["folder"] / "out" / "benchmark.json").read_text())
    assert report["complete"] and report["schema"] == 1 and report["command"].startswith("mirrorline benchmark --")
    assert report["machine"]["cores"] >= 1 and report["versions"]["tensorflow"]
    assert report["flags"] == {"dataset": "synthetic:8x8x1", "augment": ["crop:1"], "schedule": "cosine", "steps": 4}
    assert report["ceilings"]["float32"]["matmul_gflops"] > 1
    for cell in report["cells"]:
        assert {name: kind for name, kind in FIGURES.items() if not isinstance(cell[name], kind)} == {}
        assert len(cell["repeats"]) == 5 and cell["status"] == "ok" and 0 < cell["ceiling_share"] < 1.5
    assert sorted(os.listdir(measured["folder"] / "out")) == [
        "benchmark.csv", "benchmark.html", "benchmark.json", "benchmark.md", "ceilings.json", "cells"]


def test_what_is_measured_is_the_step_of_train(measured):
    cell = json.loads((measured["folder"] / "out" / "benchmark.json").read_text())["cells"][0]
    trained = [record["loss"] for record in metrics(measured["folder"] / "run", "train")]
    assert len(trained) == 4 and cell["first_losses"] == trained


def test_a_batch_that_does_not_fit_is_halved_until_it_does(measured):
    cell = json.loads((measured["folder"] / "out" / "benchmark.json").read_text())["cells"][1]
    assert cell["batch_size"] == 262144 and cell["fitted_batch_size"] < 262144
    assert cell["batch_size"] % cell["fitted_batch_size"] == 0 and cell["peak_memory_mib"]["host"] < 1000
    assert "a batch of 262144 does not fit: trying 131072" in measured["done"].stdout


# Stands in for the process of a cell, which takes seconds: fails, crashes, has not enough memory, or gives figures.
PART = """
import json, os, signal, sys, time
order = json.load(open(sys.argv[1]))
config = order["config"]
if "survey" in order:
    found = {"ceilings": {name: {"matmul_gflops": 100.0, "size": 512, "unit": "GFLOP/s"}
                          for name in order["survey"]["precisions"]},
             "image_sizes": {data: "28x28x1" for _, data in order["survey"]["pairs"]}}
else:
    if config["batch_size"] == 24:
        sys.exit("Traceback (most recent call last)\\nValueError: as a defect does")
    if config["batch_size"] == 40:
        os.kill(order["parent"], signal.SIGTERM)
        time.sleep(60)
    if config["batch_size"] == 48:
        os.kill(os.getpid(), signal.SIGSEGV)
    if config["batch_size"] > 100:
        os.kill(os.getpid(), signal.SIGKILL)
    if config["batch_size"] > 60 or config["model"] == "resnet_like":
        sys.exit(3)
    rate = config["batch_size"] * float(os.environ["RATE"])
    found = {"examples_per_second": rate, "repeats": [rate] * 5, "spread": [rate, rate], "input_wait_share": 0.0,
             "step_ms": {"p50": 1.0, "p90": 1.0, "p99": 1.0}, "reduced_bytes": 4000000, "flops_per_example": 1e6,
             "split_ms": {"forward": 1.0, "backward": 1.0, "reduction": 1.0, "update": 1.0, "rest": 1.0}}
json.dump(found, open(order["results"], "w"))
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    """Returns a function that runs the command in this process with PART for its cells: (exit code, out, err)."""
    start_process = processes.Processes.start
    monkeypatch.setattr(processes.Processes, "start", lambda self, *rest: start_process(self, "-c", PART, rest[-1]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RATE", "10")

    def run(*arguments):
        code = command_line.main(["benchmark", *arguments])
        return code, *capsys.readouterr()
    return run


def cells(folder="runs/benchmark"):
    """Returns {batch size: cell} of benchmark.json."""
    with open(os.path.join(folder, "benchmark.json"), encoding="utf-8") as file:
        return {cell["batch_size"]: cell for cell in json.load(file)["cells"]}


def test_a_failed_cell_does_not_end_the_sweep(sweep):
    code, out, err = sweep("--batch_sizes=16,24,48,64,200", "--precision=float32", "--replicas=1")
    assert code == 1 and err == ("mirrorline benchmark: 2 of 5 cells failed: cnn 28x28x1 float32, 1 replica, batch 24, "
                                 "xla off: ValueError: as a defect does\n")
    found = cells()
    assert {batch: cell["status"] for batch, cell in found.items()} == {16: "ok", 24: "failed", 48: "failed", 64: "ok",
                                                                        200: "ok"}
    assert found[48]["error"] == "its process was ended by SIGSEGV" and found[24]["image_size"] == "28x28x1"
    assert (found[64]["fitted_batch_size"], found[200]["fitted_batch_size"]) == (32, 50)
    assert "Traceback" in open(found[24]["log"], encoding="utf-8").read()
    assert out.count("FAILED: ") == 2 and "examples/s (spread)" in out
    _, out, _ = sweep("--batch_sizes=16,24,48,64,200", "--precision=float32", "--replicas=1")
    assert out.count("measured before") == 4  # In the heading, and at three cells: failures are tried again.


def test_a_stopped_sweep_says_so_and_leaves_what_it_has(sweep):
    settings = ("--batch_sizes=16,32,40,64", "--precisions=float32", "--replica_counts=1", "--quick")
    code, _, err = sweep(*settings)
    assert (code, err) == (75, "stopped with 2 of 4 cells measured; run the same command again to go on\n")
    assert list(cells()) == [16, 32]
    with open("runs/benchmark/benchmark.json", encoding="utf-8") as file:
        report = json.load(file)
    assert not report["complete"] and report["measuring"]["repeat_seconds"] == 0.2


def test_what_does_not_fit_at_all_is_no_failure(sweep):
    code, out, _ = sweep("--models=resnet_like", "--batch_sizes=16", "--precisions=float32", "--replica_counts=2")
    assert code == 0 and "trying 2\n" in out and "a batch of 2 does not fit\n" in out
    assert cells()[16]["status"] == "does_not_fit"


@pytest.mark.parametrize("more, part", [(["--learning_rate=0.5"], "flags"), (["--repeats=6"], "measuring")])
def test_cells_under_other_conditions_do_not_count(sweep, more, part):
    settings = ("--batch_sizes=16", "--precisions=float32", "--replica_counts=1,2")
    assert sweep(*settings)[0] == 0
    _, out, _ = sweep(*settings, *more)
    assert f"2 measured before under other {part} do not count" in out
    assert out.count("measured before") == 1


def test_it_compares_and_projects(sweep, monkeypatch):
    settings = ("--batch_sizes=16,32", "--precisions=float32", "--replica_counts=1")
    assert sweep(*settings, "--output=old", "--project=16", "--link_inside=100:5", "--link_between=10:20")[0] == 0
    with open("old/benchmark.json", encoding="utf-8") as file:
        projected = json.load(file)["projection"]
    assert projected["most"] == 16 and "100 GB/s, 5 µs" in json.dumps(projected, ensure_ascii=False)
    compared = (*settings, "--compare=old/benchmark.json")
    assert sweep(*compared, "--output=same")[0] == 0
    monkeypatch.setenv("RATE", "8")
    code, out, err = sweep(*compared, "--output=slower")
    assert code == 1 and out.count("REGRESSED") >= 2
    assert err.startswith("mirrorline benchmark: slower than before by more than 0.05 of the speed: cnn 28x28x1")
    assert sweep(*compared, "--output=slower", "--tolerance=0.3")[0] == 0


@pytest.mark.parametrize("arguments, line", [
    (["--repeats=4"], "--repeats must be at least 5"), (["--batch_sizes=16,x"], "--batch_sizes must be whole numbers"),
    (["--batch_sizes="], "--batch_sizes is empty"), (["--batch_sizes=8,8"], "--batch_sizes holds 8 twice"),
    (["--precisions=float23"], "unknown value of --precisions 'float23': did you mean 'float32'?"),
    (["--xla_modes=on"], "--xla_modes=on with 2 replicas needs --nosync_batch_norm"),
    (["--replica_counts=3"], "a batch of 16 cannot be shared out over 3 replicas"),
    (["--replica_counts=9"], "--replicas=9 without a GPU"),
    (["--image_sizes=28"], "--image_sizes must be height x width x channels"),
    (["--image_sizes=8x8x1", "--dataset=mnist"], "--image_sizes is for made-up images; found --dataset=mnist too"),
    (["--compare=none.json"], "cannot read 'none.json'"), (["--repeat_seconds=0"], "--repeat_seconds must be a number"),
    (["--link_inside=5:3", "--project=8"], "--link_between must be GB/s:microseconds"),
    (["--output=/dev/null/x"], "--output=/dev/null/x cannot be written"), (["--project=1"], "--project=1: give"),
])
def test_wrong_use_is_one_line_and_leaves_nothing(sweep, tmp_path, arguments, line):
    code, out, err = sweep(*arguments)
    assert (code, out) == (2, "") and err.startswith(f"mirrorline benchmark: {line}") and err.count("\n") == 1, err
    assert os.listdir(tmp_path) == []


def test_a_model_that_does_not_exist_is_found_before_anything_is_measured(tmp_path):
    done = mirrorline("benchmark", "--models=mlp,cnm", "--verbosity=quiet", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and os.listdir(tmp_path) == []
    assert done.stderr.startswith("mirrorline benchmark: unknown model 'cnm': did you mean 'cnn'?")


@pytest.mark.parametrize("code, text, limited, expected", [
    (3, "", False, True), (-9, "", False, True), (-6, "terminate called: std::bad_alloc", False, True),
    (-11, "", True, True), (-11, "", False, False), (1, "RESOURCE_EXHAUSTED: OOM when allocating", False, True),
    (1, "RESOURCE_EXHAUSTED: x; No space left on device", False, False), (1, "ValueError: no", True, False),
    (None, "too long", True, False),
])
def test_ends_for_want_of_memory_are_known_from_others(code, text, limited, expected):
    assert ends_for_memory(code, text, limited) is expected
    assert "SIGSEGV" in ending(-11)
