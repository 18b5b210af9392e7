"""The header of a JPEG file, from its markers alone, faster than an image library. Standard library only.

ITU-T T.81, annex B, describes the markers; Exif 2.32, section 4.6.4, the orientation.
"""
import dataclasses
import struct
from collections.abc import Callable

BEGINNING, END = b"\xff\xd8\xff", b"\xff\xd9"
_PIECE = 16_384  # Bytes read at once: the header of most photographs without a preview.
_FRAMES = (0xC0, 0xC1, 0xC2)  # Baseline, extended and progressive, each with Huffman coding.
_SCAN, _APP1, _ADOBE = 0xDA, 0xE1, 0xEE
_KNOWN = {*_FRAMES, 0xC4, _SCAN, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE}  # Also tables, APP0 to APP15, comments.
_EXIF, _XMP, _IN_XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"tiff:Orientation"
_ORIENTATION, _SHORT = 0x0112, 3
_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4)  # Bytes of a value of each type of EXIF.
_RGB = b"RGB"  # Identifiers of the components of a file that holds red, green and blue.


@dataclasses.dataclass(frozen=True)
class JpegHeader:
    """What the markers of a JPEG file declare.

    Attributes:
      height, width: in pixels as coded, before the orientation is applied.
      components: 1 (grey) or 3 (YCbCr).
      orientation: EXIF orientation, 1 to 8; None where only an image library can tell.
    """

    height: int
    width: int
    components: int
    orientation: int | None


def parse(read: Callable[[int, int], bytes]) -> JpegHeader | None:
    """Returns the header of a JPEG file of 8 bits, Huffman-coded, in grey or YCbCr; None for all other files.

    Also None for a file that decoders may treat each in its own way, such as one with data between its markers.

    Args:
      read: of (offset, count), returns bytes of the file, fewer than count at its end.
    """
    piece, begin, place = read(0, _PIECE), 0, 2
    if not piece.startswith(BEGINNING):
        return None
    exif: list[bytes] = []
    frame, adobe, xmp = b"", b"", False
    while True:
        if place + 4 > begin + len(piece):
            piece, begin = read(place, _PIECE), place
        marker = piece[place - begin:place - begin + 4]
        if len(marker) < 4 or marker[0] != 0xFF or marker[1] not in _KNOWN:
            return None
        kind, length = marker[1], (marker[2] << 8) + marker[3]
        if kind == _SCAN:
            return _described(frame, adobe, exif, xmp)
        if kind in _FRAMES or kind in (_APP1, _ADOBE):
            body = piece[place - begin + 4:place - begin + 2 + length]
            body = body if len(body) >= length - 2 else read(place + 4, length - 2)
            if kind in _FRAMES:
                if frame:
                    return None
                frame = body
            elif kind == _ADOBE:
                adobe = body if body.startswith(b"Adobe") else adobe
            elif body.startswith(_EXIF):
                exif.append(body[len(_EXIF):])
            else:
                xmp = xmp or body.startswith(_XMP) and _IN_XMP in body
        place += 2 + max(length, 2)


def _described(frame, adobe, exif, xmp):
    """Returns the JpegHeader by the bodies of the markers, or None."""
    if len(frame) < 6:
        return None
    bits, height, width, components = struct.unpack_from(">BHHB", frame)
    if bits != 8 or not height or not width or components not in (1, 3) or len(frame) != 6 + 3 * components:
        return None
    if components == 3 and (frame[6::3] == _RGB or adobe and adobe[11:12] != b"\1"):
        return None
    orientation = _orientation(exif[0]) if len(exif) == 1 else None if exif else 0
    if orientation == 0:
        orientation = None if xmp else 1
    return JpegHeader(height, width, components, orientation)


def _orientation(block):
    """Returns the orientation of an EXIF block, 0 if it has none, 1 for an invalid one; None if the block is unusual.

    Args:
      block: bytes from its TIFF header on.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return None
    table, = struct.unpack_from(order + "I", block, 4)
    count = struct.unpack_from(order + "H", block, table)[0] if table + 2 <= len(block) else len(block)
    if table + 2 + 12 * count > len(block):
        return None
    total = 0
    for tag, kind, values, value in struct.iter_unpack(order + "HHII", block[table + 2:table + 2 + 12 * count]):
        if tag == _ORIENTATION:
            number = value & 0xFFFF if order == "<" else value >> 16
            return None if (kind, values) != (_SHORT, 1) else number if 1 <= number <= 8 else 1
        size = values * _SIZES[kind] if kind < len(_SIZES) else 0
        total += size
        # A library stops at a value outside the block, and may not reach the orientation.
        if size > 4 and value + size > len(block) or total > len(block):
            return None
    return 0
