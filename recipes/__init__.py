"""Flag files for runs worth repeating: `--recipe=NAME`; `--flagfile=NAME` finds them too."""
import dataclasses
import os
import re

FOLDER = os.path.dirname(os.path.abspath(__file__))
SUFFIX = ".flags"
FIGURES = ("result", "time", "source")  # What the comments of a recipe give behind the name and a colon.


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a recipe says of itself in the comments at its beginning.

    Attributes:
      name: without the ending of its file.
      summary: what it is for.
      flags: its flags, in order.
      result: what is known to come of it.
      time: how long it takes, and where.
      source: where its settings come from.
    """

    name: str
    summary: str
    flags: tuple[str, ...]
    result: str = ""
    time: str = ""
    source: str = ""

    def value(self, flag: str) -> str | None:
        """Returns the value that it gives to a flag ("model"), None for another flag."""
        found = [text.partition("=")[2] for text in self.flags if text.startswith(f"--{flag}=")]
        return found[-1] if found else None


def names() -> list[str]:
    """Returns the file names of the installed recipes, sorted."""
    return sorted(name for name in os.listdir(FOLDER) if name.endswith(SUFFIX))


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
    return next((path(known) for known in names() if file in (known, known.removesuffix(SUFFIX))), None)


def read(name: str) -> Recipe:
    """Returns what an installed recipe says of itself.

    Its file begins with comments: lines of the summary, then "# result: ...", "# time: ..." and "# source: ...", each
    of which may go on in the next lines.

    Args:
      name: with or without the ending of its file.
    """
    name = name.removesuffix(SUFFIX)
    with open(path(name + SUFFIX), encoding="utf-8") as file:
        lines = file.read().splitlines()
    parts: dict[str, list[str]] = {"summary": []}
    key = "summary"
    for line in lines:
        if not line.startswith("#"):
            break
        text = line.lstrip("# ")
        found = re.match(rf"({'|'.join(FIGURES)}): *", text)
        if found:
            key, text = found[1], text[found.end():]
        parts.setdefault(key, []).append(text)
    return Recipe(name, flags=tuple(line for line in lines if line.startswith("--")),
                  **{key: " ".join(texts) for key, texts in parts.items()})
