"""Imports Keras with fixed defaults, independent of a user's keras.json and environment.

Standard library only: importing Keras here would load TensorFlow, seconds before a command has checked its flags.
"""
import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

from pipeline.errors import UsageError
from pipeline.import_hook import ImportHook

# Imports inside functions: Keras is imported under the settings made here.

BACKEND = "tensorflow"
# These set another precision than --precision, or compile with XLA what it cannot compile.
OF_ARITHMETIC = ("DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE", "TF_SET_ONEDNN_FPMATH_MODE",
                 "TF_FUNCTION_JIT_COMPILE_DEFAULT")
MODULE = "module://"  # Before the name of a module that is matplotlib's backend.


def install() -> None:
    """Makes Keras be imported with its own defaults, followed by the models of this package.

    Removes OF_ARITHMETIC from the environment: the flags alone decide how this process and its children compute.
    """
    for name in OF_ARITHMETIC:
        os.environ.pop(name, None)
    if "keras" not in sys.modules:
        sys.meta_path.insert(0, KerasImport())
    elif _backend() == BACKEND:
        importlib.import_module("pipeline.models")


class KerasImport(ImportHook):
    """Imports Keras with its own defaults, and the models after it: it then knows them when it reads a file of one.

    The Keras 2 inside TensorFlow reads the same keras.json, and fails on what is wrong in it.
    """

    names = ("keras", "tensorflow")

    def execute(self, module: ModuleType, load: Callable[[ModuleType], None]) -> None:
        """Imports Keras or TensorFlow."""
        with _defaults():
            load(module)
        # TensorFlow imports Keras, and Keras TensorFlow: the settings are those of the user again after the outer one.
        if "keras" in sys.modules and os.environ.get("KERAS_HOME") != os.devnull:
            _set_home()
        if module.__name__ == "keras":
            importlib.import_module("pipeline.models")


@contextlib.contextmanager
def _defaults() -> Iterator[None]:
    """Hides a user's settings from Keras: a keras.json with a wrong value ends the import with a traceback."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith("KERAS_")}
    for name in hidden:
        del os.environ[name]
    os.environ.update(KERAS_BACKEND=BACKEND, KERAS_HOME=os.devnull)  # No file can be read or written in there.
    drawing = os.environ.get("MPLBACKEND", "")
    if drawing.startswith(MODULE) and not importlib.util.find_spec(drawing[len(MODULE):].split(".")[0]):
        os.environ["MPLBACKEND"] = "Agg"  # Keras imports matplotlib, which fails without the module.
    try:
        yield
    finally:
        del os.environ["KERAS_BACKEND"], os.environ["KERAS_HOME"]
        os.environ.update(hidden)


def _set_home() -> None:
    """Sets the folder of Keras's downloads to that of its own default."""
    from pipeline.internals.keras_internals import set_home  # Keras is imported by now.
    user = os.path.expanduser("~")
    user = user if os.access(user, os.W_OK) else "/tmp"
    set_home(os.environ.get("KERAS_HOME") or os.path.join(user, ".keras"))


def _backend() -> str:
    import keras
    return keras.config.backend()


def set_defaults() -> None:
    """Sets the defaults with which Keras builds layers; to be called before anything is built.

    Raises:
      UsageError: Keras was imported before this package, with another backend.
    """
    import keras
    if _backend() != BACKEND:
        raise UsageError(f"Keras computes with {_backend()} in this process, not with {BACKEND}: import pipeline "
                         f"before keras, or set KERAS_BACKEND={BACKEND}")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_epsilon(1e-7)


def set_precision(precision: str) -> None:
    """Sets the precision, one of pipeline.config.PRECISIONS, of the layers that are made from now on."""
    import keras
    keras.config.set_floatx("float64" if precision == "float64" else "float32")
    keras.config.set_dtype_policy(precision)
