"""mirrorline benchmark as a user runs it: measured, stopped, resumed, halved, failed, compared, on workers."""
import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import tensorflow as tf

from launch import __main__ as command_line
from launch.cluster import benchmark_workers
from pipeline import processes
from pipeline.benchmark import page
from pipeline.benchmark.cell_runner import ending
from pipeline.full_memory import ends_for_memory, is_memory
from tests.commands import REPOSITORY, environment, metrics, succeed, with_forked_children

FLAGS = ("--dataset=synthetic:8x8x1", "--augment=crop:1", "--schedule=cosine", "--steps=4")
REAL = ("benchmark", *FLAGS, "--models=mlp", "--precisions=float32", "--batch_sizes=16",
        "--repeat_seconds=0.01", "--project=64", "--output=out")
FIGURES = {
    "model": str, "image_size": str, "precision": str, "workers": int, "replicas": int, "batch_size": int, "xla": str,
    "status": str, "error": type(None), "fitted_batch_size": int, "emulated": bool, "examples_per_second": float,
    "spread": list, "repeats": list, "examples_per_second_per_replica": float, "step_ms": dict,
    "synthetic_examples_per_second": float, "input_wait_share": float, "split_ms": dict, "trace_seconds": float,
    "compile_seconds": type(None), "first_step_seconds": float, "peak_memory_mib": dict, "gradient_bytes": int,
    "reduced_bytes": int, "statistics_reductions": dict, "flops_per_example": float, "note": type(None),
    "speedup_over_float32": type(None), "ceiling_share": float}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A benchmark of one cell."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "page", lambda report: "")  # Its plots take seconds; tests/benchmark/test_page.py has them.
        done = with_forked_children(*REAL, "--replica_counts=1", cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), done
    return {"folder": folder, "report": json.loads((folder / "out" / "benchmark.json").read_text())}


def test_every_figure_of_a_cell_is_there(measured):
    report = measured["report"]
    assert report["complete"] and report["schema"] == 1 and report["command"].startswith("mirrorline benchmark --")
    assert report["machine"]["cores"] >= 1 and report["versions"]["tensorflow"]
    assert report["flags"] == {"dataset": "synthetic:8x8x1", "augment": ["crop:1"], "schedule": "cosine", "steps": 4}
    assert report["ceilings"]["float32"]["matmul_gflops"] > 1
    for cell in report["cells"]:
        assert {name: kind for name, kind in FIGURES.items() if not isinstance(cell[name], kind)} == {}
        assert len(cell["repeats"]) == 5 and cell["status"] == "ok" and cell["ceiling_share"] > 0
        assert cell["statistics_reductions"] == {"count": 0, "bytes": 0}  # mlp has no batch normalization.
    assert sorted(os.listdir(measured["folder"] / "out")) == [
        "benchmark.csv", "benchmark.html", "benchmark.json", "benchmark.md", "ceilings.json", "cells"]
    assert report["projection"]["reduced_bytes"] == report["cells"][0]["reduced_bytes"]


@pytest.mark.acceptance
def test_what_is_measured_is_the_step_of_train(measured):
    cell = measured["report"]["cells"][0]
    succeed("train", *FLAGS, "--model=mlp", "--batch_size=16", "--workdir=run", cwd=measured["folder"])
    trained = [record["loss"] for record in metrics(measured["folder"] / "run", "train")]
    assert len(trained) == 4 and cell["first_losses"] == trained


@pytest.mark.acceptance
def test_two_workers_train_the_same_as_one(tmp_path):
    done = with_forked_children(*REAL, "--workers=1,2", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done
    one, two = json.loads((tmp_path / "out" / "benchmark.json").read_text())["cells"]
    assert (one["workers"], one["slowest_worker"]) == (1, None)
    assert (two["workers"], two["replicas"], two["sync_batch_norm"], two["device"]) == (2, 1, True, "CPU")
    assert two["first_losses"] == pytest.approx(one["first_losses"], rel=1e-5)
    same = ("flops_per_example", "gradient_bytes", "reduced_bytes")
    assert {name: two[name] for name in same} == {name: one[name] for name in same}
    assert two["examples_per_second_per_replica"] == two["examples_per_second"] / 2
    assert two["strong_scaling_efficiency"] == two["examples_per_second"] / one["examples_per_second"]
    assert two["weak_scaling_efficiency"] is None and two["ideal_speedup"] == 1
    slowest = two["slowest_worker"]
    assert slowest["rank"] in (0, 1) and slowest["examples_per_second"] <= two["examples_per_second"]
    assert slowest["step_ms"]["p50"] > 0 and slowest["peak_memory_mib"]["host"] > 100
    page = (tmp_path / "out" / "benchmark.html").read_text()
    assert "Scaling over workers" in page and "A projection, not a measurement" in page


@pytest.mark.parametrize("error, expected", [
    (MemoryError(), True), (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"), True),
    (RuntimeError("terminate called: std::bad_alloc"), True), (ValueError("no"), False),
    (tf.errors.ResourceExhaustedError(None, None, "x; No space left on device"), False)])
def test_errors_of_full_memory_are_recognized(error, expected):
    assert is_memory(error) is expected


# Starts a process of a cell alone and two together, as the command does.
STARTING = """
import json, os, sys, time
from launch.cluster.benchmark_workers import CellWorkers
from pipeline.processes import Processes
order = os.path.abspath("order.json")
json.dump({"parent": os.getpid(), "memory_limit": 0, "config": {"verbosity": "normal"}, "results": order + ".found",
           "phase": order + ".phase", "extent": {}, "workers": 2}, open(order, "w"))
with Processes(None) as processes, CellWorkers(".") as start_workers:
    alone, together = processes.start("-m", "pipeline.benchmark.cell_process", order), start_workers(order, 2)
    print("started", flush=True)
    time.sleep(3600)
"""


def test_its_processes_die_with_it(tmp_path):
    command = subprocess.Popen([sys.executable, "-c", STARTING], cwd=tmp_path, env=environment(), text=True,
                               stdout=subprocess.PIPE)
    assert command.stdout.readline() == "started\n"
    assert len(running(tmp_path)) == 3
    command.kill()
    command.communicate(timeout=600)
    deadline = time.monotonic() + 300
    while running(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running(folder):
    """Returns the process ids of cells whose order lies in a folder."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", encoding="utf-8", errors="replace") as file:
                if "pipeline.benchmark.cell_process" in (command := file.read()) and str(folder) in command:
                    found.append(int(name))
        except OSError:  # Gone meanwhile.
            continue
    return found


# Stands in for the process of a cell, which takes seconds: fails, crashes, has not enough memory, or gives figures.
PART = """
import json, os, signal, sys, time
order = json.load(open(sys.argv[1]))
config, rank = order["config"], 0
if "survey" in order:
    found = {"ceilings": {name: {"matmul_gflops": 100.0, "size": 512, "unit": "GFLOP/s"}
                          for name in order["survey"]["precisions"]},
             "image_sizes": {data: "28x28x1" for _, data in order["survey"]["pairs"]}}
else:
    if order["workers"] > 1:
        rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
        if config["batch_size"] == 24 and rank == 0:
            sys.exit(76)  # It has lost the other one, which takes a moment longer to end.
        time.sleep(600 if config["batch_size"] == 40 and rank else 0.3 * rank)
    if config["batch_size"] == 24:
        sys.exit("Traceback (most recent call last)\\nValueError: as a defect does")
    if config["batch_size"] == 40 and not rank:
        os.kill(order["parent"], int(os.environ["SIGNAL"]))
        time.sleep(600 if os.environ["SIGNAL"] == "15" else 0)
    if config["batch_size"] == 48:
        os.kill(os.getpid(), signal.SIGSEGV)
    if config["batch_size"] > 100:
        os.kill(os.getpid(), signal.SIGKILL)
    if config["batch_size"] > 60 or config["model"] == "resnet_like":
        sys.exit(3)
    rate = config["batch_size"] * float(os.environ["RATE"])
    found = {"examples_per_second": rate, "repeats": [rate] * 5, "spread": [rate, rate], "input_wait_share": 0.0,
             "step_ms": {"p50": 1.0, "p90": 1.0, "p99": 1.0}, "reduced_bytes": 4000000, "flops_per_example": 1e6,
             "split_ms": {"forward": 1.0, "backward": 1.0, "reduction": 1.0, "update": 1.0, "rest": 1.0},
             "peak_memory_mib": {"host": 1.0, "device": None}}
    if rank:
        order["results"], found["examples_per_second"] = order["results"].replace(".json", "-1.json"), 0.9 * rate
json.dump(found, open(order["results"], "w"))
"""
# Runs the command with PART for its cells in a process of its own.
STAND_IN = f"""
import sys
from launch import __main__ as command_line
from pipeline import processes
start = processes.Processes.start
processes.Processes.start = lambda self, *rest: start(self, "-IS", "-c", {PART!r}, rest[-1])
sys.exit(command_line.main(sys.argv[1:]))
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    """Returns a function that runs the command in this process with PART for its cells: (exit code, out, err)."""
    start_process = processes.Processes.start
    start_workers = benchmark_workers.LocalStart
    monkeypatch.setattr(processes.Processes, "start", lambda self, *rest: start_process(
        self, "-IS", "-c", PART, rest[-1]))
    monkeypatch.setattr(benchmark_workers, "LocalStart", lambda command, *rest: start_workers(
        [sys.executable, "-IS", "-c", PART, command[-1]], *rest))
    monkeypatch.setattr(page, "page", lambda report: "")  # Its plots take longer than everything else.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RATE", "10")
    monkeypatch.setenv("SIGNAL", str(int(signal.SIGTERM)))

    def run(*arguments):
        code = command_line.main(["benchmark", *arguments])
        return code, *capsys.readouterr()
    return run


def cells(folder="runs/benchmark"):
    """Returns {batch size: cell} of benchmark.json."""
    with open(os.path.join(folder, "benchmark.json"), encoding="utf-8") as file:
        return {cell["batch_size"]: cell for cell in json.load(file)["cells"]}


def test_a_failed_cell_does_not_end_the_benchmark(sweep):
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


def test_a_failed_worker_fails_its_cell_alone(sweep):
    settings = ("--batch_sizes=16,24,64", "--precision=float32", "--workers=1,2")
    code, out, err = sweep(*settings)
    assert code == 1 and err.startswith("mirrorline benchmark: 2 of 6 cells failed: ")
    with open("runs/benchmark/benchmark.json", encoding="utf-8") as file:
        found = {(cell["workers"], cell["batch_size"]): cell for cell in json.load(file)["cells"]}
    assert found[2, 24]["error"] == "worker 1 ended with exit code 1: ValueError: as a defect does"
    assert {key for key, cell in found.items() if cell["status"] == "ok"} == {(1, 16), (1, 64), (2, 16), (2, 64)}
    assert (found[2, 64]["fitted_batch_size"], found[2, 64]["weak_scaling_efficiency"]) == (32, 2.0)
    assert found[2, 16]["slowest_worker"]["examples_per_second"] == 0.9 * found[2, 16]["examples_per_second"]
    assert "cnn 28x28x1 float32, 2 workers, batch 16, xla off: 160" in out
    assert sweep(*settings)[1].count("measured before") == 5


def test_a_killed_benchmark_resumes(sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGNAL", str(int(signal.SIGKILL)))
    settings = ("benchmark", "--batch_sizes=16,40", "--precisions=float32", "--replica_counts=1")
    killed = subprocess.run([sys.executable, "-c", STAND_IN, *settings], cwd=tmp_path, capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, timeout=600)
    assert killed.returncode == -signal.SIGKILL and not os.path.exists("runs/benchmark/benchmark.json")
    code, out, err = sweep("--batch_sizes=16,32", *settings[2:])
    assert code == 0 and "2 cells in runs/benchmark, 1 of them measured before" in out, err
    assert list(cells()) == [16, 32]


def test_a_stopped_benchmark_keeps_its_cells(sweep):
    settings = ("--batch_sizes=16,32,40,64", "--precisions=float32", "--replica_counts=1", "--quick")
    code, _, err = sweep(*settings)
    assert (code, err) == (75, "stopped with 2 of 4 cells measured; run the same command again to continue\n")
    assert list(cells()) == [16, 32]
    with open("runs/benchmark/benchmark.json", encoding="utf-8") as file:
        report = json.load(file)
    assert not report["complete"] and report["measuring"]["repeat_seconds"] == 0.2


def test_a_benchmark_is_stopped_while_several_workers_are_measured(sweep, tmp_path):
    code, _, err = sweep("--batch_sizes=16,40", "--precisions=float32", "--workers=2")
    assert (code, err) == (75, "stopped with 1 of 2 cells measured; run the same command again to continue\n")
    assert sleeping() == []  # They were not waited for.


def sleeping():
    """Returns the workers of PART that run below this process."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # Gone meanwhile.
            found += [child] if PART in child.cmdline() else []
    return found


def test_a_model_that_does_not_fit_is_no_failure(sweep):
    code, out, _ = sweep("--models=resnet_like", "--batch_sizes=16", "--precisions=float32", "--replica_counts=2")
    assert code == 0 and "trying 2\n" in out and "a batch of 2 does not fit\n" in out
    assert cells()[16]["status"] == "does_not_fit"


def test_cells_under_other_conditions_do_not_count(sweep):
    settings = ("--batch_sizes=16", "--precisions=float32", "--replica_counts=1,2")
    assert sweep(*settings)[0] == 0
    for more, part in (["--learning_rate=0.5"], "flags"), (["--learning_rate=0.5", "--repeats=6"], "measuring"):
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
    (["--image_sizes=8x8x1", "--dataset=mnist"], "--image_sizes generates random images; found --dataset=mnist too"),
    (["--compare=none.json"], "cannot read 'none.json'"), (["--repeat_seconds=0"], "--repeat_seconds must be a number"),
    (["--link_inside=5:3", "--project=8"], "--link_between must be GB/s:microseconds"),
    (["--output=/dev/null/x"], "--output=/dev/null/x cannot be written"), (["--project=1"], "--project=1: give"),
    (["--link_efficiency=1.5"], "--link_efficiency=1.5: give a share"), (["--workers=0"], "--workers must be whole"),
    (["--workers=65", "--batch_sizes=65"], "--workers=65: give at most 64"),
    (["--workers=3"], "a batch of 16 cannot be shared out over 3 workers"),
    (["--workers=2", "--cross_device_reduction=tree"], "--cross_device_reduction=tree works on one machine only"),
    (["--workers=1,2", "--xla_modes=on"], "--xla_modes=on with 2 workers needs --nosync_batch_norm"),
])
def test_wrong_use_is_one_line_and_leaves_nothing(sweep, tmp_path, arguments, line):
    code, out, err = sweep(*arguments)
    assert (code, out) == (2, "") and err.startswith(f"mirrorline benchmark: {line}") and err.count("\n") == 1, err
    assert os.listdir(tmp_path) == []


def test_a_model_that_does_not_exist_is_found_before_anything_is_measured(tmp_path):
    done = with_forked_children("benchmark", "--models=mlp,cnm", "--verbosity=quiet", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and os.listdir(tmp_path) == []
    assert done.stderr.startswith("mirrorline benchmark: unknown model 'cnm': did you mean 'cnn'?")


@pytest.mark.parametrize("code, text, limited, expected", [
    (3, "", False, True), (-9, "", False, True), (-6, "terminate called: std::bad_alloc", False, True),
    (-11, "", True, True), (-11, "", False, False), (1, "RESOURCE_EXHAUSTED: OOM when allocating", False, True),
    (1, "RESOURCE_EXHAUSTED: x; No space left on device", False, False), (1, "ValueError: no", True, False),
    (None, "too long", True, False),
])
def test_lack_of_memory_is_recognized(code, text, limited, expected):
    assert ends_for_memory(code, text, limited) is expected
    assert "SIGSEGV" in ending(-11)
