"""Batches in memory and streamed: what is in them, where, and how often."""
import dataclasses
import threading

import numpy as np
import pytest
from PIL import Image

from pipeline.augmentation import Augmentation
from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data.load import load
from pipeline.data.source import Split
from pipeline.data.stream import BatchLayout, eval_batches, train_stream
from pipeline.errors import UsageError
from tests.data.numbered import TEST, TRAIN, numbered_split, numbers_of
from tests.selection import quick

MIXUP = (Augmentation("mixup", None),)
SIZE, SEED = 50, 4


@pytest.fixture(scope="module", params=quick(["memory", "records", "records with gaps", "files"], 0, 1))
def train_split(request, numbered_dir, tmp_path_factory):
    """A training split of each kind of reader, and the numbers of its examples."""
    folder = tmp_path_factory.mktemp("batches")
    if request.param == "files":
        return _image_files(folder), np.concatenate([np.arange(first, 30, 3) for first in range(3)])
    options = {"memory": {"memory_budget": 100}, "records": {"memory_budget": 0},
               "records with gaps": {"memory_budget": 0, "validation_split": 0.3}}[request.param]
    split = load(DataConfig(dataset="numbered", data_dir=numbered_dir, cache_dir=str(folder), **options), 64,
                 console=Console(quiet=True)).train
    numbers = np.concatenate([numbers_of(b["image"])[b["weight"].numpy() > 0]
                              for b in eval_batches(split, BatchLayout(128))])
    assert len(np.unique(numbers)) == split.num_examples
    return split, numbers


@pytest.fixture(scope="module")
def stream(train_split):
    """The numbers and the labels of two epochs and more of the training stream, in its order."""
    split, numbers = train_split
    steps = -(-2 * len(numbers) // SIZE) + 1
    batches = list(train_stream(split, BatchLayout(SIZE), SEED, start_step=0).take(steps))
    return np.concatenate([numbers_of(b["image"]) for b in batches]), np.concatenate([b["label"] for b in batches])


def _image_files(folder):
    images = numbered_split(30).reader.images
    for number, image in enumerate(images):
        for part in ("train", "test"):
            path = folder / "own" / part / "abc"[number % 3] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return load(DataConfig(dataset=f"folder:{folder / 'own'}", memory_budget=0), 8).train


@pytest.mark.parametrize("workers, replicas, micro_batches", quick([(2, 4, 2), (3, 6, 2)], 0))
def test_the_parts_of_several_workers_make_the_batches_of_one(train_split, workers, replicas, micro_batches):
    split, numbers = train_split
    augmentations = MIXUP if workers == 2 else (Augmentation("flip", None), *MIXUP)
    whole = BatchLayout(48, replicas, micro_batches)
    wanted = list(train_stream(split, whole, seed=3, start_step=5, augmentations=augmentations).take(2))
    parts = [list(train_stream(split, dataclasses.replace(whole, workers=workers, worker=worker), seed=3, start_step=5,
                               augmentations=augmentations).take(2)) for worker in range(workers)]
    for step, batch in enumerate(wanted):
        for name, value in batch.items():
            # Replicas are neighbours in the whole batch, and a worker has some of them.
            np.testing.assert_array_equal(np.concatenate([part[step][name] for part in parts]), value)
            assert len(parts[0][step][name]) == 48 // workers


def test_workers_divide_every_evaluation_batch_and_its_padding(train_split):
    split, numbers = train_split
    size = 16 if len(numbers) < 100 else 512
    whole = list(eval_batches(split, BatchLayout(size, 4)))
    parts = [list(eval_batches(split, BatchLayout(size, 4, 1, 2, worker))) for worker in range(2)]
    assert len(parts[0]) == len(parts[1]) == len(whole)
    for number, batch in enumerate(whole):
        for name, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[number][name] for part in parts]), value)


def test_every_epoch_meets_every_example_once_with_its_label(train_split, stream):
    _, numbers = train_split
    seen, labels = (values[:2 * len(numbers)].reshape(2, -1) for values in stream)
    np.testing.assert_array_equal(np.sort(seen, axis=1), np.tile(np.sort(numbers), (2, 1)))
    np.testing.assert_array_equal(labels, seen % 3)
    assert (seen[0] != seen[1]).mean() > 0.5
    assert np.mean(np.abs(np.diff(seen[0])) < 2) < 0.1


def test_opening_at_a_step_continues_the_stream(train_split, stream):
    """At the last step of an epoch, in the next one, and with batches of another size."""
    split, numbers = train_split
    end = len(numbers) // SIZE
    for size, step in ((SIZE, end), (SIZE, end + 1), (10, 4)):
        batch = next(iter(train_stream(split, BatchLayout(size), SEED, step)))
        np.testing.assert_array_equal(numbers_of(batch["image"]), stream[0][step * size:(step + 1) * size])


def test_evaluation_counts_every_example_once_in_order(train_split):
    split, numbers = train_split
    for size in (7, len(numbers) - 1, len(numbers)) if len(numbers) < 100 else (len(numbers) + 1,):
        batches = list(eval_batches(split, BatchLayout(size)))
        assert {b["image"].shape for b in batches} == {(size, 4, 4, 3)}
        weight = np.concatenate([b["weight"] for b in batches])
        seen = np.concatenate([numbers_of(b["image"]) for b in batches])
        np.testing.assert_array_equal(seen[weight > 0], numbers)
        assert weight.sum() == len(numbers) and set(weight) <= {0.0, 1.0}
        assert (weight[:len(numbers)] == 1).all()


def test_evaluation_from_a_later_batch(train_split):
    split, numbers = train_split
    batch = next(iter(eval_batches(split, BatchLayout(9), start_batch=2)))
    np.testing.assert_array_equal(numbers_of(batch["image"]), numbers[18:27])


def test_batches_have_static_shapes_and_types(train_split):
    split, _ = train_split
    spec = train_stream(split, BatchLayout(8), 0, 0, MIXUP).element_spec
    assert {k: (tuple(s.shape), s.dtype.name) for k, s in spec.items()} == {
        "image": ((8, 4, 4, 3), "uint8"), "label": ((8,), "int32"), "weight": ((8,), "float32"),
        "mix": ((8,), "float32")}
    assert next(iter(train_stream(split, BatchLayout(8), 0, 0)))["weight"].numpy().tolist() == [1.0] * 8


@pytest.mark.parametrize("replicas, micro_batches", quick([(1, 1), (1, 3), (2, 1), (2, 3), (4, 3)], 4))
@pytest.mark.parametrize("augmentations", [(), MIXUP])
def test_rows_are_arranged_for_replicas_and_micro_batches(replicas, micro_batches, augmentations):
    split = numbered_split(48)
    layout = BatchLayout(24, replicas, micro_batches)
    plain = next(iter(train_stream(split, BatchLayout(24), 0, 3, augmentations)))
    arranged = next(iter(train_stream(split, layout, 0, 3, augmentations)))
    part = 24 // replicas // micro_batches
    for name, natural in plain.items():
        rows = arranged[name].numpy()
        for micro in range(micro_batches):
            together = [rows[r * 24 // replicas:][micro * part:][:part] for r in range(replicas)]
            expected = natural.numpy()[micro * 24 // micro_batches:][:24 // micro_batches]
            np.testing.assert_array_equal(np.concatenate(together), expected)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UsageError, match="does not divide by 2 replicas times 3 micro-batches: .* are 12 or 18$"):
        train_stream(numbered_split(48), BatchLayout(16, 2, 3), 0, 0)
    with pytest.raises(UsageError, match="give a multiple of 8"):
        train_stream(numbered_split(48), BatchLayout(12, 2, 2), 0, 0, MIXUP)


def test_a_split_without_examples_is_refused():
    empty = dataclasses.replace(numbered_split(3), num_examples=0)
    for open_stream in (lambda: train_stream(empty, BatchLayout(2), 0, 0), lambda: eval_batches(empty, BatchLayout(2))):
        with pytest.raises(UsageError, match="0 examples"):
            open_stream()


def test_a_stream_is_opened_at_a_step_without_passing_over_those_before(train_split):
    """So far into the stream, to pass over a step in a nanosecond would take an hour."""
    (split, numbers), found = train_split, []

    def open_stream():
        found.append(numbers_of(next(iter(train_stream(split, BatchLayout(2), 7, 3 * 10**12)))["image"]))

    opening = threading.Thread(target=open_stream, daemon=True)  # One that passes over them never ends.
    opening.start()
    opening.join(timeout=600)
    assert len(found) == 1 and np.isin(found[0], numbers).all()


def test_streams_share_the_memory_of_the_examples():
    import psutil
    split = numbered_split(20_000, (64, 64, 1))  # 82 MB.
    next(iter(train_stream(numbered_split(10), BatchLayout(2), 0, 0)))
    before = psutil.Process().memory_info().rss
    streams = [iter(train_stream(split, BatchLayout(8), seed, 0)) for seed in range(3)]
    assert all(next(s)["image"].shape == (8, 64, 64, 1) for s in streams)
    assert psutil.Process().memory_info().rss - before < 60e6


def test_skipped_records_are_not_decoded(load_numbered):
    split = load_numbered(memory_budget=0).train
    decoded = []

    @dataclasses.dataclass
    class Counting:
        inner: object
        label_key = "label"

        def parse(self, records):
            return self.inner.parse(records)

        def decode(self, encoded, *arguments):
            import tensorflow as tf
            tf.numpy_function(lambda: decoded.append(1) or np.int64(0), [], tf.int64)
            return self.inner.decode(encoded, *arguments)

        training = evaluation = property(lambda self: self.inner.training)

    split = Split("train", TRAIN, type(split.reader)(split.reader.table, Counting(split.reader.format)))
    stream = iter(train_stream(split, BatchLayout(10), 0, 95))
    first = numbers_of(next(stream)["image"])
    del stream
    assert len(first) == 10 and 0 < len(decoded) < 600


def test_the_numbered_data_set_has_the_properties_that_tests_need(load_numbered):
    source = load_numbered(memory_budget=0)
    assert (source.train.num_examples, source.test.num_examples) == (TRAIN, TEST)
    assert len(source.train.reader.table.files) == 7 and TRAIN % 64 and TRAIN > 2 * 64 * 16
