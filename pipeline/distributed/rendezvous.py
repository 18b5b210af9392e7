"""The rendezvous of the workers: all of a run are present with the same settings, or each reports who is missing.

TensorFlow waits for a missing worker silently and without end, so it is called only when all are there. The chief
listens at the port that TensorFlow uses afterwards. Standard library only.
"""
import contextlib
import hashlib
import json
import socket
import time
from typing import Any

from pipeline.distributed.cluster import Cluster, host_and_port
from pipeline.errors import RunFailure, UsageError

PAUSE = 0.2  # Seconds between two attempts to reach the chief.
LONGEST_LINE = 4096
Connections = dict[int, socket.socket]


class PeerLost(RunFailure):
    """This worker cannot continue because of another one."""


def meet(cluster: Cluster, seconds: float, settings: str, address: str | None = None) -> Connections:
    """Waits until every worker is present.

    Args:
      cluster: the workers.
      seconds: how long to wait; 0: without limit.
      settings: text that has to be the same on every worker.
      address: IP address at which the chief listens; None: on all interfaces.

    Returns:
      {rank: socket}, from the chief to all others, from these to the chief.

    Raises:
      PeerLost: a worker is missing; names it and its address.
      UsageError: a worker was started with other settings, or the chief's port is not free.
    """
    deadline = time.monotonic() + seconds if seconds else float("inf")
    settings = hashlib.sha256(repr((cluster.addresses, settings)).encode()).hexdigest()
    connections, answer = (_wait_as_chief(cluster, settings, deadline, address) if cluster.rank == 0
                           else _join(cluster, settings, deadline))
    if answer.get("missing") or answer.get("other"):
        _close(connections)
    if answer.get("missing"):
        raise PeerLost(f"worker {cluster.rank} waited {seconds:g} s (--start_timeout) for the others: no answer from "
                       + ", ".join(f"worker {rank} at {cluster.addresses[rank]}" for rank in answer["missing"]))
    if answer.get("other"):
        others = ", ".join(map(str, answer["other"]))
        raise UsageError(f"worker {others} of {len(cluster.addresses)} has other flags, addresses or devices than "
                         "worker 0: start all of them with the same ones")
    return connections


def _wait_as_chief(cluster: Cluster, settings: str, deadline: float, address: str | None
                   ) -> tuple[Connections, dict[str, Any]]:
    """Listens until all workers have connected or the deadline; returns their connections and the answer sent."""
    present: Connections = {}
    other: set[int] = set()
    host, port = host_and_port(cluster.addresses[0])
    family = socket.AF_INET6 if ":" in (address or host) else socket.AF_INET
    try:
        socket.getaddrinfo(host, port)
        listener = socket.create_server((address or "", port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(f"worker 0 cannot listen at {cluster.addresses[0]}: {(error.strerror or str(error)).lower()}; "
                         "give an address of this machine and a port that is free") from error
    with listener:
        while len(present) < len(cluster.addresses) - 1 and time.monotonic() < deadline:
            listener.settimeout(min(1.0, max(0.01, deadline - time.monotonic())))
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                _register(listener.accept()[0], present, other, settings)
            for rank in [rank for rank, connection in present.items() if _is_closed(connection)]:
                present.pop(rank).close()
    missing = [rank for rank in range(1, len(cluster.addresses)) if rank not in present]
    answer = {"missing": missing, "other": sorted(other)}
    for connection in present.values():
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(answer).encode() + b"\n")
    return present, answer


def _register(connection: socket.socket, present: Connections, other: set[int], settings: str) -> None:
    """Reads the rank and the settings of a worker that has connected."""
    connection.settimeout(1.0)
    try:
        message = _read(connection)
        rank, fits = int(message["rank"]), message["settings"] == settings
    except BaseException:
        connection.close()
        raise
    connection.setblocking(False)
    if rank in present:  # The worker was restarted.
        present[rank].close()
    present[rank] = connection
    (other.discard if fits else other.add)(rank)


def _is_closed(connection: socket.socket) -> bool:
    """Tells whether the other end of an idle connection is closed."""
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _join(cluster: Cluster, settings: str, deadline: float) -> tuple[Connections, dict[str, Any]]:
    """Connects to the chief; returns the connection and the chief's answer."""
    message = json.dumps({"rank": cluster.rank, "settings": settings}).encode() + b"\n"
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection(host_and_port(cluster.addresses[0]), timeout=2.0))
            connection.sendall(message)
            # The chief answers at its own deadline, which may be later than this one.
            connection.settimeout(min(max(1.0, deadline - time.monotonic() + 5), 1e6))
            answer = _read(connection)
            stack.pop_all()
            return {0: connection}, answer
        time.sleep(PAUSE)
    return {}, {"missing": [0]}


def _close(connections: Connections) -> None:
    """Closes connections, the chief's after those of the others: the end that closes first keeps the port busy."""
    for rank, connection in connections.items():
        with connection, contextlib.suppress(OSError):
            if rank:
                connection.settimeout(1.0)
                connection.recv(1)


def _read(connection: socket.socket) -> dict[str, Any]:
    """Returns the JSON object of one line; ValueError where the other end closed before it was complete."""
    with connection.makefile("rb") as lines:
        return json.loads(lines.readline(LONGEST_LINE))
