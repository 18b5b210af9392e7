"""Figures that compare cells, against ratios calculated by hand."""
import pytest

from pipeline.benchmark.derived import derive, is_halved, median_speedup
from tests.benchmark.reports import cell, failed

CEILINGS = {"float32": {"matmul_gflops": 250.0}, "mixed_bfloat16": {"matmul_gflops": 100.0}}


def derived(*cells, **options):
    derive(list(cells), CEILINGS, **options)
    return cells


def test_speed_up_is_over_float32_with_all_else_equal():
    base, half, other, several = derived(
        cell(rate=800.0), cell(precision="mixed_bfloat16", rate=400.0),
        cell(precision="mixed_bfloat16", rate=400.0, xla="on"), cell(precision="mixed_bfloat16", rate=1e3, replicas=2))
    assert half["speedup_over_float32"] == 0.5
    assert base["speedup_over_float32"] is other["speedup_over_float32"] is several["speedup_over_float32"] is None
    assert median_speedup([base, half, other], "mixed_bfloat16") == 0.5
    assert median_speedup([other], "mixed_bfloat16") is None


def test_scaling_on_gpus_is_over_n_times_one_replica():
    small, large, two = derived(cell(gpu=True, batch_size=64, rate=1000.0), cell(gpu=True, batch_size=128, rate=1250.0),
                                cell(gpu=True, batch_size=128, replicas=2, rate=1900.0))
    assert two["weak_scaling_efficiency"] == 0.95
    assert two["strong_scaling_efficiency"] == 0.76
    assert two["ideal_speedup"] == 2
    assert small["weak_scaling_efficiency"] is large["strong_scaling_efficiency"] is None


def test_the_ideal_of_replicas_that_share_cores_is_1x():
    *_, two = derived(cell(batch_size=64, rate=1000.0), cell(batch_size=128, rate=1250.0),
                      cell(batch_size=128, replicas=2, rate=900.0))
    assert (two["weak_scaling_efficiency"], two["strong_scaling_efficiency"], two["ideal_speedup"]) == (0.9, 0.72, 1)
    *_, two = derived(cell(rate=1000.0), cell(replicas=2, rate=900.0), shared_cores=False)
    assert two["strong_scaling_efficiency"] == 0.45


def test_scaling_of_workers_is_over_one_worker_with_as_many_replicas():
    cells = (cell(gpu=True, workers=w, replicas=r, batch_size=64 * w * r, rate=rate)
             for w, r, rate in ((1, 1, 1000.0), (1, 2, 1900.0), (2, 1, 1800.0), (2, 2, 3420.0)))
    _, replicas, workers, both = derived(*cells, cell(gpu=True, workers=2, batch_size=64, rate=1500.0),
                                         shared_cores=False)[:4]
    assert (replicas["weak_scaling_efficiency"], workers["weak_scaling_efficiency"]) == (0.95, 0.9)
    assert both["weak_scaling_efficiency"] == 0.9 and both["ideal_speedup"] == 2
    one, two = derived(cell(rate=800.0, batch_size=128), cell(workers=2, rate=600.0, batch_size=128))
    assert (two["strong_scaling_efficiency"], two["weak_scaling_efficiency"], two["ideal_speedup"]) == (0.75, None, 1)
    _, two = derived(cell(gpu=True, rate=1000.0), cell(gpu=True, workers=2, replicas=2, rate=1000.0,
                                                       flops_per_example=2e8), shared_cores=False)
    assert two["ceiling_share"] == 0.2


def test_the_ceiling_is_that_of_the_precision_and_of_all_devices():
    one, half, none, unknown = derived(
        cell(rate=1000.0, flops_per_example=2e8), cell(precision="mixed_bfloat16", rate=400.0, flops_per_example=2e8),
        cell(precision="mixed_float16", rate=40.0), cell(rate=1.0, flops_per_example=None, batch_size=2))
    assert (one["ceiling_share"], half["ceiling_share"]) == (0.8, 0.8)
    assert none["ceiling_share"] is unknown["ceiling_share"] is None
    (two,) = derived(cell(gpu=True, replicas=2, rate=1000.0, flops_per_example=2e8))
    assert two["ceiling_share"] == 0.4


def test_halved_batches_are_compared_with_others_of_their_size():
    base, half = derived(cell(batch_size=64, rate=800.0),
                         cell(batch_size=256, fitted_batch_size=64, precision="mixed_bfloat16", rate=400.0))
    assert is_halved(half) and not is_halved(base)
    assert half["speedup_over_float32"] == 0.5
    # The batch of 256 was not measured: it has no derived figures.
    base, half = derived(cell(batch_size=256, fitted_batch_size=128, rate=800.0),
                         cell(batch_size=256, precision="mixed_bfloat16", rate=400.0))
    assert half["speedup_over_float32"] is None
    # Two measurements of one size: the one asked for counts.
    _, _, half = derived(cell(batch_size=128, fitted_batch_size=64, rate=100.0), cell(batch_size=64, rate=800.0),
                         cell(batch_size=64, precision="mixed_bfloat16", rate=400.0))
    assert half["speedup_over_float32"] == 0.5


@pytest.mark.parametrize("ceilings", [None, {}, {"float32": None}])
def test_cells_that_failed_derive_nothing_and_serve_as_no_base(ceilings):
    cells = [failed(), cell(precision="mixed_bfloat16"), cell(replicas=2)]
    derive(cells, ceilings)
    assert [c[name] for c in cells for name in ("speedup_over_float32", "strong_scaling_efficiency", "ceiling_share")
            ] == [None] * 9
