"""The ceiling of a machine: measured at length, measured quickly, and kept for the runs to come."""
import json
import os

import pytest

from pipeline.monitoring import ceiling, known_rates
from tests.selection import half_precision


@half_precision
def test_the_ceiling_is_the_fastest_round_of_the_fastest_size(monkeypatch):
    assert ceiling.product_seconds(64, "bfloat16", "CPU", 3) > 0
    # The last is measured first; a size of which one product takes so long gets two rounds, and none is larger.
    rounds = {512: [9.0, 4e-3, 1e-3, 2e-3, 3e-3, 5e-3], 1024: [8e-3, 1e-2, 6e-3, 5e-3, 9e-3, 1e-2],
              2048: [0.9, 0.8, 1.0]}
    monkeypatch.setattr(ceiling, "product_seconds", lambda size, dtype, kind, repetitions=1: rounds[size].pop())
    found = ceiling.matrix_product_rate("mixed_bfloat16", "CPU")
    assert found == {"matmul_gflops": 2 * 1024**3 / 5e-3 / 1e9, "size": 1024, "unit": "GFLOP/s"} and rounds[2048] == []


@pytest.mark.parametrize("slowness, largest", [(1e-12, 2048), (1e-11, 1024), (1e-8, 256)])
def test_a_quick_measurement_ends_in_time_on_fast_and_slow_machines(monkeypatch, slowness, largest):
    clock, sizes = [0.0], []

    def product(size, dtype, kind, repetitions=1):
        sizes.append(size)
        clock[0] += (repetitions + 1) * slowness * size**3
        return slowness * size**3

    monkeypatch.setattr(ceiling, "product_seconds", product)
    monkeypatch.setattr(ceiling.time, "perf_counter", lambda: clock[0])
    rate = ceiling.quick_matrix_product_rate("float32", "CPU")
    assert rate == pytest.approx(2 / slowness / 1e9) and max(sizes) == largest
    assert clock[0] <= max(ceiling.QUICK_SECONDS, 2 * slowness * 256**3) + 1e-9


def test_the_quick_measurement_finds_a_real_rate():
    rate = ceiling.quick_matrix_product_rate("float32", "CPU")
    assert 0.01 < rate < 1e6  # GFLOP/s, of any machine however busy.


def test_a_rate_is_kept_for_the_same_machine_alone(tmp_path):
    key = known_rates.machine_key("float32", "CPU")
    assert key["cores"] == len(os.sched_getaffinity(0)) and key["gpus"] == [] and key["precision"] == "float32"
    folder = str(tmp_path / "cache")
    assert known_rates.read_rate(key, folder) is None
    known_rates.write_rate(key, folder, 123.5)
    assert known_rates.read_rate(key, folder) == 123.5
    assert known_rates.read_rate({**key, "cores": 77}, folder) is None
    assert os.listdir(folder) == [os.path.basename(known_rates.rate_path(key, folder))]  # Nothing else is left.


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"machine": 1, "gflops": 2}', "\xff\xfe"])
def test_an_unreadable_cache_is_as_none(tmp_path, text):
    key = known_rates.machine_key("float32", "CPU")
    path = known_rates.rate_path(key, str(tmp_path))
    with open(path, "w", encoding="latin-1") as file:
        file.write(text)
    assert known_rates.read_rate(key, str(tmp_path)) is None
    known_rates.write_rate(key, str(tmp_path), 5.0)
    assert known_rates.read_rate(key, str(tmp_path)) == 5.0


def test_rates_that_cannot_be_are_not_believed(tmp_path):
    key = known_rates.machine_key("float32", "CPU")
    for rate in (0, -1, float("nan")):
        with open(known_rates.rate_path(key, str(tmp_path)), "w", encoding="utf-8") as file:
            json.dump({"machine": key, "gflops": rate}, file)
        assert known_rates.read_rate(key, str(tmp_path)) is None


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    known_rates.write_rate(known_rates.machine_key("float32", "CPU"), str(tmp_path / "file"), 1.0)
    assert (tmp_path / "file").read_text() == ""
