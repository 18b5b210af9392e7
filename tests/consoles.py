"""A console whose lines a test looks at."""
from pipeline.console import Console


class RecordingConsole(Console):
    """Adds every line to a list instead of writing it."""

    live = False

    def __init__(self, lines):
        super().__init__()
        self.info = self.warning = self.error = lines.append
