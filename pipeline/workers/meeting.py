"""The strategy over all workers of a run."""
import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading

from pipeline.workers import peers
from pipeline.workers.cluster import host_and_port
from pipeline.workers.listening import listening_at, own_address
from pipeline.workers.roll_call import PeerLost, roll_call


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
    peers.watch(cluster.rank, roll_call(cluster, start_timeout, f"{settings} {devices}", address))
    import tensorflow as tf

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
    with (_replicas_on_cpus(count if kind == "CPU" else 0), _threads_run_as_it_connects(),
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


@contextlib.contextmanager
def _threads_run_as_it_connects():
    """Lets Python's other threads run while TensorFlow waits for its peers: one of them sees whether these are there.

    TensorFlow's own binding holds Python's lock meanwhile, for ever where a peer is lost just then; ctypes does not.
    """
    import tensorflow as tf
    from tensorflow.python import pywrap_tfe
    theirs = pywrap_tfe.TFE_EnableCollectiveOps
    try:
        library = ctypes.CDLL(os.path.join(tf.sysconfig.get_lib(), "libtensorflow_cc.so.2"))
        connect, status_of, message_of = library.TFE_EnableCollectiveOps, library.TF_GetCode, library.TF_Message
    except (OSError, AttributeError):  # Laid out in another way: the deadline remains.
        yield
        return
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    connect.restype, connect.argtypes = None, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p]
    library.TF_NewStatus.restype, message_of.restype = ctypes.c_void_p, ctypes.c_char_p
    for function in (status_of, message_of, library.TF_DeleteStatus):
        function.argtypes = [ctypes.c_void_p]

    def ours(context, server):
        status = library.TF_NewStatus()
        try:
            connect(pointer(context, None), server, len(server), status)
            if status_of(status):
                raise tf.compat.v1.errors.exception_type_from_error_code(status_of(status))(
                    None, None, message_of(status).decode(errors="replace"))
        finally:
            library.TF_DeleteStatus(status)

    pywrap_tfe.TFE_EnableCollectiveOps = ours
    try:
        yield
    finally:
        pywrap_tfe.TFE_EnableCollectiveOps = theirs
