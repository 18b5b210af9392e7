"""How Keras is imported and what it computes with: the same whatever a user's keras.json and environment say.

Standard library only: importing Keras here would load TensorFlow, seconds before a command has looked at its flags.
"""
import contextlib
import importlib
import importlib.abc
import importlib.util
import os
import sys

from pipeline.errors import UsageError

BACKEND = "tensorflow"
MODULE = "module://"  # Before the name of a module that matplotlib is to draw with.


def install():
    """Sees to it that Keras is imported with its own defaults, and knows the models of this project from then on."""
    if "keras" not in sys.modules:
        sys.meta_path.insert(0, KerasImport())
    elif _backend() == BACKEND:
        importlib.import_module("pipeline.models")


class KerasImport(importlib.abc.MetaPathFinder):
    """Imports Keras with its own defaults, and the models after it: it then knows them when it reads a file of one."""

    _looking = False

    def find_spec(self, name, path=None, target=None):
        """Returns the spec of Keras with a loader that does so, or of TensorFlow; None for any other module.

        The Keras 2 inside TensorFlow reads the same file, and fails on what is wrong in it.
        """
        if name not in ("keras", "tensorflow") or self._looking:
            return None
        self._looking = True
        try:
            spec = importlib.util.find_spec(name)  # As the other finders see it.
        finally:
            self._looking = False
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_with_defaults(module):
            with _defaults():
                execute(module)
            if name == "keras":
                _find_home()
                importlib.import_module("pipeline.models")

        spec.loader.exec_module = execute_with_defaults
        return spec


@contextlib.contextmanager
def _defaults():
    """Hides from Keras what a user has told it: a keras.json with a wrong value ends the import with a traceback."""
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


def _find_home():
    """Tells Keras where it keeps what it downloads: where it would have kept it."""
    from pipeline.internals.keras_internals import set_home
    user = os.path.expanduser("~")
    user = user if os.access(user, os.W_OK) else "/tmp"
    set_home(os.environ.get("KERAS_HOME") or os.path.join(user, ".keras"))


def _backend():
    import keras
    return keras.config.backend()


def set_defaults():
    """Sets what Keras builds layers with; to be called before anything is built.

    Raises:
      UsageError: Keras was imported before this project, with another backend.
    """
    import keras
    if _backend() != BACKEND:
        raise UsageError(f"Keras computes with {_backend()} in this process, not with {BACKEND}: import pipeline "
                         f"before keras, or set KERAS_BACKEND={BACKEND}")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_epsilon(1e-7)


def set_precision(precision):
    """Sets the precision of the layers that are made from now on; one of pipeline.config.PRECISIONS."""
    import keras
    keras.config.set_floatx("float64" if precision == "float64" else "float32")
    keras.config.set_dtype_policy(precision)
