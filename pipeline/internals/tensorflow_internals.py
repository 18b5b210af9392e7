"""Private interfaces of TensorFlow: graphs, checkpoints, strategies and the trace of its profiler."""
import contextlib
import ctypes
import os
from collections.abc import Iterator

import tensorflow as tf


def freeze_graph(function, lower_control_flow: bool = True):
    """Returns a concrete function with its variables as constants, what TensorFlow's converters start from."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
    return convert_variables_to_constants_v2(function, lower_control_flow)


def object_graph(data: bytes):
    """Returns the TrackableObjectGraph that a checkpoint keeps: which variable is whose."""
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph
    return TrackableObjectGraph.FromString(data)


def called_graph(graph: tf.Graph, name: str) -> tf.Graph | None:
    """Returns the graph of a function that an operation of a graph calls, None where there is none of the name."""
    found = graph._get_function(name)  # There is no public way from a call to the graph that is called.
    return found and found.graph


def take_writer_error(checkpoint: tf.train.Checkpoint) -> Exception | None:
    """Returns the error that an asynchronous save has left, and forgets it: else TensorFlow raises it again later."""
    writer = getattr(checkpoint, "_async_checkpointer_impl", None)
    error = getattr(writer, "_async_error", None)
    if writer is not None and error is not None:
        writer._async_error = None
    return error


def cross_device_ops(strategy: tf.distribute.Strategy):
    """Returns the object by which a strategy on one machine reduces over its devices."""
    return strategy.extended._cross_device_ops


def reduction_class(strategy: tf.distribute.Strategy) -> str:
    """Returns the name of the class by which a strategy reduces, with its implementation where it has several."""
    extended = strategy.extended
    name = type(extended._cross_device_ops).__name__
    if extended._cross_device_ops is extended._collective_ops:
        name += f" ({extended._communication_options.implementation.value})"
    return name


def uses_onednn() -> bool | None:
    """Tells whether TensorFlow computes with oneDNN; None where that cannot be found out."""
    try:
        from tensorflow.python.util import _pywrap_util_port
        return bool(_pywrap_util_port.IsMklEnabled())
    except (ImportError, AttributeError):
        return None


def read_trace(data: bytes):
    """Returns the XSpace of a profiler's trace (tensorflow/tsl/profiler/protobuf/xplane.proto)."""
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace  # Only a run with --profile needs it.
    return XSpace.FromString(data)


@contextlib.contextmanager
def replicas_on_cpus(count: int) -> Iterator[None]:
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
def threads_run_as_it_connects() -> Iterator[None]:
    """Lets Python's other threads run while TensorFlow waits for its peers: one of them sees whether these are there.

    TensorFlow's own binding holds Python's lock meanwhile, for ever where a peer is lost just then; ctypes does not.
    """
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
