"""Views of test-time augmentation: known pixels, in a known order."""
import numpy as np
import tensorflow as tf

from pipeline.data.memory import InMemory
from pipeline.data.source import Split
from pipeline.data.stream import BatchLayout, eval_batches
from pipeline.evaluation.views import View, seen, views


def test_the_order_of_views():
    assert [str(v) for v in views(4, mirror=False)] == ["as it is", "1 right", "1 left", "1 down"]
    assert [str(v) for v in views(4, mirror=True)] == ["as it is", "mirrored", "1 right", "mirrored and 1 right"]
    for mirror in (False, True):
        every = views(16, mirror)
        assert len(set(every)) == 16 and max(max(abs(v.right), abs(v.down)) for v in every) == (1 if mirror else 2)


def test_pixels_of_views():
    image = np.arange(12, dtype=np.uint8).reshape(1, 3, 4, 1)
    shown = {v: View(*v).apply(tf.constant(image)).numpy()[0, :, :, 0].tolist()
             for v in ((1, 0), (-2, 0), (0, 1), (0, 0, True))}
    assert shown[1, 0] == [[0, 0, 1, 2], [4, 4, 5, 6], [8, 8, 9, 10]]
    assert shown[-2, 0] == [[2, 3, 3, 3], [6, 7, 7, 7], [10, 11, 11, 11]]
    assert shown[0, 1] == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert shown[0, 0, True] == [[3, 2, 1, 0], [7, 6, 5, 4], [11, 10, 9, 8]]


def test_a_view_of_a_split_keeps_examples_and_order():
    images, labels = np.random.RandomState(0).randint(0, 255, (7, 5, 5, 3), "uint8"), np.arange(7)
    split = Split("test", 7, InMemory(images, labels), labels)
    batches = list(eval_batches(seen(split, View(1, 0)), BatchLayout(4)))
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in batches])[:7], labels)
    expected = np.pad(images, [(0, 0), (0, 0), (1, 0), (0, 0)], mode="edge")[:, :, :-1]
    np.testing.assert_array_equal(np.concatenate([b["image"] for b in batches])[:7], expected)
    assert seen(split, View()) is split
    chosen = seen(split, View(1, 0)).select([2, 5])
    assert chosen.reader.read_labels().tolist() == [2, 5] and chosen.num_examples == 2
