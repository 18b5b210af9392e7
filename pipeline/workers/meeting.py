"""The strategy over all workers of a run."""
import contextlib
import faulthandler
import signal

from pipeline.workers.roll_call import roll_call


def open_strategy(cluster, devices, reduction, start_timeout, settings=""):
    """Waits for the other workers and returns the strategy over all of them.

    To be called before any other TensorFlow operation.

    Args:
      cluster: Cluster.
      devices: ("GPU" or "CPU", number of them on this worker), a replica each.
      reduction: "auto" or "nccl".
      start_timeout: seconds until all workers are there; 0: for ever.
      settings: text that has to be the same on every worker.

    Returns:
      tf.distribute.MultiWorkerMirroredStrategy.

    Raises:
      UsageError, PeerLost: see roll_call.
    """
    roll_call(cluster, start_timeout, f"{settings} {devices}")
    import tensorflow as tf

    kind, count = devices
    nccl = reduction == "nccl"
    implementation = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=implementation.NCCL if nccl else implementation.RING if kind == "CPU" else implementation.AUTO)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if start_timeout:
        # Inside of TensorFlow a wait holds Python's lock, so that no thread of Python's could end it.
        faulthandler.dump_traceback_later(start_timeout, exit=True)
    with _replicas_on_cpus(count if kind == "CPU" else 0):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    faulthandler.cancel_dump_traceback_later()
    for number, handler in handlers.items():  # TensorFlow's own handler would swallow them.
        signal.signal(number, handler)
    return strategy


@contextlib.contextmanager
def _replicas_on_cpus(count):
    """Gives a worker without GPUs several replicas on its logical CPUs, for trial; TensorFlow itself gives it one."""
    from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended as extended

    theirs = extended._initialize_local_devices

    def devices(self, resolver, worker_device):
        return tuple(f"{worker_device}/device:CPU:{i}" for i in range(count)), "CPU"

    if count:
        extended._initialize_local_devices = devices
    try:
        yield
    finally:
        extended._initialize_local_devices = theirs
