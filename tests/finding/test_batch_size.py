"""The search for a batch size."""
import functools

import pytest

from pipeline import processes
from pipeline.config import ExperimentConfig
from pipeline.console import Console
from pipeline.errors import RunFailure, UsageError
from pipeline.finding.batch_size import BatchTries, TriedBatch, flags_to_use, scaled_rate, search
from tests import commands

QUIET = Console(quiet=True)


def machine(most, rate=lambda size: 1000.0, examples=10**6):
    """Returns (a machine that fits batches up to a size, the sizes that were tried)."""
    tried = []

    def attempt(size):
        tried.append(size)
        figures = {"examples_per_second": rate(size), "step_ms": 1e3 * size / rate(size), "num_examples": examples}
        return TriedBatch(size, figures if size <= most else None)

    return attempt, tried


@pytest.mark.parametrize("most, multiple, replicas, tried, largest", [
    (100, 1, 1, [16, 32, 64, 128, 96], 96), (90, 1, 1, [16, 32, 64, 128, 96], 64), (16, 1, 1, [16, 32, 24], 16),
    (7, 1, 1, [16, 8, 4, 6], 6), (1, 1, 1, [16, 8, 4, 2, 1], 1), (200, 2, 2, [32, 64, 128, 256, 192], 192),
    (70, 6, 1, [24, 48, 96, 72], 48), (40, 48, 1, [48], None)])
def test_sizes_double_until_one_does_not_fit(most, multiple, replicas, tried, largest):
    attempt, done = machine(most)
    if largest is None:
        with pytest.raises(RunFailure, match="not even a batch of 48 fits"):
            search(attempt, multiple, replicas, 10)
    else:
        found = search(attempt, multiple, replicas, 10)
        assert found.largest.batch_size == largest and found.bound.endswith("does not fit")
        assert [one.batch_size for one in found.tried] == sorted(tried)
    assert done == tried


def test_the_fastest_is_the_smallest_that_is_as_fast():
    rates = {16: 100, 32: 200, 64: 390, 128: 400, 256: 380}
    attempt, _ = machine(300, rates.get, examples=300)
    found = search(attempt, 1, 1, 10)
    assert (found.fastest.batch_size, found.largest.batch_size) == (64, 256)
    assert found.bound == "512 is more than the 300 training examples"


def test_long_steps_and_sizes_that_options_refuse_are_not_tried():
    attempt, done = machine(10**9, lambda size: 10.0)
    found = search(attempt, 1, 1, 10)
    assert done == [16, 32, 64] and "128 would take longer than 10 s" in found.bound

    def refusing(size):
        if size > 32:
            raise UsageError("--unfreeze_at: step 300 is not inside this run")
        return attempt(size)

    assert search(refusing, 1, 1, 10).bound == "--unfreeze_at: step 300 is not inside this run"


@pytest.mark.parametrize("options, rate, words", [
    ({"optimizer": "sgd"}, 0.4, "in proportion"), ({"optimizer": "lars"}, 0.4, "in proportion"),
    ({"optimizer": "adamw"}, 0.2, "square root"), ({"optimizer": "muon"}, 0.2, "square root"),
    ({"optimizer": "adam", "learning_rate": 0.001}, 0.002, "square root")])
def test_the_rate_that_belongs_to_a_batch(options, rate, words):
    config = ExperimentConfig.from_flat({"learning_rate": 0.1, "batch_size": 64, **options})
    found, rule = scaled_rate(config, 256)
    assert found == rate and words in rule and options["optimizer"] in rule
    assert flags_to_use(config, 256) == f"--batch_size=256 --learning_rate={rate:g}"


def test_the_rate_of_a_base_follows_by_itself():
    config = ExperimentConfig.from_flat({"base_learning_rate": 0.1, "optimizer": "adam"})
    assert scaled_rate(config, 512)[0] == 0.2 and flags_to_use(config, 512) == "--batch_size=512"


def test_a_batch_beyond_the_memory_limit_does_not_fit(monkeypatch):
    monkeypatch.setattr(processes.Processes, "start", functools.partialmethod(
        commands.start_forked, processes.Processes.start))
    config = ExperimentConfig.from_flat({"dataset": "synthetic:64x64x3", "model": "mlp", "optimizer": "sgd"})
    with BatchTries(config, 1200, 60, QUIET) as attempt:
        assert attempt(16384) == TriedBatch(16384, None)


@pytest.mark.acceptance
@pytest.mark.parametrize("options", [
    {}, {"replicas": 2}, {"accumulate_steps": 4}, {"cache": "device"}, {"augment": ("mixup", "crop:1")},
    {"freeze": ("backbone",), "unfreeze_at": ("1epoch",)}, {"xla": "on"}])
def test_every_kind_of_training_is_measured(options):
    config = ExperimentConfig.from_flat({"model": "mlp", "verbosity": "quiet", **options})
    with BatchTries(config, 0, 60, QUIET) as attempt:
        figures = attempt(32).figures
    assert figures["num_examples"] == 1437 and figures["examples_per_second"] > 0
    assert figures["peak_memory_mib"]["host"] > 100
