"""Flag files for runs worth repeating; `--flagfile=NAME` finds them wherever the package is installed."""
import os

FOLDER = os.path.dirname(os.path.abspath(__file__))


def names() -> list[str]:
    """Returns the file names of the installed recipes, sorted."""
    return sorted(name for name in os.listdir(FOLDER) if name.endswith(".flags"))


def path(name: str) -> str:
    """Returns the path of an installed recipe by its file name."""
    return os.path.join(FOLDER, name)


def find(name: str) -> str | None:
    """Returns the path of a flag file: a file of that name as seen from here, else the recipe called so, else None.

    Args:
      name: str, such as `my.flags`, `recipes/digits.flags`, `digits.flags` or `digits`.
    """
    if os.path.exists(name):
        return name
    folder, file = os.path.split(name)
    if folder not in ("", "recipes"):
        return None
    return next((path(known) for known in names() if file in (known, known.removesuffix(".flags"))), None)
