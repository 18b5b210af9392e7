"""Keeps TensorFlow's own messages off the screen, unless --verbosity=debug asks for them."""
import contextlib
import importlib.abc
import importlib.util
import logging
import os
import re
import sys
import tempfile
import warnings

# Lines of the C++ logger: severity and date, and the two that come without.
NOISE = re.compile(rb"[IWE]\d{4} \d\d:|WARNING: All log messages before absl::InitializeLog|"
                   rb"To enable the following instructions:")


def quiet(verbosity):
    """Turns down TensorFlow, Keras and absl; to be called before TensorFlow is imported, which it does not do.

    Environment variables that the user has set stay as they are.
    """
    if verbosity == "debug":
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import absl.logging  # makes its own kind of logger, which logging.getLogger would not

    absl.logging.set_verbosity(absl.logging.ERROR)
    for name in ("tensorflow", "keras", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(tensorflow|keras|tensorflow_datasets|google|absl|PIL)\b")
    if not any(isinstance(finder, QuietImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, QuietImport())


def open_missing():
    """Opens what a process was started without of standard input, output and error: nobody reads or writes it.

    Else the next file that is opened would take the number of standard output, and get what is printed.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, closefd=False, encoding="utf-8"))


def escape_what_cannot_be_encoded():
    """Lets the name of a class be printed as \\xe4 and the like where standard output cannot encode it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with contextlib.suppress(OSError):  # Nobody reads what was written there.
                stream.reconfigure(errors="backslashreplace")


class QuietImport(importlib.abc.MetaPathFinder):
    """Imports TensorFlow and Keras with standard error held back.

    TF_CPP_MIN_LOG_LEVEL does not reach what is logged while the libraries are being loaded (oneDNN, missing CUDA
    drivers), and TensorFlow is imported wherever a command first needs it.
    """

    _looking = False

    def find_spec(self, name, path=None, target=None):
        """Returns the module's spec with a loader that is quiet; None for any other module."""
        if name not in ("tensorflow", "keras") or self._looking:
            return None
        self._looking = True
        try:
            spec = importlib.util.find_spec(name)  # As the other finders see it.
        finally:
            self._looking = False
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_quietly(module):
            with held_back_stderr():
                execute(module)

        spec.loader.exec_module = execute_quietly
        return spec


@contextlib.contextmanager
def held_back_stderr():
    """Holds back what is written to the process's standard error, and shows at the end what is no log line of C++."""
    try:
        screen = os.dup(2)
    except OSError:  # standard error is closed: nothing to keep clean
        yield
        return
    with tempfile.TemporaryFile() as held:
        _flush_stderr()
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            _flush_stderr()
            os.dup2(screen, 2)
            os.close(screen)
            held.seek(0)
            rest = b"".join(line for line in held if not NOISE.match(line))
            if rest:
                os.write(2, rest)


def _flush_stderr():
    if sys.stderr is not None:
        sys.stderr.flush()
