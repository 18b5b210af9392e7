"""The engine of Mirrorline: data, models, training, monitoring and evaluation behind one configuration."""
import importlib
import importlib.abc
import importlib.util
import sys
import time

BEGAN = time.monotonic()  # The commands import this first.


class _TellKeras(importlib.abc.MetaPathFinder):
    """Imports the models when Keras is imported, so that it knows them when it reads a file of one.

    Importing them here would load TensorFlow, seconds before a command has looked at its flags.
    """

    _looking = False

    def find_spec(self, name, path=None, target=None):
        """Returns the spec of Keras with a loader that imports the models too; None for any other module."""
        if name != "keras" or self._looking:
            return None
        self._looking = True
        try:
            spec = importlib.util.find_spec(name)  # As the other finders see it.
        finally:
            self._looking = False
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_tell(module):
            execute(module)
            importlib.import_module("pipeline.models")

        spec.loader.exec_module = execute_and_tell
        return spec


if "keras" in sys.modules:
    importlib.import_module("pipeline.models")
else:
    sys.meta_path.insert(0, _TellKeras())
