"""A process that augments on command, of any checkout: python benchmarks/augmentation_worker.py ORDER.

The order is {"seconds": length of a block}. Each line of standard input is {"command": "augment", ...} with the
arguments of `Stream`, answered by what its `measure` returns. It imports nothing of benchmarks, which an older checkout
does not have.
"""
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.augmentation import Augmentation
from pipeline.data.memory import InMemory
from pipeline.data.source import Split
from pipeline.data.stream import BatchLayout, train_stream


class OneBatchAtATime(InMemory):
    """Computes one batch after another, in the order of their positions."""

    def shuffled(self, seed, start_step, batch_size, finish, rows=None):
        """See pipeline.data.source.Reader."""
        images, labels = self.tensors

        @tf.autograph.experimental.do_not_convert
        def batch(step):
            index = (step * batch_size + tf.range(batch_size, dtype=tf.int64)) % len(self.labels)
            return finish(tf.gather(images, index), tf.gather(labels, index), step)

        return tf.data.Dataset.range(start_step, np.iinfo(np.int64).max).map(batch, num_parallel_calls=1)


class Stream:
    """A training stream of random images in memory."""

    def __init__(self, shape: Sequence[int], batch_size: int, augment: Sequence[str], one_at_a_time: bool):
        """
        Args:
          shape: height, width and channels of the images.
          batch_size: images of a batch.
          augment: as --augment has them.
          one_at_a_time: whether one batch is computed at a time; else as many as train_stream computes.
        """
        images = np.random.RandomState(0).randint(0, 256, (2 * batch_size, *shape)).astype(np.uint8)
        reader = (OneBatchAtATime if one_at_a_time else InMemory)(images, np.zeros([len(images)], np.int32))
        self._batches = train_stream(Split("train", len(images), reader), BatchLayout(batch_size), 0, 0,
                                     tuple(map(Augmentation.parse, augment)))
        self._batch_size = batch_size

    def measure(self, seconds: float) -> dict[str, Any]:
        """Computes batches for so many seconds, after two of them.

        Returns:
          {"images/s", "images/CPU second": float, "digest": hex digest of the first batch}.
        """
        iterator = iter(self._batches)
        digest = hashlib.sha256(next(iterator)["image"].numpy().tobytes()).hexdigest()
        next(iterator)
        began, processor, images = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < seconds:
            next(iterator)
            images += self._batch_size
        return {"images/s": images / (time.perf_counter() - began), "digest": digest,
                "images/CPU second": images / (time.process_time() - processor)}


def main(text: str) -> None:
    """Answers commands to the end of the input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print.
    order, streams = json.loads(text), {}
    for line in sys.stdin:
        values = json.loads(line)
        del values["command"]
        key = json.dumps(values)
        if key not in streams:
            streams[key] = Stream(**values)
        print(json.dumps(streams[key].measure(order["seconds"])), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
