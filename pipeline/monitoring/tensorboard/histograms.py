"""Histograms of weights and gradients (--histograms_every)."""
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram import metadata
from tensorboard.util.tensor_util import make_tensor_proto

BUCKETS = 30  # As many as TensorBoard's own histograms have.


def histogram_values(experiment: Any, step: int) -> list[Summary.Value]:
    """Computes the histograms of all trainable variables and of their gradients in the step after `step`.

    The gradients are those of that step's batch, reduced over the replicas and clipped. The batch comes from a stream
    of its own: the state of the training is not touched.

    Returns:
      Values with the tags weights/PATH and gradients/PATH; none for a tensor without finite values.
    """
    experiment.enter_phase(step)
    steps = experiment.steps
    gradients, _ = steps.reduced_gradients(steps.input_distributor.iterator(experiment.train_dataset(step)))
    found = []
    for variable, gradient in zip(experiment.state.model.trainable_variables, gradients, strict=True):
        for kind, tensor in (("weights", variable.value), ("gradients", gradient)):
            values = tf.convert_to_tensor(tensor).numpy()
            if np.isfinite(values).any():
                found.append(histogram_value(f"{kind}/{variable.path}", values))
    return found


def histogram_value(tag: str, values: np.ndarray) -> Summary.Value:
    """Returns the histogram of an array of any shape: BUCKETS buckets of equal width over its finite values.

    TensorBoard's histogram_pb gives the same buckets in five times the time, with 60 bytes of memory a value.
    """
    values = np.asarray(values, np.float64).ravel()
    values = values[np.isfinite(values)]
    low, high = values.min(), values.max()
    if (high - low) / BUCKETS > np.spacing(max(abs(low), abs(high))):
        counts, edges = np.histogram(values, BUCKETS, (low, high))
        buckets = np.stack([edges[:-1], edges[1:], counts], axis=1)
    else:  # All values are the same: as in histogram_pb, the buckets have no width and the last one holds them.
        buckets = np.full([BUCKETS, 3], low)
        buckets[:, 2] = [*[0] * (BUCKETS - 1), values.size]
    return Summary.Value(tag=tag, tensor=make_tensor_proto(buckets, dtype=np.float64),
                         metadata=metadata.create_summary_metadata("", ""))
