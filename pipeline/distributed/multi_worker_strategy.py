"""The strategy over all workers of a run."""
import faulthandler
import signal
import sys
import threading

from pipeline.distributed import peer_failure
from pipeline.distributed.bind_address import listening_at, own_address
from pipeline.distributed.cluster import host_and_port
from pipeline.distributed.rendezvous import PeerLost, roll_call


def open_strategy(cluster, devices, reduction, start_timeout, settings="", everywhere=False):
    """Waits for the other workers and returns the strategy over all of them.

    To be called before any other TensorFlow operation.

    Args:
      cluster: Cluster.
      devices: ("GPU" or "CPU", number of them on this worker), a replica each.
      reduction: "auto" or "nccl".
      start_timeout: seconds until all workers are there; 0: for ever.
      settings: text that has to be the same on every worker.
      everywhere: whether to listen on all interfaces of the machine, and not at this worker's address alone.

    Returns:
      tf.distribute.MultiWorkerMirroredStrategy.

    Raises:
      UsageError, PeerLost: see roll_call.
    """
    address = None if everywhere else own_address(cluster)
    peer_failure.watch(cluster.rank, roll_call(cluster, start_timeout, f"{settings} {devices}", address))
    import tensorflow as tf

    from pipeline.internals.tensorflow_internals import replicas_on_cpus, threads_run_as_it_connects
    kind, count = devices
    nccl = reduction == "nccl"
    implementation = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=implementation.NCCL if nccl else implementation.RING if kind == "CPU" else implementation.AUTO)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
                if threading.current_thread() is threading.main_thread()}
    if start_timeout:
        # Whatever holds Python's lock, so that no thread of Python's could end it.
        faulthandler.dump_traceback_later(start_timeout, exit=True)
    _, port = host_and_port(cluster.addresses[cluster.rank])
    with (replicas_on_cpus(count if kind == "CPU" else 0), threads_run_as_it_connects(),
          listening_at(address, port) as listens):
        strategy = _connect(cluster, options)
    if not listens:
        print(f"note    port {port} of worker {cluster.rank} is open on all interfaces of its machine, to everyone who "
              "reaches it", file=sys.stderr, flush=True)
    faulthandler.cancel_dump_traceback_later()
    for number, handler in handlers.items():  # TensorFlow's own handler would swallow them.
        signal.signal(number, handler)
    return strategy


def _connect(cluster, options):
    """Returns the strategy; PeerLost where TensorFlow does not reach the others."""
    import tensorflow as tf
    errors = tf.errors
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except (errors.UnavailableError, errors.AbortedError, errors.CancelledError, errors.DeadlineExceededError,
            errors.InternalError) as error:
        said = [line.strip() for line in str(error.message).splitlines() if line.strip()] or [type(error).__name__]
        raise PeerLost(f"worker {cluster.rank} does not reach the others ({said[0][:300]}); run the same command on "
                       "all of them again") from error
