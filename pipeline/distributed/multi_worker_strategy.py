"""The strategy over all workers of a run."""
import faulthandler
import signal
import threading
from typing import Any

from pipeline.console import STANDARD
from pipeline.distributed import peer_failure
from pipeline.distributed.bind_address import binding_to, own_address
from pipeline.distributed.cluster import Cluster, host_and_port
from pipeline.distributed.rendezvous import PeerLost, meet

# Imports inside functions: TensorFlow takes seconds, in which a missing worker would not be reported.


def open_strategy(cluster: Cluster, devices: tuple[str, int], reduction: str, start_timeout: float, settings: str = "",
                  everywhere: bool = False) -> Any:
    """Waits for the other workers and returns the strategy over all of them.

    To be called before any other TensorFlow operation.

    Args:
      cluster: the workers.
      devices: ("GPU" or "CPU", number of them on this worker), one replica each.
      reduction: "auto" or "nccl".
      start_timeout: seconds until all workers are there; 0: no limit.
      settings: text that has to be the same on every worker.
      everywhere: listen on all interfaces of the machine instead of at this worker's address.

    Returns:
      tf.distribute.MultiWorkerMirroredStrategy.

    Raises:
      UsageError, PeerLost: see rendezvous.meet.
    """
    address = None if everywhere else own_address(cluster)
    peer_failure.watch(cluster.rank, meet(cluster, start_timeout, f"{settings} {devices}", address))
    import tensorflow as tf  # Seconds, in which a missing worker would not be reported.

    from pipeline.internals.tensorflow_internals import connecting_without_gil, logical_cpu_replicas
    kind, count = devices
    implementation = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=implementation.NCCL if reduction == "nccl" else
        implementation.RING if kind == "CPU" else implementation.AUTO)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
                if threading.current_thread() is threading.main_thread()}
    if start_timeout:
        # Also where the interpreter's lock is held, so that no Python thread could end the process.
        faulthandler.dump_traceback_later(start_timeout, exit=True)
    _, port = host_and_port(cluster.addresses[cluster.rank])
    errors = tf.errors
    with (logical_cpu_replicas(count if kind == "CPU" else 0), connecting_without_gil(),
          binding_to(address, port) as moved):
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
        except (errors.UnavailableError, errors.AbortedError, errors.CancelledError, errors.DeadlineExceededError,
                errors.InternalError) as error:
            lines = [line.strip() for line in str(error.message).splitlines() if line.strip()] or [type(error).__name__]
            raise PeerLost(f"worker {cluster.rank} does not reach the others ({lines[0][:300]}); run the same command "
                           "on all of them again") from error
    if not moved:
        STANDARD.warning(f"note    port {port} of worker {cluster.rank} is open on all interfaces of its machine, to "
                         "everyone who reaches it")
    faulthandler.cancel_dump_traceback_later()
    for number, handler in handlers.items():  # TensorFlow's own handlers would ignore these signals.
        signal.signal(number, handler)
    return strategy
