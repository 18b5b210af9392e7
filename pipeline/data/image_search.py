"""Finding the image files of a folder. Standard library only."""
import array
import collections
import dataclasses
import os
import stat
from collections.abc import Sequence

from pipeline.errors import UsageError
from pipeline.quantities import counted

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".avif", ".jp2",
            ".ppm", ".pgm", ".pbm", ".pnm")
# Folders and files that operating systems create, in lower case; hidden ones and __MACOSX need no entry.
_LEFT_BEHIND = ("@eadir", "$recycle.bin", "lost+found", "system volume information", "thumbs.db", "desktop.ini")
_FIRST = {"", ".", "_", *(change(name[0]) for name in _LEFT_BEHIND for change in (str.lower, str.upper))}
NO_FILE, MISSING = -2, -1  # In place of the size of a file.
_KIND = stat.S_IFMT(0xFFFF)  # Bits of a mode.
_BEGINNING = 32  # Bytes of a file that identify its format.


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of this name is always ignored: hidden, or created by an operating system."""
    return name[:1] in _FIRST and (name.startswith((".", "__")) or name.lower() in _LEFT_BEHIND)


def is_image(path: str) -> bool:
    """Returns whether a file is an image: by its suffix, or else by its first bytes.

    A broken link is classified by its suffix alone; anything but a regular file, such as a pipe, is no image.
    """
    suffix = os.path.splitext(path)[1].lower()
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        if has_image_suffix(path):
            return True
        with open(path, "rb", buffering=0) as file:
            return _begins_as_image(file.read(_BEGINNING), bool(suffix))
    except OSError:
        return has_image_suffix(path)


def has_image_suffix(name: str) -> bool:
    """Returns whether the name of a file ends as that of an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _begins_as_image(first, has_suffix):
    """Returns whether these are the first bytes of an image format with an unambiguous signature."""
    if first.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")):
        return True
    if first[:4] == b"RIFF" and first[8:12] == b"WEBP" or first[4:12] in (b"ftypavif", b"ftypavis"):
        return True
    if first[:2] == b"BM" and first[6:10] == bytes(4) and first[14:18] in (b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0"):
        return True
    # Raw photographs are TIFF files with other suffixes, of which only a preview could be read.
    return not has_suffix and first.startswith((b"II*\0", b"MM\0*"))


@dataclasses.dataclass
class Listing:
    """Files of a folder and its subfolders, by name.

    Attributes:
      names: paths relative to the folder.
      sizes: in bytes; NO_FILE for a pipe, a socket or a device, MISSING for a broken link.
      times: of their modification, in ns since 1970; 0 where there is none.
      changes: of the change of their content, name, owner or modification time, which no program sets, likewise.
    """

    names: list[str] = dataclasses.field(default_factory=list)
    sizes: "array.array[int]" = dataclasses.field(default_factory=lambda: array.array("q"))
    times: "array.array[int]" = dataclasses.field(default_factory=lambda: array.array("q"))
    changes: "array.array[int]" = dataclasses.field(default_factory=lambda: array.array("q"))


def files_below(folder: str) -> Listing:
    """Finds the files in a folder and its subfolders without reading them; hidden ones are ignored, links followed.

    Raises:
      UsageError: a folder that cannot be read.
    """
    found = Listing()

    def look(below, above):
        path = os.path.join(folder, below) if below else folder
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                here = (status.st_dev, status.st_ino)
                if here in above:  # A link to a folder that contains it.
                    return
                for name in sorted(os.listdir(descriptor)):
                    if is_hidden(name):
                        continue
                    inside, size, time, change = f"{below}/{name}" if below else name, NO_FILE, 0, 0
                    try:
                        status = os.stat(name, dir_fd=descriptor)
                        kind = status.st_mode & _KIND
                        if kind == stat.S_IFDIR:
                            look(inside, {*above, here})
                            continue
                        if kind == stat.S_IFREG:
                            size, time, change = status.st_size, status.st_mtime_ns, status.st_ctime_ns
                    except OSError:
                        size = MISSING
                    found.names.append(inside)
                    found.sizes.append(size)
                    found.times.append(time)
                    found.changes.append(change)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise UsageError(f"cannot read the folder {path}: {(error.strerror or str(error)).lower()}") from error

    look("", set())
    if not any("/" in name for name in found.names):
        return found
    order = sorted(range(len(found.names)), key=found.names.__getitem__)
    return Listing([found.names[i] for i in order], *(array.array("q", [column[i] for i in order])
                                                      for column in (found.sizes, found.times, found.changes)))


def left_out(others: Sequence[str]) -> str | None:
    """Returns the line about ignored files that are no images: how many by suffix, and the first; None without any.

    Args:
      others: paths, as shown to the user.
    """
    if not others:
        return None
    kinds = collections.Counter(os.path.splitext(path)[1].lower() or "without suffix" for path in others)
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(4))
    files = counted(len(others), "file that is no image", "files that are no images")
    return f"left out {files} ({counts}{', ...' if len(kinds) > 4 else ''}), such as {others[0]}"
