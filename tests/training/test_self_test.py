"""The self-test passes a correct reduction and names the fault of a wrong one."""
import threading

import pytest
import tensorflow as tf

from pipeline.distributed import reduction
from pipeline.errors import RunFailure
from pipeline.training import self_test
from tests.commands import mirrorline
from tests.selection import quick


def replica_id():
    return tf.distribute.get_replica_context().replica_id_in_sync_group


@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("compute_dtype", ["float32", "float64"])
def test_a_correct_reduction_passes(strategy, replicas, compute_dtype):
    self_test.check_reduction(strategy(replicas), compute_dtype)


@pytest.mark.parametrize("operations", [tf.distribute.ReductionToOneDevice, tf.distribute.HierarchicalCopyAllReduce])
@pytest.mark.parametrize("replicas", quick([2, 4], 1))
def test_the_other_reductions_work_on_an_even_number_of_cpus(strategy, monkeypatch, operations, replicas):
    monkeypatch.setattr(strategy(replicas).extended, "_cross_device_ops", operations())
    self_test.check_reduction(strategy(replicas), "float64")


def lost(replica):
    """The part of one replica is lost."""
    def broken(grads, state, sums, replicas):
        kept = tf.cast(replica_id() != replica, sums.dtype)
        return reduce_once([g * kept for g in grads], state, sums * kept, replicas)
    return broken


def doubled(grads, state, sums, replicas):
    """The part of replica 1 is added twice."""
    times = tf.where(replica_id() == 1, tf.constant(2, sums.dtype), 1)
    return reduce_once([g * times for g in grads], state, sums * times, replicas)


def shifted(grads, state, sums, replicas):
    """The part of replica 1 is shifted by one element."""
    grads = [tf.where(replica_id() == 1, tf.roll(g, 1, 0), g) for g in grads]
    return reduce_once(grads, state, sums, replicas)


def one_copy(grads, state, sums, replicas):
    """Replica 1 gets one wrong number, in the largest reduction only."""
    grads, state, sums = reduce_once(grads, state, sums, replicas)
    here = (replica_id() == 1) & (grads[0].shape[0] + 1 == max(self_test.SIZES))
    return grads, state, sums + tf.cast(here, sums.dtype)


def only_float64(grads, state, sums, replicas):
    """Sums in float64 are wrong."""
    grads, state, sums = reduce_once(grads, state, sums, replicas)
    return grads, state, sums + (1 if sums.dtype == tf.float64 else 0)


reduce_once = reduction.reduce_once


@pytest.mark.parametrize("broken, compute_dtype, found", quick([
    (lost(0), "float32", r"replica 0 got 262\d{3} of 262144 float32 sums wrong"),
    (lost(1), "float32", r"replica 0 got 262\d{3} of 262144 float32 sums wrong"),
    (doubled, "float32", r"replica 0 got 262\d{3} of 262144 float32 sums wrong"),
    (shifted, "float32", r"replica 0 got 2\d{5} of 262144 float32 sums wrong"),
    (one_copy, "float32", "replica 1 got 1 of 262144 float32 sums wrong"),
    (only_float64, "float64", "replica 0 got 1 of 1 float64 sum wrong"),
], 1, 4, 5))
def test_a_wrong_reduction_fails(strategy, monkeypatch, broken, compute_dtype, found):
    monkeypatch.setattr(reduction, "reduce_once", broken)
    with pytest.raises(RunFailure, match=rf"^self-test of the reduction, CollectiveAllReduce \(RING\) over 2 CPU "
                                         rf"replicas: {found}; try --cross_device_reduction=tree, or --replicas=1$"):
        self_test.check_reduction(strategy(2), compute_dtype)


def test_a_replica_that_a_reduction_of_tensorflow_loses_is_found(strategy, monkeypatch):
    monkeypatch.setattr(strategy(3).extended, "_cross_device_ops", tf.distribute.HierarchicalCopyAllReduce())
    with pytest.raises(RunFailure, match="HierarchicalCopyAllReduce over 3 CPU replicas: replica 0 got 262144 of"):
        self_test.check_reduction(strategy(3))


def test_a_reduction_that_cannot_be_computed_is_one_line(strategy, monkeypatch):
    monkeypatch.setattr(strategy(2).extended, "_cross_device_ops", tf.distribute.NcclAllReduce())
    with pytest.raises(RunFailure, match="NcclAllReduce over 2 CPU replicas: No OpKernel was registered") as caught:
        self_test.check_reduction(strategy(2))
    assert "\n" not in str(caught.value)


def test_a_reduction_that_hangs_is_a_failure(strategy, monkeypatch):
    answer = threading.Event()

    def waits(*arguments):
        answer.wait()
        return reduce_once(*arguments)

    monkeypatch.setattr(reduction, "reduce_once", waits)
    try:
        with pytest.raises(RunFailure, match="over 2 CPU replicas: no answer within 0.2 s; try "):
            self_test.check_reduction(strategy(2), seconds=0.2)
    finally:
        answer.set()


def test_a_defect_keeps_its_traceback(strategy, monkeypatch):
    monkeypatch.setattr(reduction, "reduce_once", lambda *arguments: int("ten"))
    with pytest.raises(ValueError, match="invalid literal for int"):
        self_test.check_reduction(strategy(2))


def test_the_reduction_is_named(strategy, monkeypatch):
    assert self_test.reduction_name(strategy(1)) == "no reduction, 1 CPU replica"
    assert self_test.reduction_name(strategy(2)) == "CollectiveAllReduce (RING) over 2 CPU replicas"
    monkeypatch.setattr(strategy(2).extended, "_cross_device_ops", tf.distribute.ReductionToOneDevice())
    assert self_test.reduction_name(strategy(2)) == "ReductionToOneDevice over 2 CPU replicas"
    assert self_test.remedy(strategy(2)) == "try --cross_device_reduction=auto, or --replicas=1"


# Three replicas with a reduction of TensorFlow's that loses the third, which the command would refuse.
UNREFUSED = """
import sys
from launch import __main__
from pipeline.distributed import devices
devices.check_cross_device_reduction = lambda *arguments: None
sys.exit(__main__.main(sys.argv[1:]))
"""


def test_training_does_not_start_with_a_reduction_that_loses_a_replica(tmp_path):
    (tmp_path / "unrefused.py").write_text(UNREFUSED)
    done = mirrorline("train", "--model=mlp", "--steps=2", "--batch_size=30", "--replicas=3", "--workdir=run",
                      "--cross_device_reduction=hierarchical", cwd=tmp_path, module="unrefused")
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("mirrorline train: self-test of the reduction, HierarchicalCopyAllReduce over 3 CPU "
                                  "replicas: replica 0 got 262144 of 262144 float32 sums wrong; try ")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
