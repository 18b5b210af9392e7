"""The names that --dataset takes: NAME, or KIND:ARGUMENT. Standard library only."""
import os

from pipeline.choices import DATASETS


def split(dataset: str) -> tuple[str, str]:
    """Returns (kind, argument) of the name of a data set; the argument is "" where it has none."""
    kind, _, argument = dataset.partition(":")
    return kind, argument


def has_path(dataset: str) -> bool:
    """Returns whether the argument is the path of a file or folder.

    A kind that an extension adds is known only once that is loaded: until then an absolute path tells.
    """
    kind, argument = split(dataset)
    if kind in DATASETS:
        return DATASETS[kind].row.argument == "PATH" and ":" in dataset
    return argument.startswith(os.sep)


def located(dataset: str, extended: bool = False) -> str:
    """Returns the name of a data set with an absolute path, so that it is found from anywhere.

    Args:
      dataset: value of --dataset.
      extended: whether extensions may add kinds that are not known yet: an argument that exists is then a path.
    """
    kind, argument = split(dataset)
    added = extended and kind not in DATASETS and argument and os.path.exists(argument)
    return f"{kind}:{os.path.abspath(argument)}" if added or has_path(dataset) else dataset


def may_be_same(one: str, another: str) -> bool:
    """Returns whether two data sets, or models, may be the same: files and folders move, and their content decides."""
    return one == another or (split(one)[0] == split(another)[0] and (has_path(one) or has_path(another)))


def without_path(dataset: str) -> str:
    """Returns the name of a data set without the folders of the machine it was on: folder:photos."""
    kind, argument = split(dataset)
    return f"{kind}:{os.path.basename(os.path.normpath(argument)) or kind}" if has_path(dataset) else dataset
