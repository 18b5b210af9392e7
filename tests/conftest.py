"""What all tests share: clean surroundings, strategies over logical CPU devices, and clean settings of Keras."""
import gc
import shutil

import pytest

from tests import surroundings

HOME = surroundings.settle()  # Before Keras and matplotlib are imported, which read variables and files as they are.

from tests import commands, replicas  # noqa: E402


def pytest_collection_finish():
    """Takes what was imported out of the garbage collector's way: there are 400,000 objects of it, and they stay."""
    gc.freeze()


def pytest_unconfigure():
    """Removes the home that this process was given."""
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def strategy():
    """Returns strategy(n): the MirroredStrategy over the first n logical CPU devices, one for the whole session."""
    return replicas.strategy


@pytest.fixture(scope="session", autouse=True)
def forked_commands():
    """Lets the commands that tests run start at once."""
    with commands.forked():
        yield


@pytest.fixture(autouse=True)
def keras_settings():
    """Leaves Keras in single precision and with the same seed for the test after."""
    import keras
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
