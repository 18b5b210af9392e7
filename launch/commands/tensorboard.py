"""mirrorline tensorboard: shows runs in the browser, those that are going on too."""
import argparse
import contextlib
import errno
import getpass
import os
import signal
import socket
import sys
import types

from absl import flags as absl_flags

import flags
from pipeline import run_directory
from pipeline.errors import UsageError

SUMMARY = "show runs in the browser: curves, images, graph, hyper-parameters, embeddings"
PLACE = 50
GROUPS = ()
ONLY = ("verbosity",)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
WILDCARDS = ("0.0.0.0", "::")
FIRST_PORT, MOST_PORTS = 6006, 100  # TensorBoard's own.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# TensorBoard keeps 10 images a tag by default: of a run of 20 epochs every second confusion matrix would be missing.
SAMPLES = {"images": 200}


def define(flag_values):
    """Defines the flags of this command alone."""
    flags.define_path("logdir", "runs", "folder of runs, shown beside each other; traces of --profile are shown where "
                      "xprof is installed too (pip install 'mirrorline[profiler]')", flag_values)
    flags.define_path("workdir", None, "show this run alone; default every run in --logdir", flag_values)
    absl_flags.DEFINE_string("host", "localhost", "address to listen at; 0.0.0.0 shows the runs to everyone in the "
                             "network", flag_values=flag_values)
    absl_flags.DEFINE_integer("port", FIRST_PORT, "port to listen at; where it is taken, the next free one; 0: any",
                              flag_values=flag_values)


def run(config, flag_values):
    """Serves until Ctrl-C or SIGTERM; returns the exit code.

    Raises:
      UsageError: there is no run to show, or no port to listen at.
    """
    if not 0 <= flag_values.port < 2**16:
        raise UsageError(f"--port must be from 0 to 65535; found {flag_values.port}")
    folder = shown_folder(config.runtime.workdir, flag_values)
    debug, quiet = config.runtime.verbosity == "debug", config.runtime.verbosity == "quiet"
    # Blocked from here on in every thread and in the process that reads the files, which would else be gone before us.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with contextlib.nullcontext() if debug else unheard():
            board, server = start(folder, flag_values.host, flag_values.port, debug)
            try:
                for line in where(server, flag_values.host, flag_values.port, folder, quiet):
                    print(line, flush=True)
                signal.sigwait(SIGNALS)
            finally:
                server.shutdown()
                end_reader(board)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0


def shown_folder(workdir, flag_values):
    """Returns the folder that TensorBoard is shown.

    Raises:
      UsageError: it is not there, or no run is in it.
    """
    if workdir:
        if not flag_values["logdir"].using_default_value:
            raise UsageError(f"--logdir={flag_values.logdir} and --workdir={workdir} both say what is shown: give one")
        return run_directory.stored_config(workdir)[0].file("tensorboard")
    folder = flag_values.logdir
    if not os.path.isdir(folder):
        found = "is a file" if os.path.exists(folder) else "does not exist"
        raise UsageError(f"--logdir={folder} {found}: give the folder of your runs, or train one first: "
                         "mirrorline train")
    if not any(holds_run(files) for _, _, files in os.walk(folder, followlinks=True)):
        raise UsageError(f"--logdir={folder} holds no run: give the folder of your runs, or train one first: "
                         "mirrorline train")
    return folder


def holds_run(files):
    """Tells whether files, a list of names in one folder, are those of a run, one that has just begun among them."""
    return "launches.jsonl" in files or any(".tfevents." in name for name in files)


@contextlib.contextmanager
def unheard():
    """Lets nothing be written to the process's standard error: TensorBoard's notes about itself and its requests."""
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


def start(folder, host, port, debug):
    """Starts TensorBoard on a folder in a thread; returns (tensorboard.program.TensorBoard, its HTTP server)."""
    # TensorBoard then does without TensorFlow, which would only cost seconds and memory: what it would read with it
    # are checkpoints, and the projector's points are in files of their own.
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
    from tensorboard import default, program
    servers = []

    def listen(app, options):
        for candidate in free_ports(host, port):
            try:
                options = argparse.Namespace(**{**vars(options), "port": candidate})
                servers.append(program.WerkzeugServer(app, options))
                return servers[-1]
            except (program.TensorBoardPortInUseError, SystemExit):  # Taken since, or by another address.
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


def installed_plugins(debug):
    """Returns the plugins that other packages bring, without those that cannot be loaded here."""
    from importlib import metadata
    plugins = []
    for entry_point in metadata.entry_points(group="tensorboard_plugins"):
        try:
            plugins.append(entry_point.load())
        except Exception as error:  # Whatever is wrong with it, TensorBoard has the others.
            if debug:
                print(f"TensorBoard's plugin {entry_point.name} cannot be loaded: {error}", file=sys.stderr)
    return plugins


def free_ports(host, port):
    """Yields ports at which one could listen, from `port` on, at most 100; 0 stands for any.

    Raises:
      UsageError: the host is none of this machine's, or its ports are not for this user.
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
            raise UsageError(f"--host={host} --port={candidate}: {os.strerror(error.errno)}; {remedy}") from None
        yield candidate


def where(server, host, port, folder, quiet):
    """Yields the lines that say where to look."""
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
        yield "everyone who reaches this machine can look at it"
    yield "Ctrl-C ends it"


def login():
    """Returns user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container may have users without a name.
        user = "USER"
    return f"{user}@{socket.gethostname()}"


def end_reader(board):
    """Ends the process that reads the event files, and waits for it.

    It ends by itself when its standard input closes, so also when this process is killed; but then a moment later.
    """
    from pipeline.internals.tensorboard_internals import reader_pipe
    pipe = reader_pipe(board)
    if pipe:
        pipe.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)
