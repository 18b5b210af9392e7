"""What a run says about a disk without room: one line when it begins, one when it is over."""


class FullDisk:
    """Shared by all that write a run's files, so that its user hears of a full disk once and not once a file.

    It is over when a checkpoint is saved, which comes after everything else is written: what the run removes makes a
    little room for a moment, again and again.

    Attributes:
      make_room: function of an errno that gives up what the run can do without; set by whoever has something to give.
    """

    def __init__(self, console):
        """Args: console: where warnings go."""
        self._console, self._warned = console, False
        self.make_room = lambda number: None

    def failed(self, line):
        """Takes note that something could not be written; says the line if all was well until now."""
        if not self._warned:
            self._console.warning(line)
        self._warned = True

    def over(self, line):
        """Takes note that everything is written; says the line if something could not be before."""
        if self._warned:
            self._console.warning(line)
        self._warned = False
