"""Makes TensorFlow's server listen at this worker's address instead of on every interface of the machine.

TensorFlow always binds the port of its address on all interfaces and has no option for it. Its call of the C library's
`bind` goes through a table of the loaded library, which is read and changed here (System V ABI, "Dynamic Linking": the
relocations of DT_JMPREL). Where the library has another layout, was bound completely when it was loaded, or the page of
the table is read-only, nothing is changed and the result reports it.
"""
import contextlib
import ctypes
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence

import psutil

from pipeline.distributed.cluster import Cluster, host_and_port

_DYNAMIC = 2  # Type of the program header of the dynamic section.
_STRINGS, _SYMBOLS, _RELOCATIONS_SIZE, _RELOCATIONS = 5, 6, 2, 23  # Tags of the dynamic section.
_FLAGS, _BIND_NOW, _FLAGS_1, _NOW = 30, 0x8, 0x6ffffffb, 0x1  # Tags, and their bits for "bound when it is loaded".
_HEADER_SIZE, _SYMBOL_SIZE = 56, 24  # Bytes of a program header and of a symbol in 64-bit files.
_BIND = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, use_errno=True)


class _LibraryInfo(ctypes.Structure):
    """dl_phdr_info: a library of this process."""
    _fields_ = [("base", ctypes.c_uint64), ("name", ctypes.c_char_p), ("headers", ctypes.c_uint64),
                ("count", ctypes.c_uint16)]


def own_address(cluster: Cluster) -> str | None:
    """Returns the IP address at which this worker is to listen, or None for all interfaces.

    A machine may resolve its own name to the loopback interface while others resolve it to another address; unless all
    workers are on the loopback interface, nobody could reach it there.
    """
    addresses = [_resolve(address) for address in cluster.addresses]
    own = addresses[cluster.rank]
    if own is None or (own.is_loopback and not all(other is not None and other.is_loopback for other in addresses)):
        return None
    return str(own)


def _resolve(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Returns the IP address of "host:port", or None for an unknown host."""
    with contextlib.suppress(OSError, ValueError):
        found = socket.getaddrinfo(host_and_port(address)[0], None, type=socket.SOCK_STREAM)
        return ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])
    return None


@contextlib.contextmanager
def binding_to(address: str | None, port: int,
               libraries: Sequence[str] = ("libtensorflow_cc.", "libtensorflow_framework.")) -> Iterator[list[str]]:
    """Binds a port at one address where the libraries ask for it on all interfaces inside the block.

    Args:
      address: an IPv4 or IPv6 address, or None to change nothing.
      port: other ports are bound as requested.
      libraries: beginnings of their file names.

    Yields:
      A list to which the address is added each time that it was used.
    """
    moved: list[str] = []
    real = ctypes.CDLL(None, use_errno=True).bind
    real.argtypes, real.restype = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32], ctypes.c_int

    def bind(descriptor, where, size):
        try:
            wanted = _with_address(ctypes.string_at(where, size), address, port)
        except Exception:  # Nothing may leave a function that C has called.
            ctypes.set_errno(errno.EADDRNOTAVAIL)
            return -1
        if wanted is None:
            return real(descriptor, where, size)
        code = real(descriptor, ctypes.cast(ctypes.create_string_buffer(wanted, len(wanted)), ctypes.c_void_p),
                    len(wanted))
        if code == 0:
            moved.append(address)
        elif ctypes.get_errno() == errno.EADDRNOTAVAIL:  # This machine does not have the address it is known by.
            return real(descriptor, where, size)
        return code

    replacement = _BIND(bind)
    entries = [] if address is None else [entry for base, dynamic in _loaded(libraries)
                                          for entry in _table_entries(base, dynamic, b"bind")]
    if not all(map(_is_writable, entries)):
        entries = []
    originals = [ctypes.c_uint64.from_address(entry).value for entry in entries]
    for entry in entries:
        ctypes.c_uint64.from_address(entry).value = ctypes.cast(replacement, ctypes.c_void_p).value or 0
    try:
        yield moved
    finally:
        for entry, original in zip(entries, originals, strict=True):
            ctypes.c_uint64.from_address(entry).value = original


def _with_address(requested: bytes, address: str | None, port: int) -> bytes | None:
    """Returns a socket address (sockaddr) with its wildcard replaced; None where it has another port or no wildcard."""
    family, requested_port = struct.unpack("=H", requested[:2])[0], struct.unpack("!H", requested[2:4])[0]
    if address is None or requested_port != port:
        return None
    parsed = ipaddress.ip_address(address)
    if family == socket.AF_INET and parsed.version == 4 and not any(requested[4:8]):
        return requested[:4] + parsed.packed + requested[8:]
    if family == socket.AF_INET6 and not any(requested[8:24]):
        packed = parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed
        return requested[:8] + packed + requested[24:]
    return None


def _loaded(libraries: Sequence[str]) -> list[tuple[int, int]]:
    """Returns (base address, address of the dynamic section) of the loaded libraries with such names."""
    found = []

    def visit(pointer, _, __):
        library = ctypes.cast(pointer, ctypes.POINTER(_LibraryInfo)).contents
        if os.path.basename((library.name or b"").decode(errors="replace")).startswith(tuple(libraries)):
            for i in range(library.count):
                kind, _, _, address = struct.unpack("=IIQQ", ctypes.string_at(library.headers + _HEADER_SIZE * i, 24))
                if kind == _DYNAMIC:
                    found.append((library.base, library.base + address))
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    ctypes.CDLL(None).dl_iterate_phdr(callback(visit), None)
    return found


def _table_entries(base: int, dynamic: int, name: bytes) -> list[int]:
    """Returns the addresses of a function's entries in a library's table of imported functions.

    Empty where all of its calls were bound when it was loaded: the table is read-only then (RELRO).
    """
    tags, position = {}, dynamic
    while (entry := struct.unpack("=qQ", ctypes.string_at(position, 16)))[0]:
        tags[entry[0]], position = entry[1], position + 16
    if not {_STRINGS, _SYMBOLS, _RELOCATIONS_SIZE, _RELOCATIONS} <= set(tags):
        return []
    if tags.get(_FLAGS, 0) & _BIND_NOW or tags.get(_FLAGS_1, 0) & _NOW:
        return []
    strings, symbols, relocations = (value if value > base else value + base for value in (
        tags[_STRINGS], tags[_SYMBOLS], tags[_RELOCATIONS]))
    table = ctypes.string_at(relocations, tags[_RELOCATIONS_SIZE])
    return [base + offset for offset, info, _ in struct.iter_unpack("=QQq", table)
            if ctypes.string_at(strings + struct.unpack("=I", ctypes.string_at(
                symbols + _SYMBOL_SIZE * (info >> 32), 4))[0]) == name]


def _is_writable(address: int) -> bool:
    """Tells whether the page of an address is writable, by the kernel's map of this process."""
    with contextlib.suppress(OSError, psutil.Error):
        for region in psutil.Process().memory_maps(grouped=False):
            first, end = (int(number, 16) for number in region.addr.split("-"))
            if first <= address < end:
                return region.perms[1] == "w"
    return False
