"""Where TensorFlow's server listens: at this worker's address, not on every interface of the machine.

TensorFlow asks for the port of its address and for all interfaces, always, and has no option for it. Its call of the C
library's `bind` goes through a table of the loaded library, which is read and written here (System V ABI, "Dynamic
Linking": the relocations of DT_JMPREL). Where the library is laid out in another way, where its calls were all bound as
it was loaded, or where the page of the table cannot be written, nothing is changed, and the caller is told. Standard
library only.
"""
import contextlib
import ctypes
import errno
import ipaddress
import os
import socket
import struct

from pipeline.distributed.cluster import host_and_port

_DYNAMIC = 2  # Of a program header: where the dynamic section is.
_STRINGS, _SYMBOLS, _RELOCATIONS_SIZE, _RELOCATIONS = 5, 6, 2, 23  # Tags of the dynamic section.
_FLAGS, _BIND_NOW, _FLAGS_1, _NOW = 30, 0x8, 0x6ffffffb, 0x1  # Tags, and their bits for "bound as it is loaded".
_HEADER_SIZE, _SYMBOL_SIZE = 56, 24  # Bytes of a program header, of a symbol, in files of 64 bits.
_BIND = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, use_errno=True)


class _Loaded(ctypes.Structure):
    """dl_phdr_info: a library of this process."""
    _fields_ = [("base", ctypes.c_uint64), ("name", ctypes.c_char_p), ("headers", ctypes.c_uint64),
                ("count", ctypes.c_uint16)]


def own_address(cluster):
    """Returns the IP address at which this worker is to listen, or None: on all interfaces.

    A machine may know itself by a name that others know as another address: where its name is that of the loopback
    interface and theirs are not, nobody could reach it there.

    Args:
      cluster: Cluster.
    """
    own = _resolved(cluster.addresses[cluster.rank])
    if own is None:
        return None
    if own.is_loopback:
        others = map(_resolved, cluster.addresses)
        return str(own) if all(other is not None and other.is_loopback for other in others) else None
    return str(own)


def _resolved(address):
    """Returns the IP address of "host:port", or None where the host is not known here."""
    with contextlib.suppress(OSError, ValueError):
        found = socket.getaddrinfo(host_and_port(address)[0], None, type=socket.SOCK_STREAM)
        return ipaddress.ip_address(found[0][4][0].partition("%")[0])
    return None


@contextlib.contextmanager
def listening_at(address, port, libraries=("libtensorflow_cc.", "libtensorflow_framework.")):
    """Lets the libraries, which ask for a port on all interfaces meanwhile, have it at one address.

    Args:
      address: text of an IPv4 or IPv6 address, or None: as they ask.
      port: other ports are left as they ask.
      libraries: beginnings of their file names.

    Yields:
      A list that gets the address with each time it was put in.
    """
    moved = []
    real = ctypes.CDLL(None, use_errno=True).bind
    real.argtypes, real.restype = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32], ctypes.c_int

    def bind(descriptor, where, size):
        try:
            asked = ctypes.string_at(where, size)
            wanted = _elsewhere(asked, address, port)
        except Exception:  # Nothing may leave a function that C has called.
            ctypes.set_errno(errno.EADDRNOTAVAIL)
            return -1
        if wanted is None:
            return real(descriptor, where, size)
        code = real(descriptor, ctypes.cast(ctypes.create_string_buffer(wanted, len(wanted)), ctypes.c_void_p),
                    len(wanted))
        if code == 0:
            moved.append(address)
        elif ctypes.get_errno() == errno.EADDRNOTAVAIL:  # This machine is known by an address that it has not itself.
            return real(descriptor, where, size)
        return code

    ours = _BIND(bind)
    places = [] if address is None else [place for base, dynamic in _loaded(libraries)
                                         for place in _places(base, dynamic, b"bind")]
    if not all(map(_writable, places)):
        places = []
    theirs = [ctypes.c_uint64.from_address(place).value for place in places]
    for place in places:
        ctypes.c_uint64.from_address(place).value = ctypes.cast(ours, ctypes.c_void_p).value
    try:
        yield moved
    finally:
        for place, before in zip(places, theirs, strict=True):
            ctypes.c_uint64.from_address(place).value = before


def _elsewhere(asked, address, port):
    """Returns a socket address with its wildcard replaced, None for one that is of another port or has none."""
    family, asked_port = struct.unpack("=H", asked[:2])[0], struct.unpack("!H", asked[2:4])[0]
    if asked_port != port:
        return None
    parsed = ipaddress.ip_address(address)
    if family == socket.AF_INET and parsed.version == 4 and not any(asked[4:8]):
        return asked[:4] + parsed.packed + asked[8:]
    if family == socket.AF_INET6 and not any(asked[8:24]):
        packed = parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed
        return asked[:8] + packed + asked[24:]
    return None


def _loaded(libraries):
    """Returns [(base address, address of the dynamic section)] of the loaded libraries with such names."""
    found = []

    def each(pointer, _, __):
        one = ctypes.cast(pointer, ctypes.POINTER(_Loaded)).contents
        if os.path.basename((one.name or b"").decode(errors="replace")).startswith(tuple(libraries)):
            for i in range(one.count):
                kind, _, _, address = struct.unpack("=IIQQ", ctypes.string_at(one.headers + _HEADER_SIZE * i, 24))
                if kind == _DYNAMIC:
                    found.append((one.base, one.base + address))
        return 0

    visit = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    ctypes.CDLL(None).dl_iterate_phdr(visit(each), None)
    return found


def _places(base, dynamic, name):
    """Returns the addresses of the entries of a function in a library's table of functions of others."""
    tags, at = {}, dynamic
    while (entry := struct.unpack("=qQ", ctypes.string_at(at, 16)))[0]:
        tags[entry[0]], at = entry[1], at + 16
    if not {_STRINGS, _SYMBOLS, _RELOCATIONS_SIZE, _RELOCATIONS} <= set(tags):
        return []
    if tags.get(_FLAGS, 0) & _BIND_NOW or tags.get(_FLAGS_1, 0) & _NOW:
        return []  # The table is read-only by now (RELRO), or is about to be.
    strings, symbols, relocations = (value if value > base else value + base for value in (
        tags[_STRINGS], tags[_SYMBOLS], tags[_RELOCATIONS]))
    table = ctypes.string_at(relocations, tags[_RELOCATIONS_SIZE])
    return [base + offset for offset, info, _ in struct.iter_unpack("=QQq", table)
            if ctypes.string_at(strings + struct.unpack("=I", ctypes.string_at(
                symbols + _SYMBOL_SIZE * (info >> 32), 4))[0]) == name]


def _writable(place):
    """Tells whether the page of an address can be written, as the kernel's map of this process says."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            for line in maps:
                span, permissions, *_ = line.split()
                first, end = (int(number, 16) for number in span.split("-"))
                if first <= place < end:
                    return permissions[1] == "w"
    except (OSError, ValueError):
        pass
    return False
