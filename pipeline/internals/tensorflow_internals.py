"""Private interfaces of TensorFlow: graphs, checkpoints, strategies, TFLite's schema and the profiler's trace.

They are imported inside the functions, so that a run loads none that it does not use.
"""
import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

# Imports inside functions: nothing private is loaded by a run that does not use it.


def freeze_graph(function: Any, lower_control_flow: bool = True) -> Any:
    """Returns a concrete function with its variables as constants, the input of TensorFlow's converters."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
    return convert_variables_to_constants_v2(function, lower_control_flow)


def object_graph(data: bytes) -> Any:
    """Returns the TrackableObjectGraph of a checkpoint: which variable belongs to which object."""
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph
    return TrackableObjectGraph.FromString(data)


def called_graph(graph: tf.Graph, name: str) -> tf.Graph | None:
    """Returns the graph of a function that an operation of a graph calls, None for an unknown name."""
    found = graph._get_function(name)  # There is no public way from a call to the called graph.
    return found and found.graph


def take_writer_error(checkpoint: tf.train.Checkpoint) -> Exception | None:
    """Returns the error of an asynchronous save and clears it: otherwise TensorFlow raises it again later."""
    writer = getattr(checkpoint, "_async_checkpointer_impl", None)
    error = getattr(writer, "_async_error", None)
    if writer is not None and error is not None:
        writer._async_error = None
    return error


def trace_copies(checkpoint: tf.train.Checkpoint, wanted: bool) -> None:
    """Chooses how asynchronous saves after the first copy the variables: by a traced function, or one by one.

    TensorFlow traces at the second save, which takes as long as ten to a hundred copies one by one.
    """
    writer = getattr(checkpoint, "_async_checkpointer_impl", None)
    traced = getattr(type(writer), "_copy_to_cpu", None)
    if writer is None or traced is None or not hasattr(traced, "python_function"):
        return
    if wanted:
        vars(writer).pop("_copy_to_cpu", None)
    else:
        writer._copy_to_cpu = functools.partial(traced.python_function, writer)


def cross_device_ops(strategy: tf.distribute.Strategy) -> tf.distribute.CrossDeviceOps:
    """Returns the object by which a strategy on one machine reduces over its devices."""
    return strategy.extended._cross_device_ops


def reduction_class(strategy: tf.distribute.Strategy) -> str:
    """Returns the name of the class by which a strategy reduces, with its implementation if it has several."""
    extended = strategy.extended
    name = type(extended._cross_device_ops).__name__
    if extended._cross_device_ops is extended._collective_ops:
        name += f" ({extended._communication_options.implementation.value})"
    return name


def uses_onednn() -> bool | None:
    """Tells whether TensorFlow computes with oneDNN; None where that is unknown."""
    try:
        from tensorflow.python.util import _pywrap_util_port
        return bool(_pywrap_util_port.IsMklEnabled())
    except (ImportError, AttributeError):
        return None


def read_trace(data: bytes) -> Any:
    """Returns the XSpace of a profiler's trace (tensorflow/tsl/profiler/protobuf/xplane.proto)."""
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace
    return XSpace.FromString(data)


def tflite_schema() -> Any:
    """Returns the module of TFLite's flatbuffer schema."""
    from tensorflow.lite.python import schema_py_generated
    return schema_py_generated


def tflite_converter_error() -> type[Exception]:
    """Returns the class of what TFLite's converter raises."""
    from tensorflow.lite.python.convert_phase import ConverterError
    return ConverterError


@contextlib.contextmanager
def logical_cpu_replicas(count: int) -> Iterator[None]:
    """Gives a worker without GPUs several replicas on its logical CPUs, for trial; 0: one, as TensorFlow does."""
    from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended as extended

    original = extended._initialize_local_devices

    def devices(self, resolver, worker_device):
        return tuple(f"{worker_device}/device:CPU:{i}" for i in range(count)), "CPU"

    if count:
        extended._initialize_local_devices = devices
    try:
        yield
    finally:
        extended._initialize_local_devices = original


@contextlib.contextmanager
def connecting_without_gil() -> Iterator[None]:
    """Lets other Python threads run while TensorFlow waits for its peers: one of them watches whether these are alive.

    TensorFlow's own binding holds the interpreter's lock while it waits, forever if a peer is lost; ctypes does not.
    """
    from tensorflow.python import pywrap_tfe
    original = pywrap_tfe.TFE_EnableCollectiveOps
    try:
        library = ctypes.CDLL(os.path.join(tf.sysconfig.get_lib(), "libtensorflow_cc.so.2"))
        connect, status_of, message_of = library.TFE_EnableCollectiveOps, library.TF_GetCode, library.TF_Message
    except (OSError, AttributeError):  # Another layout of the libraries: the deadline remains.
        yield
        return
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    connect.restype, connect.argtypes = None, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p]
    library.TF_NewStatus.restype, message_of.restype = ctypes.c_void_p, ctypes.c_char_p
    for function in (status_of, message_of, library.TF_DeleteStatus):
        function.argtypes = [ctypes.c_void_p]

    def enable_collective_ops(context, server):
        status = library.TF_NewStatus()
        try:
            connect(pointer(context, None), server, len(server), status)
            if status_of(status):
                raise tf.compat.v1.errors.exception_type_from_error_code(status_of(status))(
                    None, None, message_of(status).decode(errors="replace"))
        finally:
            library.TF_DeleteStatus(status)

    pywrap_tfe.TFE_EnableCollectiveOps = enable_collective_ops
    try:
        yield
    finally:
        pywrap_tfe.TFE_EnableCollectiveOps = original


def registered_kernels(operation: str) -> list[Any]:
    """Returns the KernelDefs of a type of operation, of all devices for which this TensorFlow is built."""
    from tensorflow.python.framework import kernels
    return list(kernels.get_registered_kernels_for_op(operation).kernel)
