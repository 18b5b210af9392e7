"""Fingerprints of the images of a folder: of this version, and of earlier ones for their runs."""
import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipeline.activity import activity
from pipeline.console import Console
from pipeline.data.decode import UnreadableImage
from pipeline.data.file_table import FileTable
from pipeline.data.image_header import earlier_digest
from pipeline.data.parallel import for_each
from pipeline.errors import UsageError

# How decode.read_image treats transparency and floats: part of the fingerprint of data sets that have such images.
INTERPRETATION = "floats up to 1 are levels; one colour is laid over a ground"
_FORM = "names, sizes, digests of parts of 16 KiB"


def fingerprint_parts(table: FileTable, splits: Mapping[str, np.ndarray]) -> list[Any]:
    """Returns what a fingerprint consists of besides the classes and the shape.

    Args:
      table: of the files.
      splits: {name: int64 [n], the files of the split in order}.
    """
    parts: list[Any] = [_FORM]
    for name, files in splits.items():
        sizes, digests = table.facts["size"][files], table.facts["digest"][files]
        parts += [name, _names(table, files), sizes, digests.view(np.uint8)]
        parts += [INTERPRETATION] if table.facts["interpreted"][files].any() else []
    return parts


def _names(table, files):
    """Returns the names of files, each with a NUL behind, as uint8 [.]."""
    start, length = table.places
    if len(files) and files[-1] - files[0] + 1 == len(files):
        return np.frombuffer(table.names, np.uint8)[start[files[0]]:start[files[-1]] + length[files[-1]] + 1]
    return np.frombuffer(b"".join(table.names[start[i]:start[i] + length[i] + 1] for i in files), np.uint8)


def earlier_fingerprint_parts(root: str, table: FileTable, splits: Mapping[str, np.ndarray], console: Console
                              ) -> Callable[[], list[Any]]:
    """Returns a function that returns what `fingerprint_parts` did before, and reads 128 KiB of every file.

    It reports its progress, and raises UsageError where a file cannot be read any more.
    """
    known = {name: (files, table.facts["size"][files], bool(table.facts["interpreted"][files].any()))
             for name, files in splits.items()}
    names = dataclasses.replace(table, facts=table.facts[:0])  # Facts are not kept for this.

    def parts():
        made = []
        for split, (files, sizes, is_interpreted) in known.items():
            found = [None] * len(files)

            def describe(k, files=files, sizes=sizes, found=found):
                name = names.name(files[k])
                try:
                    found[k] = name, int(sizes[k]), earlier_digest(os.path.join(root, name))
                except (OSError, UnreadableImage) as error:
                    raise UsageError(f"cannot read {os.path.join(root, name)}: {error}") from error

            with activity("reading images for the fingerprint of an earlier version", console, len(files)) as doing:
                for_each(describe, len(files), doing.advance)
            made += [split, found, *([INTERPRETATION] if is_interpreted else [])]
        return made

    return parts
