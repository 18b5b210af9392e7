"""mirrorline tensorboard: shows finished and running runs in the browser."""
import argparse
import contextlib
import errno
import getpass
import os
import signal
import socket
import sys
import types
from collections.abc import Iterator
from typing import Any

from absl import flags as absl_flags

import flags
from pipeline import run_directory
from pipeline.config import ExperimentConfig
from pipeline.errors import UsageError

# Imports inside functions: `--help` and wrong usage answer without TensorFlow.

SUMMARY = "show runs in the browser: curves, images, graph, hyper-parameters, embeddings"
PLACE = 50
GROUPS = ()
ONLY = ("verbosity",)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
WILDCARDS = ("0.0.0.0", "::")
FIRST_PORT, MOST_PORTS = 6006, 100  # As TensorBoard's own command.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# TensorBoard keeps 10 images per tag by default: of 20 epochs every second confusion matrix would be missing.
SAMPLES = {"images": 200}


def define(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of this command."""
    flags.define_path("logdir", "runs", "folder of runs to compare; traces of --profile need xprof "
                      "(pip install 'mirrorline[profiler]')", flag_values)
    flags.define_path("workdir", None, "show only this run; default every run in --logdir", flag_values)
    absl_flags.DEFINE_string("host", "localhost", "address to listen on; 0.0.0.0 shows the runs to everyone in the "
                             "network", flag_values=flag_values)
    absl_flags.DEFINE_integer("port", FIRST_PORT, "port to listen on, or the next free one; 0: any",
                              flag_values=flag_values)


def run(config: ExperimentConfig, flag_values: absl_flags.FlagValues) -> int:
    """Serves until Ctrl-C or SIGTERM; returns the exit code.

    Raises:
      UsageError: there is no run to show, or no free port.
    """
    if not 0 <= flag_values.port < 2**16:
        raise UsageError(f"--port must be from 0 to 65535; found {flag_values.port}")
    folder = shown_folder(flag_values)
    debug, quiet = config.runtime.verbosity == "debug", config.runtime.verbosity == "quiet"
    # Blocked in every thread and in the process that reads the files, which would otherwise end before this one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with contextlib.nullcontext() if debug else silenced():
            board, server = start(folder, flag_values.host, flag_values.port, debug)
            try:
                for line in introduction(server, flag_values.host, flag_values.port, folder, quiet):
                    print(line, flush=True)
                signal.sigwait(SIGNALS)
            finally:
                server.shutdown()
                end_reader(board)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0


def shown_folder(flag_values: absl_flags.FlagValues) -> str:
    """Returns the folder for TensorBoard.

    Raises:
      UsageError: it does not exist, or contains no run.
    """
    workdir = flag_values.workdir
    if workdir:
        if not flag_values["logdir"].using_default_value:
            raise UsageError(f"--logdir={flag_values.logdir} and --workdir={workdir} are both given: give one")
        return run_directory.stored_config(workdir)[0].file("tensorboard")
    folder = flag_values.logdir
    if not os.path.isdir(folder):
        found = "is a file" if os.path.exists(folder) else "does not exist"
        raise UsageError(f"--logdir={folder} {found}: give the folder of your runs, or train one first: "
                         "mirrorline train")
    # A run that has just begun has launches.jsonl.
    if not any("launches.jsonl" in files or any(".tfevents." in name for name in files)
               for _, _, files in os.walk(folder, followlinks=True)):
        raise UsageError(f"--logdir={folder} holds no run: give the folder of your runs, or train one first: "
                         "mirrorline train")
    return folder


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Drops what is written to the process's standard error: TensorBoard's messages about itself and its requests."""
    sys.stderr.flush()
    screen, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(screen, 2)
        os.close(screen)
        os.close(nowhere)


def start(folder: str, host: str, port: int, debug: bool) -> tuple[Any, Any]:
    """Starts TensorBoard on a folder in a thread; returns (tensorboard.program.TensorBoard, its HTTP server)."""
    # Keeps TensorBoard from loading TensorFlow, which takes seconds and memory, and is needed only to read checkpoints.
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
    from tensorboard import default, program
    servers: list[Any] = []

    def listen(app: Any, options: argparse.Namespace) -> Any:
        for candidate in free_ports(host, port):
            try:
                options = argparse.Namespace(**{**vars(options), "port": candidate})
                servers.append(program.WerkzeugServer(app, options))
                return servers[-1]
            except (program.TensorBoardPortInUseError, SystemExit):  # Taken meanwhile, or by another address.
                continue
        raise UsageError(f"--port={port}: this port and the next {MOST_PORTS - 1} are taken; give another")

    board = program.TensorBoard(plugins=default.get_static_plugins() + installed_plugins(debug), server_class=listen)
    board.configure(logdir=os.path.abspath(folder), host=host, samples_per_plugin=SAMPLES,
                    window_title=f"Mirrorline: {os.path.basename(os.path.abspath(folder))}")
    try:
        board.launch()
    except program.TensorBoardServerException as error:
        raise UsageError(f"--host={host}: {error.msg}") from error
    return board, servers[0]


def installed_plugins(debug: bool) -> list[Any]:
    """Returns the plugins of other packages that can be loaded."""
    from importlib import metadata
    plugins: list[Any] = []
    for entry_point in metadata.entry_points(group="tensorboard_plugins"):
        try:
            plugins.append(entry_point.load())
        except Exception as error:  # TensorBoard has the others.
            if debug:
                print(f"TensorBoard's plugin {entry_point.name} cannot be loaded: {error}", file=sys.stderr)
    return plugins


def free_ports(host: str, port: int) -> Iterator[int]:
    """Yields the free ones of MOST_PORTS ports from `port` on; 0 stands for any.

    Raises:
      UsageError: the host is not an address of this machine, or this user may not use the port.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise UsageError(f"--host={host}: {error.strerror}; give localhost, or an address of this machine") from None
    for candidate in range(port, min(port + MOST_PORTS, 2**16)):
        try:
            socket.create_server((address[0], candidate), family=family).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            remedy = "give a port from 1024 on" if error.errno == errno.EACCES else "give localhost"
            raise UsageError(f"--host={host} --port={candidate}: {os.strerror(error.errno or 0)}; {remedy}") from None
        yield candidate


def introduction(server: Any, host: str, port: int, folder: str, quiet: bool) -> Iterator[str]:
    """Yields the lines with the address."""
    found = server.server_port
    url = f"http://{socket.gethostname()}:{found}/" if host in WILDCARDS else server.get_url()
    if quiet:
        yield url
        return
    yield f"tensorboard  {url}  shows {folder}"
    if found != port and port:
        yield f"             port {port} is taken"
    if host in LOOPBACK:
        yield f"from another machine:  ssh -L {found}:localhost:{found} {login()}  and open http://localhost:{found}/"
    else:
        yield "visible to everyone who can reach this machine"
    yield "press Ctrl-C to stop"


def login() -> str:
    """Returns user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container may have users without a name.
        user = "USER"
    return f"{user}@{socket.gethostname()}"


def end_reader(board: Any) -> None:
    """Ends the process that reads the event files, and waits for it.

    It ends by itself when its standard input closes, as it does when this process is killed.
    """
    from pipeline.internals.tensorboard_internals import reader_pipe
    pipe = reader_pipe(board)
    if pipe:
        pipe.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)
