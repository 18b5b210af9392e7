"""Ports for workers: free ones of this machine, or ones that processes on several machines derive from the same key."""
import contextlib
import socket
import zlib
from collections.abc import Collection

LOOPBACK = "127.0.0.1"
# Below the ephemeral ports of Linux (32768 to 60999), above those of services.
FIRST, LAST = 20000, 32767


def free_ports(count: int, without: Collection[int] = ()) -> tuple[int, ...]:
    """Returns ports of this machine that nothing listens on, none of `without` (those of the attempt before).

    Another program may take one before its worker does: then that worker fails, and the next attempt has other ports.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:  # All are held until the last is found, so that none is found twice.
        while len(found) < count:
            listener = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.bind((LOOPBACK, 0))
            port = listener.getsockname()[1]
            if port not in without:
                found.append(port)
    return tuple(found)


def derived_ports(count: int, *key: object) -> tuple[int, ...]:
    """Returns consecutive ports that depend on the key (job, step, attempt) alone."""
    first = FIRST + zlib.crc32("/".join(map(str, key)).encode()) % (LAST - FIRST + 2 - count)
    return tuple(range(first, first + count))
