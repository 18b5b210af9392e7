"""Processes of several workers of one run on this machine."""
import contextlib
import json
import signal
import socket

from tests.commands import start


def free_ports(count):
    """Returns numbers of ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def task(ports, rank):
    """Returns the environment that makes a process worker `rank` of those at these ports."""
    addresses = [f"127.0.0.1:{port}" for port in ports]
    return {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}})}


def start_workers(count, *arguments, cwd):
    """Starts `mirrorline ARGUMENTS` as each of `count` workers; returns the processes by rank."""
    ports = free_ports(count)
    return [start(*arguments, cwd=cwd, more=task(ports, rank)) for rank in range(count)]


def ends(processes, timeout=600):
    """Waits for processes; returns [(exit code, standard output, standard error)], and leaves none behind."""
    try:
        return [(process.communicate(timeout=timeout), process.returncode) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
