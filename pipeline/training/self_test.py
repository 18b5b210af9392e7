"""Self-test of the reduction: sums of known values, computed by the production code before the training starts.

Copies between some pairs of GPUs arrive wrong and some reductions lose a replica, both without an error; others hang at
their first use. A run would train on a part of its batch.
"""
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.distributed import reduction
from pipeline.distributed.agreement import worker_of
from pipeline.distributed.input_distribution import uses_gpus
from pipeline.errors import RunFailure
from pipeline.internals.tensorflow_internals import cross_device_ops, reduction_class
from pipeline.quantities import plural
from pipeline.training.step import run_once

SIZES = (1, 1_009, 2**18)  # Elements: fewer than replicas, divisible by no number of replicas, more than one packet.
MOST = 251  # Largest value: sums of such integers over 64 replicas are exact in float32.
SECONDS = 120  # NCCL may take half a minute to start.


def reduction_name(strategy: tf.distribute.Strategy) -> str:
    """Describes the reduction of a MirroredStrategy: "ReductionToOneDevice over 2 CPU replicas"."""
    replicas = strategy.num_replicas_in_sync
    kind = "GPU" if uses_gpus(strategy) else "CPU"
    if replicas == 1:
        return f"no reduction, 1 {kind} replica"
    return f"{reduction_class(strategy)} over {replicas} {kind} replicas"


def remedy(strategy: tf.distribute.Strategy) -> str:
    """Returns what to try if the reduction of a strategy is faulty."""
    other = "auto" if isinstance(cross_device_ops(strategy), tf.distribute.ReductionToOneDevice) else "tree"
    peer_to_peer = ", or NCCL_P2P_DISABLE=1 before the command" if uses_gpus(strategy) else ""
    return f"try --cross_device_reduction={other}{peer_to_peer}, or --replicas=1"


def check_reduction(strategy: tf.distribute.Strategy, compute_dtype: str = "float32",
                    seconds: float = SECONDS) -> None:
    """Reduces known values on every replica and checks the result of each.

    Args:
      strategy: tf.distribute.MirroredStrategy; with one replica there is nothing to test.
      compute_dtype: of the step, "float32" or "float64"; float32 is tested in any case.
      seconds: timeout.

    Raises:
      RunFailure: a sum is wrong, TensorFlow cannot compute it, or the reduction hangs; one line names the reduction and
        what to try.
    """
    fault = find_fault(strategy, compute_dtype, seconds)
    if fault:
        raise RunFailure(f"self-test of the reduction, {reduction_name(strategy)}: {fault}; {remedy(strategy)}")


def find_fault(strategy: tf.distribute.Strategy, compute_dtype: str = "float32",
               seconds: float = SECONDS) -> str | None:
    """Returns the fault of the reduction as text, or None; the arguments are those of `check_reduction`."""
    if strategy.num_replicas_in_sync == 1:
        return None
    tests = [(dtype, size) for dtype in sorted({"float32", compute_dtype}) for size in SIZES]
    answer: list[Any] = []

    def work():
        try:
            answer.append(count_wrong(strategy, tests))
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=work, daemon=True)  # A hung collective cannot be ended from outside.
    thread.start()
    thread.join(seconds)
    if not answer:
        return f"no answer within {seconds:g} s"
    if isinstance(answer[0], tf.errors.OpError) and worker_of(strategy)[1] == 1:  # Else a worker may be lost.
        return str(answer[0].message).strip().splitlines()[0]
    if isinstance(answer[0], Exception):
        raise answer[0]
    replica, test = np.unravel_index(np.argmax(answer[0]), answer[0].shape)
    wrong, (dtype, size) = answer[0][replica, test], tests[test]
    if wrong:
        return f"replica {replica} got {wrong} of {size} {dtype} {plural(size, 'sum')} wrong"
    return None


def count_wrong(strategy: tf.distribute.Strategy, tests: Sequence[tuple[str, int]]) -> np.ndarray:
    """Reduces integers that differ between elements and replicas, and counts wrong sums.

    A part that is lost, added twice or shifted makes most sums wrong.

    Args:
      strategy: tf.distribute.MirroredStrategy of several replicas.
      tests: [(dtype, elements)], each a packed reduction.

    Returns:
      int64 [replicas, tests], the number of wrong sums on each replica.
    """
    replicas, places = strategy.num_replicas_in_sync, np.arange(1, max(SIZES) + 1) % MOST
    sums = sum(1 + places * (replica + 1) % MOST for replica in range(replicas))
    # Inputs of the graph: the optimizer would compute sums of constants in advance, and copy nothing.
    with tf.device("CPU:0"):
        places, sums = tf.constant(places, tf.float64), tf.constant(sums, tf.float64)

    def test(ones):
        del ones
        replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float64)
        values, wrong = 1 + places * (replica + 1) % MOST, []
        for dtype, size in tests:
            own = tf.cast(values[:size], dtype)
            first, _, last = reduction.reduce_once([own[:-1]], [], own[-1:], replicas)
            got = tf.cast(tf.concat([*first, last], axis=0), tf.float64)
            wrong.append(tf.math.count_nonzero(got != sums[:size]))
        return tf.stack(wrong)

    return np.stack([counts.numpy() for counts in run_once(strategy, test)])
