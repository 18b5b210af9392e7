"""The best checkpoint: a copy in its own folder, out of reach of the removal of old checkpoints."""
import contextlib
import os
import shutil

from pipeline.files import no_room, sync
from pipeline.stored_checkpoint import BEST, MANIFEST, PREFIX, remove, stems, step_of, stored_checkpoints


class BestCheckpoint:
    """`best/` of a run: one checkpoint; the previous one is kept until the new one is complete."""

    def __init__(self, directory: str):
        """Args: directory: `checkpoints/` of the run."""
        self._source, self.directory = directory, os.path.join(directory, BEST)

    def has(self, step: int) -> bool:
        """Tells whether the best checkpoint is that of `step`, undamaged."""
        return any(c.step == step and not c.problem for c in stored_checkpoints(self.directory))

    def keep(self, step: int) -> bool:
        """Copies the checkpoint of `step` to `best/`.

        Returns:
          False if that checkpoint no longer exists.

        Raises:
          OSError: it cannot be written; the previous one is kept.
        """
        stem = f"{PREFIX}-{step}"
        if self.has(step):
            return True
        names = [n for n in os.listdir(self._source) if n.startswith(f"{stem}.") and not n.endswith(".tmp")]
        if stem + MANIFEST not in names:
            return False
        os.makedirs(self.directory, exist_ok=True)
        remove(self.directory, stem)
        try:
            for name in sorted(names, key=lambda n: n.endswith(MANIFEST)):  # The manifest last.
                sync(self.directory)
                _duplicate(os.path.join(self._source, name), os.path.join(self.directory, name))
        except OSError:
            remove(self.directory, stem)
            raise
        sync(self.directory)
        for other in stems(self.directory) - {stem}:
            remove(self.directory, other)
        return True

    def forget_after(self, step: int) -> None:
        """Removes the best checkpoint if it is of a later step."""
        for stem in stems(self.directory):
            if (step_of(stem) or 0) > step:
                remove(self.directory, stem)


def _duplicate(source, target):
    """Copies a file, so that damage to one does not damage both; links it if the disk is too full for a copy."""
    temporary = f"{target}.tmp"
    try:
        shutil.copyfile(source, temporary)
        sync(temporary)
        os.replace(temporary, target)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        if not no_room(error):
            raise
        try:
            os.link(source, target)
        except OSError:  # A file system without links.
            raise error from None
