"""What a sweep has measured already, one file a cell: so that it goes on where it stopped. Standard library only."""
import contextlib
import os

from pipeline import extension
from pipeline.files import plain, read_cached_json, write_json, write_text

# Where files lie, what is said, and what only a training run looks at: no cell depends on it.
INDIFFERENT = ("workdir", "verbosity", "allow", "force", "data_dir", "cache_dir", "profile", "hang_timeout",
               "keep_checkpoints", "checkpoint_every", "evaluate_every")
CEILINGS = "ceilings.json"


class Store:
    """The folder of a sweep.

    A cell counts where it was measured with the same flags, for as long, by the same versions on the same machine.

    Attributes:
      folder: where benchmark.json is written too.
      strangers: {part of what it was measured under: number of cells of this sweep that differ in it}.
    """

    def __init__(self, folder, context):
        """
        Args:
          folder: is made when something is written.
          context: {"measuring", "versions", "machine"}: under what everything here is measured.
        """
        self.folder, self.context, self.strangers = folder, plain(context), {}

    def file(self, name):
        """Returns the path of a file in the folder."""
        return os.path.join(self.folder, name)

    def _path(self, cell, ending="json"):
        return self.file(os.path.join("cells", f"{cell.name}.{ending}"))

    def _under(self, config):
        flags = {name: value for name, value in config.flat().items() if name not in INDIFFERENT}
        code = {"extension": extension.digests(config.data.extension)} if config.data.extension else {}
        return {"flags": plain({**flags, **code}), **self.context}

    def load(self, cell, base):
        """Returns the figures of a Cell that were measured under the same conditions, or None."""
        stored, under = read_cached_json(self._path(cell)), self._under(cell.config(base))
        if not isinstance(stored, dict) or not isinstance(stored.get("figures"), dict):
            return None
        found = stored.get("under") or {}
        other = next((part for part in under if found.get(part) != under[part]), None)
        if other is None:
            return stored["figures"]
        self.strangers[other] = self.strangers.get(other, 0) + 1
        return None

    def save(self, cell, base, figures):
        """Keeps the figures of a Cell; a failure is not kept, so that it is tried again."""
        os.makedirs(self.file("cells"), exist_ok=True)
        failed = figures["status"] == "failed"
        if not failed:
            write_json(self._path(cell), {"under": self._under(cell.config(base)), "figures": figures})
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._path(cell, "json" if failed else "log"))

    def log(self, cell, text):
        """Keeps what a process that failed has said; returns where."""
        os.makedirs(self.file("cells"), exist_ok=True)
        write_text(self._path(cell, "log"), text)
        return self._path(cell, "log")

    def ceilings(self):
        """Returns {precision: figures} measured under the same conditions."""
        stored = read_cached_json(self.file(CEILINGS))
        return stored["ceilings"] if isinstance(stored, dict) and stored.get("under") == self.context else {}

    def add_ceilings(self, found):
        """Keeps the larger of each ceiling: what disturbs a measurement only ever makes it slower."""
        ceilings = self.ceilings()
        for precision, figures in found.items():
            known = ceilings.get(precision)
            if not known or figures["matmul_gflops"] > known["matmul_gflops"]:
                ceilings[precision] = figures
        os.makedirs(self.folder, exist_ok=True)
        write_json(self.file(CEILINGS), {"under": self.context, "ceilings": ceilings})
