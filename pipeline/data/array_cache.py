"""Arrays kept in files between starts: indexes that take long to make."""
import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping

import numpy as np

from pipeline.data.source import digest
from pipeline.files import default_cache_dir


def cached(key: tuple, make: Callable[[], dict[str, np.ndarray]], cache_dir: str | None = None
           ) -> dict[str, np.ndarray]:
    """Returns make(), a dictionary of arrays, or its cached result for the same key.

    Args:
      key: strings and numbers that change whenever the result would.
      make: called without arguments when nothing is cached.
      cache_dir: None: default_cache_dir(). Without write access nothing is cached.
    """
    found = load_arrays(key, cache_dir)
    if found is None:
        found = make()
        save_arrays(key, found, cache_dir)
    return found


def load_arrays(key: tuple, cache_dir: str | None = None) -> dict[str, np.ndarray] | None:
    """Returns the arrays saved under a key; None where there are none, or where their file is damaged."""
    try:
        with np.load(_path(key, cache_dir)) as arrays:
            return dict(arrays)
    except Exception:  # Damage can raise anything; arrays that cannot be read are made again.
        return None


def save_arrays(key: tuple, arrays: Mapping[str, np.ndarray], cache_dir: str | None = None) -> None:
    """Saves arrays under a key, in one step for other processes; does nothing where the folder cannot be written."""
    path = _path(key, cache_dir)
    with contextlib.suppress(OSError):  # The cache only saves time.
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), suffix=".part", delete=False) as file:
            try:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise


def _path(key, cache_dir):
    return os.path.join(cache_dir or default_cache_dir(), digest(key)[:32] + ".npz")
