"""What the tests take from the machine around them: as little as possible.

A user's files, a notebook's variables, a batch system or a terminal around the tests decide nothing in them. What tells
TensorFlow which kernels to take stays, so that the whole suite can be run with another choice.
"""
import contextlib
import locale
import os
import pathlib
import re
import signal
import site
import sys
import tempfile

from pipeline import onednn, processor

FOREIGN = re.compile(
    r"TF_|TFDS_|KERAS_|GRPC_|ABSL_|SLURM_|PMI_|RAY_|JOB_COMPLETION_INDEX|MIRRORLINE_|JPY_|MPLBACKEND|MATPLOTLIBRC|XDG_|"
    # DONTWRITEBYTECODE too: each of hundreds of commands would compile the same sources.
    r"PYTHON(DONTWRITEBYTECODE|WARNINGS|DEVMODE|SAFEPATH|HASHSEED|OPTIMIZE|IOENCODING|UTF8|COERCECLOCALE|STARTUP|"
    r"INSPECT|PATH)|"
    r"COLUMNS|LINES|COLORTERM|NO_COLOR|FORCE_COLOR|CLICOLOR|LC_|LANGUAGE")
KERNELS = {"TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTEROP_THREADS", "TF_XLA_FLAGS"}
# The name is one a user, since pytest calls its folder for temporary files after it.
NAME = f"user{os.getuid()}"
FIXED = {"TERM": "dumb", "LANG": "C.UTF-8", "USER": NAME, "LOGNAME": NAME,
         "NO_PROXY": "localhost,127.0.0.1", "no_proxy": "localhost,127.0.0.1"}


def clean(environment):
    """Returns the variables without what is of a user, a terminal or a system around, and with fixed ones in its place.

    Args:
      environment: {name: value}.
    """
    kept = {name: value for name, value in environment.items() if name in KERNELS or not FOREIGN.match(name)}
    caches = pathlib.Path(environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    own = pathlib.Path(tempfile.gettempdir()) / f"mirrorline-tests-{os.getuid()}"
    # What takes long to make stays from one run to the next: matplotlib's list of fonts, a browser, user's packages.
    lasting = {"MPLCONFIGDIR": str(own / "matplotlib"), "PYTHONUSERBASE": site.getuserbase(),
               "PLAYWRIGHT_BROWSERS_PATH": str(caches / "ms-playwright")}
    # What TensorFlow does by itself: else the first run under each new home would measure it.
    kernels = {} if onednn.uses_by_default(processor.cpu_features()) else {onednn.VARIABLE: "0"}
    return {**kernels, **lasting, **kept, **FIXED}


def settle():
    """Gives this process, and those it will start, clean variables and an empty home; returns that folder."""
    variables = clean(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    with contextlib.suppress(locale.Error):  # Else files are read in the encoding of the terminal.
        locale.setlocale(locale.LC_ALL, variables["LANG"])
    for number in (signal.SIGINT, signal.SIGHUP):  # Ignored by what was started in the background or by nohup.
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.makedirs(variables["MPLCONFIGDIR"], exist_ok=True)
    sys.dont_write_bytecode = False
    os.environ["HOME"] = tempfile.mkdtemp(prefix="mirrorline-home-")
    return os.environ["HOME"]
