"""Replicas on one machine without GPUs: four logical CPU devices, and strategies over them.

Import it before the first operation of a process: afterwards its devices are fixed.
"""
import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf  # noqa: E402

LOGICAL_DEVICES = 4

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * LOGICAL_DEVICES)


@functools.cache
def strategy(replicas):
    """Returns the MirroredStrategy over the first devices, one for the whole process."""
    # Strategies count their groups of devices from the same number: in one process those would be one group.
    numbers = {"_collective_key_base": 1000 * replicas}
    numbered = type("MirroredStrategy", (tf.distribute.MirroredStrategy,), numbers)
    return numbered([f"CPU:{i}" for i in range(replicas)])
