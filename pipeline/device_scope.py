"""Where operations that are made now are placed."""
import contextlib
from collections.abc import Iterator

import tensorflow as tf

HOST_SCOPE = "on_host"  # In the names of operations.


def on_gpu() -> bool:
    """Returns whether the operations that are made now are placed on a GPU."""
    return "GPU" in tf.zeros([]).device


@contextlib.contextmanager
def on_host() -> Iterator[None]:
    """Places the operations that are made in the block on the host, and names them so; on CPUs nothing changes."""
    if "CPU" in tf.zeros([]).device:
        yield
        return
    with tf.device("CPU:0"), tf.name_scope(HOST_SCOPE):
        yield
