"""Private interfaces of TensorBoard: the process that reads its event files."""
from typing import Any


def reader_pipe(board: Any) -> Any:
    """Returns the standard input of the data server that a tensorboard.program.TensorBoard started, None without one.

    The data server ends when it is closed.
    """
    return getattr(getattr(board, "_ingester", None), "_stdin_handle", None)
