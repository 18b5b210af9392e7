"""The cells of a benchmark, and which are refused."""
import pytest

from pipeline.benchmark import grid
from pipeline.config import ExperimentConfig
from pipeline.errors import UsageError

AXES = {"models": ("mlp", "cnn"), "datasets": ("digits",), "precisions": ("float32", "mixed_float16"),
        "workers": (1,), "replica_counts": (1, 2), "batch_sizes": (64, 16, 32), "xla_modes": ("off",)}


def test_every_combination_once_one_precision_after_the_other():
    cells = grid.cells(AXES)
    assert len(cells) == len(set(cells)) == 24
    assert [cell.precision for cell in cells] == ["float32"] * 12 + ["mixed_float16"] * 12
    assert [cell.batch_size for cell in cells[:6]] == [16, 32, 64] * 2
    assert len({cell.name for cell in cells}) == 24


def test_a_cell_is_the_configuration_with_what_is_varied():
    base = ExperimentConfig.from_flat({"learning_rate": 0.5, "augment": ("crop",)})
    config = grid.cells(AXES)[-1].config(base)
    changed = {name: value for name, value in config.flat().items() if value != base.flat()[name]}
    assert changed == {"precision": "mixed_float16", "replicas": 2, "xla": "off", "force": True}
    assert grid.cells(AXES)[-1].config(base, 8).training.batch_size == 8


def test_workers_are_another_cell_of_the_same_configuration():
    cells = grid.cells({**AXES, "workers": (1, 2)})
    assert [(cell.workers, cell.replicas) for cell in cells[:12:3]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert len({cell.name for cell in cells}) == 48 and cells[9].all_replicas == 4
    base = ExperimentConfig.from_flat({})
    assert cells[0].config(base).flat() == cells[6].config(base).flat()
    assert cells[0].name == grid.cells(AXES)[0].name  # What was measured before there were workers still counts.


@pytest.mark.parametrize("batch_size, multiple_of, expected", [
    (64, 1, 32), (3, 1, 1), (1, 1, None), (12, 4, 4), (4, 4, None), (7, 2, 2)])
def test_half_of_a_batch_divides_over_the_replicas(batch_size, multiple_of, expected):
    assert grid.halved(batch_size, multiple_of) == expected


@pytest.mark.parametrize("options, cell, words", [
    ({}, {"replicas": 2, "xla": "on"}, "needs --nosync_batch_norm"),
    ({}, {"replicas": 3}, "it has to be a multiple of 3"),
    ({"augment": ("mixup",), "accumulate_steps": 4}, {"replicas": 3}, "it has to be a multiple of 24"),
    ({}, {"workers": 2, "xla": "on"}, "with 2 workers needs --nosync_batch_norm.* or give --workers=1 and"),
    ({}, {"workers": 3, "replicas": 2}, "over 3 workers of 2 replicas: .* a multiple of 6"),
])
def test_invalid_cells_are_refused(options, cell, words):
    cell = grid.Cell(**{"model": "mlp", "dataset": "digits", "precision": "float32", "replicas": 1, "batch_size": 64,
                        "xla": "off", **cell})
    with pytest.raises(UsageError, match=words):
        grid.check(cell, ExperimentConfig.from_flat(options))
    if cell.xla == "on":
        grid.check(cell, ExperimentConfig.from_flat({"sync_batch_norm": False}))
