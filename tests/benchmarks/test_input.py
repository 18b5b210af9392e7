"""The comparison of input pipelines: every stream delivers, and its table has all of them."""
import dataclasses
import re
import sys

import numpy as np
import pytest

from benchmarks import input as comparison
from benchmarks import photographs
from benchmarks.pulling import pull

SMALL, LARGE, MEMORY = comparison.WORKLOADS
TINY = {SMALL: dataclasses.replace(comparison.WORKLOADS[SMALL], height=60, width=80, size=32, count=2, batch_size=2),
        MEMORY: dataclasses.replace(comparison.WORKLOADS[MEMORY], count=20, batch_size=4)}


@pytest.mark.acceptance
def test_every_stream_is_in_the_table(tmp_path, monkeypatch, capsys):
    """PyTorch's column too, by a process that serves numbers in place of batches: torch is not installed for tests."""
    monkeypatch.setattr(comparison, "WORKLOADS", TINY)
    monkeypatch.setattr(comparison, "TORCH_PROGRAM", "tests.benchmarks.served_input")
    monkeypatch.setattr(comparison, "find_torch", lambda python: comparison.TorchPython(sys.executable, {"torch": "9"}))
    assert comparison.main(["--rounds=1", "--seconds=0.05", f"--folder={tmp_path}"]) == 0
    output = capsys.readouterr().out
    found = {name: (float(rate.replace(",", "")), float(cost))
             for name, rate, cost in re.findall(r"\| ([^|]+) \| ([\d,]+) \| ([\d.e-]+) \|", output)}
    assert set(found) == {comparison.CROP, comparison.STRETCH, comparison.FUSED, comparison.KERAS, comparison.MEMORY,
                          comparison.TF_DATA, comparison.TORCH}
    assert all(rate > 0 and cost > 0 for rate, cost in found.values())
    for (own, peer), bound in TINY[SMALL].targets.items():
        line = rf"\| {own}, over {peer} \| [\d.]+ \| .+ \| {'≥ ' + format(bound, 'g') if bound else ''} \|"
        assert re.search(line, output)
    assert ", torch 9; load before" in output and "left out" not in output


def test_without_pytorch_its_column_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "find_torch", lambda python: None)
    monkeypatch.setattr(comparison, "WORKLOADS", {MEMORY: TINY[MEMORY]})
    assert comparison.main(["--rounds=1", "--seconds=0.05", f"--folder={tmp_path}"]) == 0
    output = capsys.readouterr().out
    assert "left out, since torch and torchvision are not installed: pip install '.[peers]'" in output
    assert output.count(comparison.TORCH) == 1


def test_batches_are_counted_after_the_first():
    sizes = iter([101, *[4] * 10**7])
    found = pull(lambda: lambda: next(sizes), 0.01)
    assert found["images"] % 4 == 0 and found["seconds"] >= 0.01 and found["processor"] > 0


def test_a_photograph_is_as_long_as_one_of_a_camera():
    draw = np.random.default_rng(0)
    assert len(photographs.photograph(draw, 375, 500, 20, 90)) / (375 * 500) == pytest.approx(0.47, abs=0.05)


@pytest.mark.parametrize("arguments, expected", [
    (["--rounds=0"], "--rounds must be at least 1; found 0"), (["--seconds=0"], "--seconds must be above 0; found 0"),
    (["--only=32x32 in memoru"], "did you mean '32x32 in memory'"),
    (["--torch_python=/nowhere/python"], "--torch_python=/nowhere/python cannot import torch, torchvision and NumPy"),
])
def test_bad_input_is_one_line(arguments, expected, capsys):
    assert comparison.main(arguments) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
