"""Whether the other workers are still there: that one is gone ends this process within seconds.

TensorFlow tells of a lost worker where a collective waits for its data; not while a collective is being agreed on, nor
in anything that is no collective. So the connections of the roll call stay open: the kernel closes them with the
process, however that ends. Standard library only.
"""
import atexit
import contextlib
import os
import selectors
import socket
import threading
import time

PEER_LOST = 76  # Exit code of a worker that cannot go on because of another one (EX_PROTOCOL of sysexits.h).
SECONDS = 2.0  # How long TensorFlow may take to find out itself, and to end what it does.
GOODBYE = b"."
_peers = None  # Of this process.
# A machine without power closes nothing: seconds until it is asked, between questions, and questions.
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


class Peers:
    """The connections to other workers, watched by a thread: of the chief to all, of the others to the chief."""

    def __init__(self, rank, connections):
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

    def leave(self):
        """Says to the others that this worker has done its part, and watches no more."""
        self._left.set()
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.sendall(GOODBYE)

    def _watch(self):
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, rank)
            while selector.get_map():
                for key, _ in selector.select():
                    if not _word(key.fileobj):
                        self._end(key.data)
                    selector.unregister(key.fileobj)

    def _end(self, lost):
        """Ends the process, unless it does so itself: only os._exit ends a thread inside of TensorFlow."""
        time.sleep(SECONDS)
        if not self._left.is_set():
            said = (f"mirrorline train: worker {self._rank} lost worker {lost}, whose process is gone; run the same "
                    "command on all of them again, they go on from the newest checkpoint\n")
            with contextlib.suppress(OSError):
                os.write(2, said.encode())
            os._exit(PEER_LOST)


def watch(rank, connections):
    """Watches over the other workers for the rest of this process, or until `leave`; the arguments are those of Peers.

    A process takes part in one run of several workers at most, since TensorFlow's server in it cannot be closed.
    """
    global _peers
    _peers = Peers(rank, connections)
    atexit.register(leave)  # A process that ends of its own accord is not lost.


def watched():
    """Tells whether this process has met others."""
    return _peers is not None


def leave():
    """Says to the others, if there are any, that this worker has done its part."""
    if _peers:
        _peers.leave()


def _word(connection):
    """Returns what a connection says next, b"" where its other end is gone."""
    try:
        return connection.recv(1)
    except OSError:
        return b""
