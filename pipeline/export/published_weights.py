"""Weights that Keras publishes: downloaded once, into Keras's own folder, and never used with a wrong checksum.

Keras's applications know the name, the address and the checksum of each file. They make the model and load the file
themselves; only the download is done here: under another name, so that an interrupted one leaves nothing behind, and
without waiting for minutes.
"""
import contextlib
import os
import socket
import urllib.parse
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from pipeline.activity import activity
from pipeline.errors import UsageError
from pipeline.internals.keras_internals import built_aside, downloaded_by, home, is_file_of
from pipeline.models.plain import PlainModel
from pipeline.models.weight_names import named

MIRROR = "MIRRORLINE_WEIGHTS_URL"  # Environment variable: a server in place of Keras's, with the same paths.
SILENCE = 10.0  # Seconds without an answer, or without a byte.


def read(plain: PlainModel) -> tuple[str, dict[str, np.ndarray]]:
    """Reads the published weights of a model; downloads them unless Keras's folder has them.

    Returns:
      (path of the file, {name: numpy array} of its float variables).

    Raises:
      UsageError: there are none, they cannot be downloaded, or the file is not the published one.
    """
    paths: list[str] = []

    def fetch(*args: Any, **kwargs: Any) -> str:
        paths.append(_fetch(*args, **kwargs))
        return paths[-1]

    with built_aside(), downloaded_by(fetch):
        try:
            model = plain.published()
        except (UsageError, OSError, KeyError, ValueError, RuntimeError) as error:
            if not paths:
                raise
            raise UsageError(f"{paths[-1]} cannot be read, it may be damaged: remove it, so that it is downloaded "
                             f"again ({str(error).splitlines()[0]})") from error
        return paths[-1], {name: keras.ops.convert_to_numpy(v) for name, v in named(model).items()}


def _fetch(name: str, origin: str, cache_subdir: str, file_hash: str | None = None) -> str:
    """Returns the path of a file in Keras's folder, where it is downloaded if need be: called by Keras.

    Args:
      name: of the file in the folder.
      origin: its address.
      cache_subdir: the folder in that of Keras.
      file_hash: its MD5 or SHA-256; None: unknown.
    """
    folder = os.path.join(home(), cache_subdir)
    path, address = os.path.join(folder, name), _address(origin)
    there = os.path.isfile(path)
    if there and (file_hash is None or is_file_of(path, file_hash)):
        return path
    remedy = f"download it elsewhere and put it into {folder} as {name}"
    wrong = f"{path} has another checksum than the file that Keras publishes, and " if there else ""
    partial = f"{name}.{os.getpid()}.part"
    try:
        os.makedirs(folder, exist_ok=True)  # Keras would take /tmp in place of a folder that is not there.
        with activity(f"downloading {address}"), _impatient(), _quiet():
            keras.utils.get_file(partial, address, cache_subdir=cache_subdir, cache_dir=home())
        if file_hash is not None and not is_file_of(os.path.join(folder, partial), file_hash):
            raise UsageError(f"what {address} sends has another checksum than the file that Keras publishes "
                             f"({file_hash}): {remedy}")
        os.replace(os.path.join(folder, partial), path)
    except UsageError:
        raise
    except Exception as error:  # Keras raises Exception itself.
        reason = str(error).splitlines()[0].rpartition(" -- ")[2]
        raise UsageError(f"{wrong}{name} cannot be downloaded from {address} ({reason}): {remedy}") from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(os.path.join(folder, partial))
    return path


def _address(origin: str) -> str:
    """Returns the address of a file, on the server that is set in place of Keras's, if any."""
    mirror = os.environ.get(MIRROR)
    return f"{mirror.rstrip('/')}{urllib.parse.urlsplit(origin).path}" if mirror else origin


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Gives up on a server that is silent; Keras has no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Keras from drawing a progress bar among the lines of a run."""
    before = keras.config.is_interactive_logging_enabled()
    keras.config.disable_interactive_logging()
    try:
        yield
    finally:
        if before:
            keras.config.enable_interactive_logging()
