"""The roll call: all workers of a run are there and want the same, or each says who is missing.

TensorFlow waits for a worker that does not come without an end and without a word, so it is asked only when all are
there. The chief listens where TensorFlow will listen, for as long as this lasts. Standard library only.
"""
import contextlib
import hashlib
import json
import socket
import time

from pipeline.distributed.cluster import host_and_port
from pipeline.errors import RunFailure, UsageError

PAUSE = 0.2  # Seconds between two attempts to reach the chief.
LONGEST_LINE = 4096


class PeerLost(RunFailure):
    """This worker cannot go on because of another one."""


def roll_call(cluster, seconds, settings, address=None):
    """Returns once every worker is there: {rank: socket}, of the chief to all others, of these to the chief.

    Args:
      cluster: Cluster.
      seconds: how long to wait; 0: for ever.
      settings: text that has to be the same on every worker.
      address: IP address at which the chief listens; None: on all interfaces.

    Raises:
      PeerLost: a worker did not come in time; names it and its address.
      UsageError: a worker was started with other settings, or the chief's port is not free.
    """
    deadline = time.monotonic() + seconds if seconds else float("inf")
    settings = hashlib.sha256(repr((cluster.addresses, settings)).encode()).hexdigest()
    if cluster.rank == 0:
        connections, answer = _call(cluster, settings, deadline, address)
    else:
        connections, answer = _answer(cluster, settings, deadline)
    if answer.get("missing") or answer.get("other"):
        _part(connections)
    if answer.get("missing"):
        raise PeerLost(f"worker {cluster.rank} waited {seconds:g} s (--start_timeout) for the others: no word from "
                       + ", ".join(f"worker {rank} at {cluster.addresses[rank]}" for rank in answer["missing"]))
    if answer.get("other"):
        others = ", ".join(map(str, answer["other"]))
        raise UsageError(f"worker {others} of {len(cluster.addresses)} has other flags, addresses or devices than "
                         "worker 0: start all of them with the same ones")
    return connections


def _call(cluster, settings, deadline, address):
    """Listens as the chief until all have come or it is too late; returns who came and what it told them."""
    here, other = {}, set()
    host, port = host_and_port(cluster.addresses[0])
    family = socket.AF_INET6 if ":" in (address or host) else socket.AF_INET
    try:
        socket.getaddrinfo(host, port)
        listener = socket.create_server((address or "", port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(f"worker 0 cannot listen at {cluster.addresses[0]}: {error.strerror.lower()}; give an "
                         "address of this machine and a port that is free") from error
    with listener:
        while len(here) < len(cluster.addresses) - 1 and time.monotonic() < deadline:
            listener.settimeout(min(1.0, max(0.01, deadline - time.monotonic())))
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                _welcome(listener.accept()[0], here, other, settings)
            for rank in [rank for rank, connection in here.items() if _gone(connection)]:
                here.pop(rank).close()
    missing = [rank for rank in range(1, len(cluster.addresses)) if rank not in here]
    answer = {"missing": missing, "other": sorted(other)}
    for connection in here.values():
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(answer).encode() + b"\n")
    return here, answer


def _welcome(connection, here, other, settings):
    """Hears who has come."""
    connection.settimeout(1.0)
    try:
        word = _read(connection)
        rank, fits = int(word["rank"]), word["settings"] == settings
    except BaseException:
        connection.close()
        raise
    connection.setblocking(False)
    if rank in here:  # Started anew; what there was before is gone, or goes as it finds out.
        here[rank].close()
    here[rank] = connection
    (other.discard if fits else other.add)(rank)


def _gone(connection):
    """Tells whether the other end of a connection on which nobody speaks now is closed."""
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _answer(cluster, settings, deadline):
    """Tells the chief that this worker is there; returns the connection, and what the chief says in the end."""
    word = json.dumps({"rank": cluster.rank, "settings": settings}).encode() + b"\n"
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection(host_and_port(cluster.addresses[0]), timeout=2.0))
            connection.sendall(word)
            # The chief speaks at its own deadline, which may be later than this one.
            connection.settimeout(min(max(1.0, deadline - time.monotonic() + 5), 1e6))
            answer = _read(connection)
            stack.pop_all()
            return {0: connection}, answer
        time.sleep(PAUSE)
    return {}, {"missing": [0]}


def _part(connections):
    """Closes connections, those of the chief once the others have: who closes first keeps the port busy for a while."""
    for rank, connection in connections.items():
        with connection, contextlib.suppress(OSError):
            if rank:
                connection.settimeout(1.0)
                connection.recv(1)


def _read(connection):
    """Returns the JSON object of one line; ValueError where the other side closed before its end."""
    with connection.makefile("rb") as lines:
        return json.loads(lines.readline(LONGEST_LINE))

