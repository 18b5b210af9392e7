"""Ports for workers: free ones of this machine, or ones that processes on several machines derive alike."""
import contextlib
import socket
import zlib

LOOPBACK = "127.0.0.1"
# Below what Linux hands out by itself (32768 to 60999), above what services have.
FIRST, LAST = 20000, 32767


def free_ports(count, without=()):
    """Returns ports of this machine that nothing listens on.

    Another program may take one before a worker does: then that worker cannot be started, and the next attempt has
    others.

    Args:
      count: how many.
      without: ports that are not to be taken, such as those of the attempt before.
    """
    found = []
    # All are held until the last is found, so that none comes twice; so are those that are not wanted.
    with contextlib.ExitStack() as held:
        while len(found) < count:
            listener = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.bind((LOOPBACK, 0))
            port = listener.getsockname()[1]
            if port not in without:
                found.append(port)
    return tuple(found)


def derived_ports(count, *key):
    """Returns neighbouring ports that are the same wherever they are derived from the same key.

    Args:
      count: how many.
      key: what tells this start of the workers from others (job, step, attempt).
    """
    places = LAST - FIRST + 2 - count
    first = FIRST + zlib.crc32("/".join(map(str, key)).encode()) % places
    return tuple(range(first, first + count))
