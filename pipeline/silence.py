"""Keeps TensorFlow's own messages off the terminal, unless --verbosity=debug asks for them."""
import contextlib
import io
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType

from pipeline.import_hook import ImportHook

# Lines of the C++ logger: severity and date, and the two that come without.
NOISE = re.compile(rb"[IWE]\d{4} \d\d:|WARNING: All log messages before absl::InitializeLog|"
                   rb"To enable the following instructions:")
_screen = 2


def quiet(verbosity: str) -> None:
    """Lowers the log level of TensorFlow, Keras and absl; to be called before TensorFlow is imported.

    Environment variables that the user has set stay unchanged.
    """
    if verbosity == "debug":
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import absl.logging  # It makes its own kind of logger, which logging.getLogger would not.

    absl.logging.set_verbosity(absl.logging.ERROR)
    for name in ("tensorflow", "keras", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(tensorflow|keras|tensorflow_datasets|google|absl|PIL)\b")
    if not any(isinstance(finder, QuietImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, QuietImport())


def open_missing_streams() -> None:
    """Opens standard input, output and error on the null device where the process was started without them.

    Otherwise the next file that is opened would get the descriptor of standard output, and what is printed.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, closefd=False, encoding="utf-8"))


def escape_unencodable() -> None:
    """Prints characters that standard output or standard error cannot encode as \\xe4 and the like."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # The reader of what was written is gone.
                stream.reconfigure(errors="backslashreplace")


class QuietImport(ImportHook):
    """Imports TensorFlow and Keras with standard error held back.

    TF_CPP_MIN_LOG_LEVEL does not affect what is logged while the libraries are being loaded (oneDNN, missing CUDA
    drivers), and TensorFlow is imported wherever a command first needs it.
    """

    names = ("tensorflow", "keras")

    def execute(self, module: ModuleType, load: Callable[[ModuleType], None]) -> None:
        """Imports a library without its log lines."""
        with held_back_stderr():
            load(module)


def screen() -> int:
    """Returns the descriptor of the real standard error, also while it is held back."""
    return _screen


@contextlib.contextmanager
def held_back_stderr() -> Iterator[None]:
    """Holds back the process's standard error, and writes it at the end without log lines of C++."""
    global _screen
    try:
        original = os.dup(2)
    except OSError:  # Standard error is closed.
        yield
        return
    before = _screen
    with tempfile.TemporaryFile() as held:
        _flush_stderr()
        os.dup2(held.fileno(), 2)
        _screen = original if before == 2 else before  # These blocks may be nested.
        try:
            yield
        finally:
            _flush_stderr()
            os.dup2(original, 2)
            _screen = before
            os.close(original)
            held.seek(0)
            rest = b"".join(line for line in held if not NOISE.match(line))
            if rest:
                os.write(2, rest)


def _flush_stderr() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()
