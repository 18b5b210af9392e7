"""The files of a data set's folder and facts about each, in arrays that are kept between starts."""
import dataclasses
import functools
import json
import os
import stat
from collections.abc import Sequence

import numpy as np
import PIL

from pipeline.data import array_cache
from pipeline.data.image_search import MISSING, NO_FILE, files_below

UNKNOWN, IMAGE, OTHER, UNREADABLE = range(4)  # Kinds of files; OTHER: no image.
NEVER = np.iinfo(np.int64).min  # In place of the time of a file that has to be read at every start.
FACTS = np.dtype([("size", np.int64), ("time", np.int64), ("change", np.int64), ("height", np.int32),
                  ("width", np.int32), ("kind", np.uint8), ("orientation", np.uint8), ("decoder", np.uint8),
                  ("grey", np.bool_), ("interpreted", np.bool_), ("digest", "V16")])
# Of the saved form, and of what the facts mean; and of that without the times of changes, which are then NEVER.
_VERSION, _WITHOUT_CHANGES = 3, 2


@dataclasses.dataclass(frozen=True, eq=False)
class FileTable:
    """Files of a data set, by class folder and name.

    Attributes:
      folders: the class folders, relative to the data set's folder.
      first: int64 [F + 1], number of the first file of each, and of all files.
      names: of the files relative to the data set's folder, in the encoding of the file system, each with a NUL behind.
      bounds: int64 [F + 1], where the names of each folder begin, and the end of `names`.
      facts: FACTS [N]: size in bytes, times of modification and change in ns (see image_search.Listing), kind, and for
        an IMAGE what image_header.ImageHeader describes.
      reasons: {number of an UNREADABLE file: why}.
    """

    folders: tuple[str, ...]
    first: np.ndarray
    names: bytes
    bounds: np.ndarray
    facts: np.ndarray
    reasons: dict[int, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """(start, length) of each file's name in `names`, int64 and int32 [N]."""
        ends = np.flatnonzero(np.frombuffer(self.names, np.uint8) == 0)
        start = np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1])
        return start, (ends - start).astype(np.int32)

    def name(self, i: int) -> str:
        """Returns the path of file i relative to the data set's folder."""
        start, length = self.places
        return os.fsdecode(self.names[start[i]:start[i] + length[i]])

    def files(self, folder: int) -> slice:
        """Returns the files of a folder by its number."""
        return slice(int(self.first[folder]), int(self.first[folder + 1]))

    def packed(self, folder: int) -> bytes:
        """Returns the names of the files of a folder by its number, as in `names`."""
        return self.names[self.bounds[folder]:self.bounds[folder + 1]]


def list_files(root: str, folders: Sequence[str]) -> FileTable:
    """Returns the table of all files in folders, whose kinds are UNKNOWN: no file is read.

    Args:
      root: the data set's folder.
      folders: relative to it.

    Raises:
      UsageError: a folder that cannot be read.
    """
    pieces, sizes, times, changes = [], [], [], []
    for folder in folders:
        found = files_below(os.path.join(root, folder))
        pieces.append(os.fsencode(f"{folder}/" + f"\0{folder}/".join(found.names) + "\0") if found.names else b"")
        sizes.append(np.array(found.sizes, np.int64))
        times.append(np.array(found.times, np.int64))
        changes.append(np.array(found.changes, np.int64))
    first = np.cumsum([0, *map(len, sizes)])
    facts = np.zeros(first[-1], FACTS)
    facts["size"], facts["time"], facts["change"] = map(np.concatenate, (sizes, times, changes))
    return FileTable(tuple(folders), first, b"".join(pieces), np.cumsum([0, *map(len, pieces)]), facts)


def list_named(root: str, names: Sequence[str]) -> FileTable:
    """Returns the table of files that are known by name, in the one folder ""; no file is read.

    Args:
      root: the folder that the names are relative to.
      names: ascending.
    """
    facts = np.zeros(len(names), FACTS)
    for i, name in enumerate(names):
        try:
            status = os.stat(os.path.join(root, name))
        except OSError:
            facts["size"][i] = MISSING
            continue
        is_file = stat.S_ISREG(status.st_mode)
        facts[i]["size"], facts[i]["time"], facts[i]["change"] = (
            status.st_size if is_file else NO_FILE, status.st_mtime_ns, status.st_ctime_ns)
    packed = b"".join(os.fsencode(name) + b"\0" for name in names)
    return FileTable(("",), np.array([0, len(names)]), packed, np.array([0, len(packed)]), facts)


def with_known_facts(table: FileTable, before: FileTable) -> FileTable:
    """Returns a table with what was saved of the files that have the same name, size and times."""
    rows = _rows(table, before)
    same, changes = rows >= 0, table.facts["change"].copy()
    for field in ("size", "time", "change"):
        known = before.facts[field][rows[same]]
        same[same] = (table.facts[field][same] == known) | ((field == "change") & (known == NEVER))
    facts = table.facts
    if same.all() and len(rows) == len(before.facts) and (np.diff(rows) == 1).all():
        facts = before.facts
    else:
        facts[same] = before.facts[rows[same]]
    facts["change"] = changes
    remembered = np.flatnonzero(same & (facts["kind"] == UNREADABLE))
    return dataclasses.replace(table, facts=facts, reasons={int(i): before.reasons[int(rows[i])] for i in remembered})


def _rows(table, before):
    """Returns int64 [N], the number of each file in an earlier table, -1 for a new one."""
    rows, folders = np.full(len(table.facts), -1), {name: k for k, name in enumerate(before.folders)}
    for k, folder in enumerate(table.folders):
        if folder not in folders:
            continue
        files, known, packed = table.files(k), before.files(folders[folder]), before.packed(folders[folder])
        if table.packed(k) == packed:
            rows[files] = np.arange(known.start, known.stop)
        else:
            numbers = dict(zip(packed.split(b"\0")[:-1], range(known.start, known.stop), strict=True))
            rows[files] = [numbers.get(name, -1) for name in table.packed(k).split(b"\0")[:-1]]
    return rows


def load_table(key: str, cache_dir: str | None) -> FileTable | None:
    """Returns the table that `save_table` saved under a key, the path of a data set, None without a usable one.

    Files that were unreadable for another version of Pillow are UNKNOWN again.
    """
    found = array_cache.load_arrays(_key(key), cache_dir)
    if found is None:
        return None
    try:
        about = json.loads(found["about"].tobytes())
        facts = found["facts"]
        if about["version"] == _WITHOUT_CHANGES:
            facts = np.zeros(len(facts), FACTS)
            for field in found["facts"].dtype.names or ():
                facts[field] = found["facts"][field]
            facts["change"] = NEVER
        elif about["version"] != _VERSION:
            return None
        table = FileTable(tuple(about["folders"]), found["first"], found["names"].tobytes(), found["bounds"],
                          facts, {int(i): reason for i, reason in about["reasons"].items()})
        if facts.dtype != FACTS or len(facts) != table.first[-1]:
            return None
        if about["pillow"] != PIL.__version__:
            table.facts["time"][table.facts["kind"] == UNREADABLE] = NEVER
        return table
    except (TypeError, KeyError, ValueError, IndexError):  # Something else is saved.
        return None


def save_table(table: FileTable, key: str, cache_dir: str | None) -> None:
    """Saves a table, unless the folder of indexes cannot be written."""
    about = {"version": _VERSION, "pillow": PIL.__version__, "folders": table.folders, "reasons": table.reasons}
    array_cache.save_arrays(_key(key), {
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8), "names": np.frombuffer(table.names, np.uint8),
        "first": table.first, "bounds": table.bounds, "facts": table.facts}, cache_dir)


def _key(path):
    return "images", path
