"""Ends this process within seconds after another worker of the run is gone.

TensorFlow reports a lost worker where a collective waits for its data, but not while a collective is being set up, nor
outside of collectives. So the connections of the rendezvous stay open: the kernel closes them with the process, however
that ends. Standard library only.
"""
import atexit
import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Mapping

PEER_LOST = 76  # Exit code of a worker that cannot continue because of another one (EX_PROTOCOL of sysexits.h).
SECONDS = 2.0  # Time for TensorFlow to notice the loss itself.
GOODBYE = b"."
# A machine without power closes nothing: seconds until it is probed, between probes, and number of probes.
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
_connections: "PeerConnections | None" = None  # Of this process.


class PeerConnections:
    """The connections to other workers, watched by a thread: from the chief to all, from the others to the chief."""

    def __init__(self, rank: int, connections: Mapping[int, socket.socket]):
        """
        Args:
          rank: index of this worker.
          connections: {rank: connected socket}.
        """
        self._rank, self._connections, self._left = rank, connections, threading.Event()
        for connection in connections.values():
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEPALIVE.items():
                if hasattr(socket, name):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def leave(self) -> None:
        """Tells the others that this worker is done, and stops watching."""
        self._left.set()
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.sendall(GOODBYE)

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, rank)
            while selector.get_map():
                for key, _ in selector.select():
                    if not _received(key.fileobj):
                        self._exit(key.data)
                    selector.unregister(key.fileobj)

    def _exit(self, lost: int) -> None:
        """Ends the process, unless it ends by itself: only os._exit ends a thread inside of TensorFlow."""
        time.sleep(SECONDS)
        if not self._left.is_set():
            line = (f"mirrorline train: worker {self._rank} lost worker {lost}, whose process is gone; run the same "
                    "command on all of them again, they continue from the latest checkpoint\n")
            with contextlib.suppress(OSError):
                os.write(2, line.encode())
            os._exit(PEER_LOST)


def watch(rank: int, connections: Mapping[int, socket.socket]) -> None:
    """Watches the other workers for the rest of this process, or until `leave`; arguments as of PeerConnections.

    A process takes part in at most one run of several workers, since TensorFlow's server in it cannot be closed.
    """
    global _connections
    _connections = PeerConnections(rank, connections)
    atexit.register(leave)  # A process that ends by itself is not lost.


def is_watching() -> bool:
    """Tells whether this process has met other workers."""
    return _connections is not None


def leave() -> None:
    """Tells the other workers, if any, that this one is done."""
    if _connections:
        _connections.leave()


def _received(connection) -> bytes:
    """Returns the next byte of a connection, b"" where its other end is gone."""
    try:
        return connection.recv(1)
    except OSError:
        return b""
