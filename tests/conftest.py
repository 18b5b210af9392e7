"""What all tests share: four logical CPU devices, strategies over them, and clean settings of Keras."""
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402

LOGICAL_DEVICES = 4

# Before the first operation: afterwards the devices of the process are fixed.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * LOGICAL_DEVICES)


@pytest.fixture(scope="session")
def strategy():
    """Returns strategy(n): the MirroredStrategy over the first n logical CPU devices, one for the whole session."""
    made = {}

    def of(replicas):
        if replicas not in made:
            # Strategies count their groups of devices from the same number: in one process those would be one group.
            numbers = {"_collective_key_base": 1000 * replicas}
            numbered = type("MirroredStrategy", (tf.distribute.MirroredStrategy,), numbers)
            made[replicas] = numbered([f"CPU:{i}" for i in range(replicas)])
        return made[replicas]

    return of


@pytest.fixture(autouse=True)
def keras_settings():
    """Leaves Keras in single precision and with the same seed for the test after."""
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
