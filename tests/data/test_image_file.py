"""Image files as cameras, editors and broken transfers leave them: whole ones are read, and cut ones are not."""
import io
import os
import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from pipeline.data.decode import UnreadableImage, read_image
from pipeline.data.image_header import read_header
from pipeline.data.image_search import is_image

PIXELS = np.kron(np.random.RandomState(0).randint(0, 256, (8, 10, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def encoded(form, **options):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, form, **options)
    return file.getvalue()


def chunk(kind, body, wrong=b""):
    """Returns a chunk of a PNG file, with a right checksum unless another is given."""
    return struct.pack(">I", len(body)) + kind + body + (wrong or struct.pack(">I", zlib.crc32(kind + body)))


def with_chunk(*arguments):
    """Returns a PNG file with a chunk more, behind its header."""
    whole = encoded("PNG")
    return whole[:33] + chunk(*arguments) + whole[33:]


def with_thumbnail():
    """Returns a JPEG file whose EXIF block holds a whole JPEG file."""
    block = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + encoded("JPEG", quality=10)
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(block) + 2) + block + encoded("JPEG")[2:]


def half(content):
    return content[:len(content) - len(encoded("JPEG")) // 2]


VIDEO = np.random.RandomState(1).bytes(300_000).replace(b"\xff\xd9", b"")
BAD_EXIF = b"Exif\0\0II*\0\xff\xff\xff\xff"
WHOLE = {
    "jpeg with a video behind it": encoded("JPEG") + VIDEO, "jpeg filled up with zeros": encoded("JPEG") + bytes(9000),
    "jpeg with a thumbnail": with_thumbnail(), "jpeg with a broken exif": encoded("JPEG", exif=BAD_EXIF),
    "jpeg of several images": encoded("MPO", save_all=True, append_images=[Image.fromarray(PIXELS)]),
    "png with data behind it": encoded("PNG") + VIDEO,
    "png with a text of unknown packing": with_chunk(b"zTXt", b"a\0\x07xx"),
    "png with a text too long": with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3 * 2**20))),
    "png with a text that cannot be unpacked": with_chunk(b"iTXt", b"a\0\1\0\0\0nothing"),
    "png with a wrong checksum of a text": with_chunk(b"tEXt", b"a\0b", b"none"),
    "png with a broken exif": with_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "png with an exif in a text": with_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 10\nzz"),
    "png with a broken time": with_chunk(b"tIME", b""), "png with a broken profile": with_chunk(b"iCCP", b"a\0\0xx"),
    "gif with data behind it": encoded("GIF") + VIDEO, "bmp with data behind it": encoded("BMP") + VIDEO,
    "webp with data behind it": encoded("WEBP", lossless=True) + VIDEO,
    "webp with a broken exif": encoded("WEBP", lossless=True, exif=BAD_EXIF),
    "tiff with data behind it": encoded("TIFF", compression="tiff_lzw") + VIDEO, "avif": encoded("AVIF"),
    "animated webp": encoded("WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(255 - PIXELS)]),
}
BOMB = encoded("PNG")
BOMB = BOMB[:8] + chunk(b"IHDR", struct.pack(">II", 40_000, 40_000) + BOMB[24:29]) + BOMB[33:]
CUT = {"jpeg": half(encoded("JPEG")), "jpeg with a thumbnail": half(with_thumbnail()),
       **{form.lower(): encoded(form)[:-400] for form in ("PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF")},
       "lzw tiff": encoded("TIFF", compression="tiff_lzw")[:-400], "nothing": b"", "text": b"BM is no image",
       "declares 1,600 million pixels": BOMB}


@pytest.mark.parametrize("name", WHOLE)
def test_complete_images_are_read_despite_other_data_in_the_file(tmp_path, name):
    path = tmp_path / "image"
    path.write_bytes(WHOLE[name])
    assert is_image(path) or name.startswith("tiff")
    header = read_header(path)
    assert (header.height, header.width) == PIXELS.shape[:2]
    off = np.abs(read_image(path, 3).astype(int) - PIXELS)
    assert off.mean() < 12 and (off.max() == 0 or name.startswith(("jpeg", "avif", "gif"))), name


def test_a_large_image_with_a_video_behind_it_is_complete_and_half_of_it_is_not(tmp_path):
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (350, 400, 3)).astype(np.uint8))
    noise.save(tmp_path / "a.jpg", quality=97, exif=with_thumbnail()[6:])
    content = (tmp_path / "a.jpg").read_bytes()
    assert len(content) > 130_000
    (tmp_path / "a.jpg").write_bytes(content + VIDEO)
    assert (read_header(tmp_path / "a.jpg").height, read_image(tmp_path / "a.jpg", 3).shape) == (350, (350, 400, 3))
    (tmp_path / "a.jpg").write_bytes(content[:100_000])
    with pytest.raises(UnreadableImage, match="truncated"):
        read_header(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", CUT)
def test_truncated_files_are_found_when_the_data_are_loaded(tmp_path, name):
    path = tmp_path / "image.jpg"
    path.write_bytes(CUT[name])
    for read in (read_header, lambda path: read_image(path, 3)):
        with pytest.raises(UnreadableImage) as error:
            read(path)
        assert "\n" not in str(error.value) and not error.value.lost


def test_reading_never_waits_for_pipes_and_sockets(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    os.symlink("gone.jpg", tmp_path / "dangling.jpg")
    os.symlink("itself.jpg", tmp_path / "itself.jpg")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket.jpg"))
    for name, image in (("pipe", False), ("socket", False), ("dangling", True), ("itself", True)):
        path = tmp_path / f"{name}.jpg"
        assert is_image(path) == image
        with pytest.raises(UnreadableImage):
            read_image(path, 3)
    listening.close()


def test_what_another_program_would_draw_is_no_image(tmp_path, monkeypatch):
    # As where Ghostscript is installed.
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **options: Image.fromarray(PIXELS).im)
    path = tmp_path / "drawing.png"
    for content in (encoded("EPS"), b"\xc5\xd0\xd3\xc6" + bytes(28) + encoded("EPS")):
        path.write_bytes(content)
        for read in (read_header, lambda path: read_image(path, 3)):
            with pytest.raises(UnreadableImage, match="PostScript"):
                read(path)
