"""The folders of a data set: one for each class, inside one for each split."""
import dataclasses
import os
import unicodedata
from typing import Any

from pipeline.data.image_index import readable
from pipeline.data.image_search import is_hidden, is_image
from pipeline.data.splits import choose_splits, unused_validation
from pipeline.errors import UsageError


@dataclasses.dataclass(frozen=True)
class ClassFolders:
    """The class folders of a data set.

    Attributes:
      class_names: as text that can be printed and saved.
      folders: {"train", "validation", "test": paths of the folders of the classes in their order}, those that exist.
      notes: lines for the user.
    """

    class_names: tuple[str, ...]
    folders: dict[str, list[str]]
    notes: list[str]


def find_class_folders(path: str, held_out: Any, own_validation: bool) -> ClassFolders:
    """Finds the class folders of a data set's folder, see sources.folder.load_folder.

    Args:
      path: absolute.
      held_out: what is held out for testing where there is no other split, see DataConfig.
      own_validation: see splits.choose_splits.

    Raises:
      UsageError: no such folder, fewer than two classes, classes that differ between splits, no test split.
    """
    folders, notes = _split_folders(path, held_out, own_validation)
    names = _class_folders(folders)
    class_names = tuple(readable(name) for name in names["train"])
    return ClassFolders(class_names, {split: [os.path.join(folders[split], name) for name in names[split]]
                                      for split in names}, [*notes, *_alike(class_names)])


def _split_folders(path, held_out, own_validation):
    """Returns ({"train": folder, "validation": folder, "test": folder}, those that exist; lines for the user)."""
    if not os.path.isdir(path):
        raise UsageError(f"--dataset=folder:{path}: there is no such folder; where it was moved, give its new path")
    names = [name for name in _folders_in(path) if not is_hidden(name)]
    train, found, unused, lines = path, {}, None, []
    own = _training_folder(path, names)
    if own:
        train = os.path.join(path, own)
        found, unused = choose_splits(f"--dataset=folder:{path}", names, own_validation)
        others = [readable(name) for name in names if name not in (own, unused, *found.values())]
        if others:
            lines.append(f"not read, since they are next to '{own}': {', '.join(others[:5])}"
                         f"{', ...' if len(others) > 5 else ''}")
    if not found and not held_out:
        raise UsageError(f"--dataset=folder:{path} has no folder 'test' or 'val' next to 'train': make "
                         f"{path}/train/<class>/ and {path}/test/<class>/, or give --validation_split=0.2 to hold a "
                         "part out for testing")
    folders = {role: os.path.join(path, name) for role, name in found.items()}
    return {"train": train, **folders}, [*unused_validation(unused, unused == found.get("test")), *lines]


def _folders_in(path):
    """Returns the sorted names of the folders in a folder, including links to folders."""
    try:
        return sorted(name for name in os.listdir(path) if os.path.isdir(os.path.join(path, name)))
    except OSError as error:
        raise UsageError(f"cannot read the folder {path}: {(error.strerror or str(error)).lower()}") from error


def _training_folder(path, names):
    """Returns the name of the folder of the training split, or None where the folders are classes.

    A folder `train` next to others that contains images and no folders is a class (of vehicles).
    """
    found = [name for name in names if name.lower() == "train"]
    if len(found) > 1:
        raise UsageError(f"--dataset=folder:{path} has several training splits, {' and '.join(found)}: keep one")
    if not found:
        return None
    inside = os.path.join(path, found[0])
    is_class = not any(not is_hidden(name) for name in _folders_in(inside)) and any(
        is_image(os.path.join(inside, name)) for name in os.listdir(inside) if not is_hidden(name))
    return None if is_class and len(names) > 1 else found[0]


def _class_folders(folders):
    """Returns {split: names of its class folders}, in the same order of classes in every split.

    Names are equal whichever way an accented letter is composed: archives from other systems change that.
    """
    found = {split: [name for name in _folders_in(folder) if not is_hidden(name)] for split, folder in folders.items()}
    train = found["train"]
    if len(train) < 2:
        raise UsageError(f"{folders['train']} has {len(train)} class folders: put the images of each class in "
                         f"a folder of its own, two classes at least, as in {folders['train']}/cat/1.jpg")
    for split, names in found.items():
        exact = set(train) & set(names)
        composed = {unicodedata.normalize("NFC", name): name for name in names if name not in exact}
        same = {name: name if name in exact else composed.pop(unicodedata.normalize("NFC", name), None)
                for name in train}
        odd = sorted([name for name in train if same[name] is None] + list(composed.values()))
        if odd:
            here, there = ("train", split) if odd[0] in train else (split, "train")
            raise UsageError(f"class '{odd[0]}' is in {folders[here]} but not in {folders[there]}: both need the same "
                             f"class folders ({len(odd)} differ)")
        found[split] = [same[name] for name in train]
    return found


def _alike(class_names):
    """Returns lines about classes whose names look the same, or differ only in case."""
    seen, lines = {}, []
    for name in class_names:
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            lines.append(f"classes '{other}' and '{name}' differ only in case or in how their letters are composed: "
                         "they are two classes")
    return lines
