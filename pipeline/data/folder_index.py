"""The index of images in a folder or a table: kept in --cache_dir, and read again only where files have changed."""
import os
import time
from collections.abc import Sequence

import numpy as np

from pipeline.activity import activity
from pipeline.console import Console
from pipeline.data.decode import UnreadableImage
from pipeline.data.file_table import (
    IMAGE,
    NEVER,
    OTHER,
    UNKNOWN,
    UNREADABLE,
    FileTable,
    list_files,
    list_named,
    load_table,
    save_table,
    with_known_facts,
)
from pipeline.data.image_header import read_header
from pipeline.data.image_search import MISSING, NO_FILE, has_image_suffix, is_image
from pipeline.data.parallel import for_each
from pipeline.errors import UsageError

# Seconds in which a file may change again without another time of its last change: by the clock of a kernel, and of a
# file system that counts seconds, or pairs of them.
_TICK, _COARSE_TICK = 0.02, 2.0
_READERS = 8  # Threads that read headers: they wait for the disk most of the time unless it is in memory.


def open_index(root: str, folders: Sequence[str], cache_dir: str | None, console: Console) -> FileTable:
    """Returns the facts about all files in the class folders of a data set; every file is IMAGE, OTHER or UNREADABLE.

    Only files are read that are new or have another size or times than in the index of an earlier start.

    Args:
      root: absolute path of the data set's folder.
      folders: class folders, relative to it.
      cache_dir: folder of the index; None: array_cache.default_cache_dir().
      console: where the progress is reported.

    Raises:
      UsageError: a folder cannot be read, or a class folder has no image.
    """
    return _open(lambda: list_files(root, folders), root, root, cache_dir, console, _check_folders)


def open_files(table: str, root: str, names: Sequence[str], cache_dir: str | None, console: Console) -> FileTable:
    """Returns the facts about the files that a table names, as `open_index`; there is one folder, "".

    Args:
      table: absolute path of the table, by which the index is found again.
      root: absolute path of the folder that the names are relative to.
      names: of the files, ascending.
      cache_dir, console: as of open_index.
    """
    return _open(lambda: list_named(root, names), root, table, cache_dir, console, lambda table, root: None)


def _open(listing, root, key, cache_dir, console, check):
    """Returns the FileTable of `listing()` with facts, those of an earlier start from the index saved under `key`."""
    with activity("looking for images", console):
        table, before = listing(), load_table(key, cache_dir)
        is_kept = before is not None and (table.folders, table.names) == (before.folders, before.names) and not (
            before.facts["change"] == NEVER).any()
        if before is not None:
            table = with_known_facts(table, before)
        check(table, root)
    unknown = np.flatnonzero(table.facts["kind"] == UNKNOWN)
    lost: list[int] = []
    try:
        with activity("looking at images", console, len(unknown)) as doing:
            for field in ("time", "change"):
                wait_for_clock(table.facts[field][unknown])
            for_each(lambda k: _look(table, root, int(unknown[k]), lost), len(unknown), doing.advance,
                     _READERS)
    finally:  # After an interrupt, too: the next start continues from there.
        unread = table.facts["kind"] == UNKNOWN
        if len(unknown) > len(lost) or not is_kept:
            times = table.facts["time"].copy()
            table.facts["time"][unread] = table.facts["time"][lost] = NEVER
            save_table(table, key, cache_dir)
            table.facts["time"] = times
    return table


def _check_folders(table, root):
    """Raises UsageError where a class folder has no image; reads no file where a name or an earlier start shows one."""
    for k, folder in enumerate(table.folders):
        files = range(len(table.facts))[table.files(k)]
        kinds = table.facts["kind"][table.files(k)]
        if ((kinds == IMAGE) | (kinds == UNREADABLE)).any():
            continue
        def names(files=files):
            return (table.name(i) for i in files if table.facts["kind"][i] == UNKNOWN
                    and table.facts["size"][i] != NO_FILE)

        if not (any(map(has_image_suffix, names())) or any(is_image(os.path.join(root, name)) for name in names())):
            raise UsageError(f"class folder {os.path.join(root, folder)} has no images: add some, or remove the "
                             "folder from every split")


def wait_for_clock(times: np.ndarray) -> None:
    """Waits until a file that changes from then on gets another time than it has, of `times`, int64 [n] in ns."""
    if not len(times):
        return
    newest = int(times.max())
    tick = _TICK if newest % 10**9 else _COARSE_TICK
    age = (time.time_ns() - newest) / 1e9
    if 0 <= age < tick:
        time.sleep(tick - age)


def _look(table, root, i, lost):
    """Finds the facts of file i; one that cannot be read at all, which time may cure, is also put into `lost`."""
    facts, name = table.facts[i], table.name(i)
    path = os.path.join(root, name)
    if facts["size"] == NO_FILE or not (has_image_suffix(name) or is_image(path)):
        facts["kind"] = OTHER
        return
    try:
        header = read_header(path)
    except UnreadableImage as error:
        table.reasons[i], facts["kind"] = str(error), UNREADABLE
        if error.lost or facts["size"] == MISSING:
            lost.append(i)
        return
    for field in ("height", "width", "orientation", "decoder", "grey", "interpreted", "digest"):
        facts[field] = getattr(header, field)
    facts["kind"] = IMAGE
