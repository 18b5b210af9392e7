"""A base of import hooks that run the code of a module in their own way. Standard library only."""
import importlib.abc
import importlib.machinery
import importlib.util
from collections.abc import Callable, Sequence
from types import ModuleType


class ImportHook(importlib.abc.MetaPathFinder):
    """Executes the modules `names` by `execute`; to be put at the front of sys.meta_path."""

    names: tuple[str, ...] = ()
    _searching = False

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
                  ) -> importlib.machinery.ModuleSpec | None:
        """Returns the module's spec with a loader that calls `execute`; None for any other module."""
        if fullname not in self.names or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(fullname)  # By the other finders.
        finally:
            self._searching = False
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module
        spec.loader.exec_module = lambda module: self.execute(module, load)  # type: ignore[method-assign]
        return spec

    def execute(self, module: ModuleType, load: Callable[[ModuleType], None]) -> None:
        """Executes a module's code, which `load` does."""
        raise NotImplementedError
