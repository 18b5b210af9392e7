"""Data on the devices: batches and results equal those of the stream."""
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from pipeline.data import resident
from pipeline.data.source import Split
from pipeline.errors import UsageError
from tests.selection import quick
from tests.training.small import build, run, weights

MIXED = {"augment": ("flip", "trivialaugment", "erasing", "blur", "mixup", "cutmix"), "accumulate_steps": 2,
         "batch_size": 32}


@pytest.mark.parametrize("replicas,options", quick([(1, {}), (1, MIXED), (2, MIXED),
                                                    (2, {**MIXED, "model": "mlp", "subset": 20}),
                                                    (4, {"batch_size": 32, "model": "mlp"}),
                                                    (1, {"augment": ("flip", "crop"), "batch_size": 32, "model": "mlp",
                                                         "subset": 4})], 5))
def test_steps_and_evaluation_are_those_of_the_stream(strategy, replicas, options):
    found = {}
    for cache in ("host", "device"):
        experiment = build(strategy(replicas), **{"model": "three_apis", "cache": cache, **options})
        steps = experiment.plan.steps_per_epoch + 5
        rows = np.concatenate([run(experiment, steps), run(experiment, 2, start=steps)])
        figures = [experiment.evaluate(split).figures for split in (experiment.source.test, experiment.source.train)]
        found[cache] = rows[:, :-1], weights(experiment), figures
    np.testing.assert_array_equal(found["host"][0], found["device"][0])
    for host, device in zip(found["host"][1], found["device"][1], strict=True):
        np.testing.assert_array_equal(host, device)
    assert found["host"][2] == found["device"][2]


def test_an_iterator_opens_anywhere_and_nothing_is_traced_twice(strategy):
    experiment = build(strategy(1), cache="device")
    first, again = run(experiment, 3, start=7), None
    for _ in range(2):
        experiment.evaluate(experiment.source.test)
    experiment = build(strategy(1), cache="device")
    for start, steps in ((7, 1), (8, 2)):
        rows = run(experiment, steps, start)
        again = rows if again is None else np.concatenate([again, rows])
    np.testing.assert_array_equal(first[:, :-1], again[:, :-1])
    assert experiment.steps.train_steps.experimental_get_tracing_count() == 1
    assert (first[:, -1] == 0).all()  # There is no input to wait for.


@pytest.mark.parametrize("cache", ["host", "device"])
def test_splits_of_the_same_name_are_not_confused(strategy, cache):
    experiment = build(strategy(1), cache=cache)
    test = experiment.source.test
    for size in (40, 7, 40):
        figures = experiment.evaluate(test.select(np.arange(size))).figures
        assert figures["examples"] == size


def test_each_replica_can_have_a_copy(strategy):
    experiment = build(strategy(2), cache="device", augment=("crop",))
    split = experiment.source.train
    batches = []
    for copy in (False, True):
        with strategy(2).scope():
            iterator = resident.TrainIterator(resident.ResidentSplit(split, copy), experiment.layout, 3, ()).open(5)

        def rows(ones, iterator=iterator):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            return iterator.rows(tf.constant(5, tf.int64), tf.cast(replica, tf.int64))
        batches.append(strategy(2).run(tf.function(rows, autograph=False), args=(tf.ones([1]),)))
    for name in ("image", "label"):
        for plain, copied in zip(batches[0][name].values, batches[1][name].values, strict=True):
            np.testing.assert_array_equal(plain, copied)
    assert (batches[0]["image"].values[0].numpy() != batches[0]["image"].values[1].numpy()).any()


def test_a_split_that_streams_is_refused_in_one_line(strategy):
    experiment = build(strategy(1), cache="device")
    split = experiment.source.train
    streaming = Split(split.name, split.num_examples, reader=object())
    experiment.source = dataclasses.replace(experiment.source, train=streaming)
    with pytest.raises(UsageError, match="--cache=device: the train split streams .*--memory_budget"):
        experiment.train_iterator(0)
