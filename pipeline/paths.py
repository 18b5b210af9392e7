"""Paths: those that users give, and how TensorFlow is given them. Standard library only."""
import contextlib
import os

PATTERN = frozenset("*?[]\\")  # What TensorFlow's matcher of file names (fnmatch) gives a meaning.


@contextlib.contextmanager
def literal(path):
    """Gives another path of the same file or folder, in which TensorFlow finds no pattern.

    TensorFlow looks for checkpoints by patterns made of their path: it does not find the run `lr=[1e-3]` that it has
    written, and at the removal of old checkpoints of `lr=[12]` it removes those of `lr=1`. An open folder has a path
    without such characters, /proc/self/fd/NUMBER, until it is closed.

    Args:
      path: of a folder, of a file or of a checkpoint (without suffix) in a folder that exists.

    Yields:
      The path to give to TensorFlow, for this block and this process alone; `path` itself where that has no pattern, or
      the system no /proc.
    """
    if not PATTERN.intersection(path):
        yield path
        return
    folder, name = (path, "") if os.path.isdir(path) else os.path.split(path)
    try:
        handle = os.open(folder or os.curdir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield path  # TensorFlow says best itself what is not there.
        return
    try:
        opened = f"/proc/self/fd/{handle}"
        yield os.path.join(opened, name) if os.path.isdir(opened) else path
    finally:
        os.close(handle)
