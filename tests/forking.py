"""Processes of the command that start at once: forked from one that has imported TensorFlow and Keras already.

That import is three quarters of the time of a short command, and the same every time. What comes after it is the
command's own, as in a process started from nothing: its modules, arguments, working directory, environment, files,
signals and exit. Not so: what it keeps off the screen while it imports, how long it takes to start, what Python draws
at random for each new process, as the order of a set of strings, and what it frees after its exit handlers have run.
Tests of these say `fresh=True`.

    python -m tests.forking SOCKET
"""
import array
import atexit
import ctypes
import gc
import importlib
import io
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
# What commands import of others; none of it reads what a test sets for its commands.
HEAVY = ("keras", "tensorflow", "sklearn.datasets", "sklearn.metrics", "scipy.stats", "PIL.ImageDraw", "jinja2",
         "psutil", "tensorboard.plugins.hparams.summary", "tensorboard.plugins.text.summary_v2", "rich.live",
         "rich.table")
LONGEST_REQUEST = 2**17  # Bytes, the environment among them.


class Forks:
    """The process that is forked; it is started when it is first needed, and ends with this one."""

    def __init__(self, command):
        """
        Args:
          command: how a Popen starts `serve`: {"args", "cwd", "env"}; the number of its socket is added to the args.
        """
        self._command, self._socket, self._lock = command, None, threading.Lock()

    def start(self, arguments, cwd, env, module="launch"):
        """Starts `python -m MODULE ARGUMENTS`; returns a Forked, a child of this process."""
        (out, child_out), (errors, child_errors) = os.pipe(), os.pipe()
        pid = self.fork(module, arguments, cwd, env, child_out, child_errors)
        for descriptor in (child_out, child_errors):
            os.close(descriptor)
        return Forked(arguments, pid, open(out, encoding="utf-8"), open(errors, encoding="utf-8"))

    def fork(self, module, arguments, cwd, env, out, errors):
        """Starts `python -m MODULE ARGUMENTS` with descriptors for what it says; returns its process id."""
        nothing = os.open(os.devnull, os.O_RDONLY)
        request = json.dumps({"module": module, "arguments": [str(a) for a in arguments], "cwd": str(cwd),
                              "env": env}).encode()
        try:
            with self._lock:
                if not self._socket:
                    self._open()
                socket.send_fds(self._socket, [request], [nothing, out, errors])
                return int(self._socket.recv(32))
        finally:
            os.close(nothing)

    def close(self):
        """Lets the process that is forked end."""
        if self._socket:
            self._socket.close()
            self._process.wait()

    def _open(self):
        # The forked ones become children of this process once the one between has ended.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*self._command["args"], str(theirs.fileno())], cwd=self._command["cwd"], env=self._command["env"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()])


class Forked:
    """A running command: what subprocess.Popen offers of it, with text pipes or none."""

    def __init__(self, args, pid, stdout=None, stderr=None):
        self.args, self.pid, self.stdout, self.stderr, self.returncode = args, pid, stdout, stderr, None

    def poll(self):
        """Returns the exit code, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout=None):
        """Returns the exit code once it has ended."""
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.005)
        return self.returncode

    def communicate(self, timeout=None):
        """Returns (standard output, standard error) once it has ended."""
        said = {}
        readers = [threading.Thread(target=lambda pipe=pipe: said.update({pipe: pipe.read()}), daemon=True)
                   for pipe in (self.stdout, self.stderr)]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        for pipe in said:
            pipe.close()
        return said[self.stdout], said[self.stderr]

    def send_signal(self, number):
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Ends it by SIGKILL."""
        self.send_signal(signal.SIGKILL)


def serve(connection):
    """Forks for each request until nobody can ask any more; returns the request in a forked process, else None."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, LONGEST_REQUEST, 3)
        if not message:
            return None
        between = os.fork()
        if not between:
            between = os.getpid()
            if os.fork():
                os._exit(0)
            while os.getppid() == between:
                time.sleep(0.0005)
            connection.send(str(os.getpid()).encode())
            connection.close()
            return {**json.loads(message), "descriptors": array.array("i", descriptors)}
        os.waitpid(between, 0)
        for descriptor in descriptors:
            os.close(descriptor)


def become(request):
    """Makes this process the command that was asked for."""
    import numpy as np
    for number, descriptor in enumerate(request["descriptors"]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    encoding, _, errors = request["env"].get("PYTHONIOENCODING", "utf-8").partition(":")
    for number, name in ((1, "stdout"), (2, "stderr")):  # Those of the process that is forked belong to other files.
        raw = open(number, "wb", 0, closefd=False)
        setattr(sys, name, io.TextIOWrapper(raw, encoding, errors or "strict", write_through=True))
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    random.seed()
    np.random.seed()
    tempfile.tempdir = None
    sys.argv[1:], sys.path[0] = request["arguments"], request["cwd"]
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        code = end.code
    if "TF_CONFIG" in os.environ:  # Workers part from each other as TensorFlow is freed.
        sys.exit(code)
    end_at_once(code)


def end_at_once(code):
    """Ends this process as Python does, but frees nothing: the memory shared with the process that is forked would
    be copied for it, a quarter of a second of each command."""
    threading._shutdown()  # Threads and exit handlers, in Python's own order.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code & 0xFF)


def main(number):
    """Imports what takes long, and serves."""
    from pipeline import silence
    silence.quiet("normal")
    for name in HEAVY:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] in ("launch", "pipeline", "flags")]:
        del sys.modules[name]  # A command imports its own.
    gc.collect()
    gc.freeze()  # Else each forked process copies the memory of every object as it looks for garbage at its end.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    request = serve(socket.socket(fileno=number))
    if request:
        become(request)


if __name__ == "__main__":
    main(int(sys.argv[1]))
