"""A run has the same bits on another number of cores, since it keeps its number of threads."""
import json
import os

import pytest

from launch import __main__ as command_line
from pipeline import arithmetic
from pipeline.run_directory import evaluation_config
from tests.commands import answers, result, start
from tests.selection import quick

RUN = ("train", "--dataset=digits", "--batch_size=100", "--subset=4", "--schedule=constant", "--augment=",
       "--tensorboard=scalars")


def train(folder, workdir, *flags):
    """Trains on the first core that this process may use, to its end; returns (output, errors)."""
    process = start(*RUN, f"--model={folder.name}", f"--workdir={workdir}", *flags, cwd=folder)
    if not flags or "--threads" not in flags[-1]:
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return out, errors


def device(folder, workdir):
    """Returns the device of a run's config.json."""
    return json.loads((folder / workdir / "config.json").read_text())["device"]


@pytest.mark.parametrize("text", ["-1", "two", "2.0", "100000", "9" * 30])
def test_invalid_number_of_threads_in_the_environment(text, monkeypatch, capsys):
    arithmetic.check_environment({"TF_NUM_INTRAOP_THREADS": "2"})
    arithmetic.check_environment({})
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", text)
    assert command_line.main(["doctor"]) == 2
    assert capsys.readouterr().err == (f"mirrorline doctor: TF_NUM_INTRAOP_THREADS must be a whole number from 0, for "
                                       f"all cores, to 4096; found '{text}'\n")


@pytest.fixture(scope="module", params=quick(["mlp", "cnn"], 0))
def folder(request, tmp_path_factory):
    """A folder called by a model with runs of it by three threads: of four steps, `whole`, and of two, `parts`."""
    folder = tmp_path_factory.mktemp("threads") / request.param
    folder.mkdir()
    found = answers([(*RUN, f"--model={folder.name}", f"--workdir={name}", f"--steps={steps}", "--threads=3")
                     for name, steps in (("whole", 4), ("parts", 2))], folder)
    assert [code for code, _, _ in found] == [0, 0], found
    return folder


def test_run_resumed_on_other_cores_has_the_same_weights(folder):
    out, errors = train(folder, "parts", "--steps=4")
    assert "threads 3, as this run began" in out and not errors
    assert device(folder, "parts")["threads"] == 3
    assert result(folder / "parts")["weights_sha256"] == result(folder / "whole")["weights_sha256"]


@pytest.mark.acceptance
def test_requested_other_number_of_threads_gives_a_warning(folder):
    _, errors = train(folder, "whole", "--steps=7", "--threads=1")
    assert "computed with 3 threads, now with 1" in errors and "(--threads=3)" in errors and errors.count("\n") == 1
    assert device(folder, "whole")["threads"] == 1


def test_evaluation_uses_the_threads_of_the_run(folder):
    stored = json.loads((folder / "whole" / "config.json").read_text())
    assert evaluation_config(stored, {}).runtime.threads == stored["device"]["threads"]


@pytest.mark.parametrize("stored,threads", [
    (None, 0), ({}, 0), ({"device": {"kind": "CPU", "count": 1, "cores": 8}}, 8),  # Of a run begun before.
    ({"device": {"kind": "CPU", "count": 1, "cores": 8, "threads": 3}}, 3),
    ({"device": {"kind": "GPU", "count": 1, "cores": 8, "threads": 8}}, 0)])
def test_threads_of_a_run(stored, threads):
    assert arithmetic.stored_threads(stored) == threads


NOW = {"kind": "CPU", "threads": 8, "onednn": True, "instructions": "avx512_vnni"}


@pytest.mark.parametrize("before,says", [
    ({}, []), (NOW, []), ({**NOW, "kind": "GPU", "threads": 1}, []), ({"kind": "CPU", "cores": 8}, []),
    ({"kind": "CPU", "cores": 1}, ["with 1 thread, now with 8"]),
    ({**NOW, "onednn": None}, []), ({**NOW, "onednn": False, "instructions": "avx2"}, ["TF_ENABLE_ONEDNN_OPTS=0"]),
    ({**NOW, "instructions": "avx2"}, ["the instructions avx2, now with avx512_vnni"]),
    ({**NOW, "threads": 2, "instructions": "avx2"}, ["with 2 threads", "avx512_vnni"])])
def test_changes_of_the_arithmetic(before, says):
    lines = arithmetic.changes(before, NOW)
    assert len(lines) == len(says) and all(text in line for text, line in zip(says, lines, strict=True))


def test_arithmetic_of_this_process(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    found = arithmetic.describe({"avx", "avx2", "avx512f"})
    assert found["instructions"] == "avx512f, at most avx2" and found["threads"] >= 1
    assert found["onednn"] in (True, False)
    assert arithmetic.default_threads({"TF_NUM_INTRAOP_THREADS": "5"}) == 5
    assert arithmetic.default_threads({"TF_NUM_INTRAOP_THREADS": "0"}) == len(os.sched_getaffinity(0))
