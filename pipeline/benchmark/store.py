"""The cells measured so far, one file each, from which a benchmark resumes. Standard library only."""
import contextlib
import os
from collections.abc import Mapping
from typing import Any

from pipeline import extension
from pipeline.benchmark.grid import Cell
from pipeline.config import ExperimentConfig
from pipeline.files import plain, read_cached_json, write_json, write_text

# Options that no cell depends on: paths, output, and what only a training run uses.
INDIFFERENT = ("workdir", "verbosity", "allow", "force", "data_dir", "cache_dir", "profile", "hang_timeout",
               "keep_checkpoints", "checkpoint_every", "evaluate_every")
CEILINGS = "ceilings.json"


class Store:
    """The folder of a benchmark.

    A stored cell counts if it was measured with the same flags and duration, by the same versions on the same machine.

    Attributes:
      folder: where benchmark.json is written too.
      ignored: {condition: number of stored cells that do not count because it differs}.
    """

    def __init__(self, folder: str, context: Mapping[str, Any]):
        """
        Args:
          folder: created at the first write.
          context: the conditions {"measuring", "versions", "machine"} of all cells.
        """
        self.folder, self.context = folder, plain(context)
        self.ignored: dict[str, int] = {}

    def file(self, name: str) -> str:
        """Returns the path of a file in the folder."""
        return os.path.join(self.folder, name)

    def _path(self, cell, ending="json"):
        return self.file(os.path.join("cells", f"{cell.name}.{ending}"))

    def _under(self, config):
        flags = {name: value for name, value in config.flat().items() if name not in INDIFFERENT}
        code = {"extension": extension.digests(config.data.extension)} if config.data.extension else {}
        return {"flags": plain({**flags, **code}), **self.context}

    def load(self, cell: Cell, base: ExperimentConfig) -> dict[str, Any] | None:
        """Returns the figures of a Cell that were measured under the same conditions, or None."""
        stored, under = read_cached_json(self._path(cell)), self._under(cell.config(base))
        if not isinstance(stored, dict) or not isinstance(stored.get("figures"), dict):
            return None
        found = stored.get("under") or {}
        other = next((part for part in under if found.get(part) != under[part]), None)
        if other is None:
            return stored["figures"]
        self.ignored[other] = self.ignored.get(other, 0) + 1
        return None

    def save(self, cell: Cell, base: ExperimentConfig, figures: Mapping[str, Any]) -> None:
        """Stores the figures of a Cell, unless it failed and is to be retried."""
        os.makedirs(self.file("cells"), exist_ok=True)
        failed = figures["status"] == "failed"
        if not failed:
            write_json(self._path(cell), {"under": self._under(cell.config(base)), "figures": figures})
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._path(cell, "json" if failed else "log"))

    def log(self, cell: Cell, text: str) -> str:
        """Stores the output of a failed process; returns the path."""
        os.makedirs(self.file("cells"), exist_ok=True)
        write_text(self._path(cell, "log"), text)
        return self._path(cell, "log")

    def ceilings(self) -> dict[str, Any]:
        """Returns {precision: figures} measured under the same conditions."""
        stored = read_cached_json(self.file(CEILINGS))
        return stored["ceilings"] if isinstance(stored, dict) and stored.get("under") == self.context else {}

    def add_ceilings(self, found: Mapping[str, Any]) -> None:
        """Stores the larger of each ceiling, since disturbances only make a measurement slower."""
        ceilings = self.ceilings()
        for precision, figures in found.items():
            known = ceilings.get(precision)
            if not known or figures["matmul_gflops"] > known["matmul_gflops"]:
                ceilings[precision] = figures
        os.makedirs(self.folder, exist_ok=True)
        write_json(self.file(CEILINGS), {"under": self.context, "ceilings": ceilings})
