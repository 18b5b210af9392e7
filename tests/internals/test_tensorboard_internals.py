"""TensorBoard's private interfaces exist."""
import inspect
import types

from tensorboard import program
from tensorboard.data import server_ingester

from pipeline.internals.tensorboard_internals import reader_pipe


def test_ingester_of_a_tensorboard_and_its_stdin_handle():
    assert "self._ingester = " in inspect.getsource(program.TensorBoard)
    assert "self._stdin_handle = " in inspect.getsource(server_ingester.SubprocessServerDataIngester)
    board = types.SimpleNamespace(_ingester=types.SimpleNamespace(_stdin_handle="pipe"))
    assert reader_pipe(board) == "pipe" and reader_pipe(types.SimpleNamespace()) is None
