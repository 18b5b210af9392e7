"""The terminal of several workers: one line of progress in place, everything else above it."""
import contextlib
import os
import pty

from launch.cluster.display import CLEAR_LINE, LaunchDisplay

STEP = "epoch  0.50/10  step  12/230  loss 0.5000  accuracy  90.00%  1,234 examples/s  0:10 left"


def read_all(descriptor):
    """Returns what was written to the other end of a terminal that is closed there, and closes it here."""
    output = b""
    with contextlib.suppress(OSError):  # EIO: the end.
        while part := os.read(descriptor, 2**16):
            output += part
    os.close(descriptor)
    return output


def test_progress_stays_the_last_line_of_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with open(theirs, "w") as stream:
        display = LaunchDisplay(out=stream, errors=stream)
        display.worker(0, STEP)
        display.worker(1, "a warning")
        display.worker(1, STEP)  # Only the chief's moves.
        display.info("launch  a note")
        display.close()
    output = read_all(ours).decode().replace("\r\n", "\n")
    shown = CLEAR_LINE + STEP[:79]
    assert output == "".join(f"{shown}{CLEAR_LINE}{line}" for line in (
        "[1] a warning\n", f"[1] {STEP}\n", "launch  a note\n", ""))


def test_file_gets_every_line(tmp_path):
    with open(tmp_path / "out", "w") as out, open(tmp_path / "errors", "w") as errors:
        display = LaunchDisplay(out=out, errors=errors)
        display.worker(0, STEP)
        display.worker(0, "mirrorline train: started by the supervisor")
        display.info("a note")
        display.error("an error")
        quiet = LaunchDisplay(quiet=True, out=out, errors=errors)
        quiet.info("unsaid")
        quiet.error("another")
    assert (tmp_path / "out").read_text() == f"[0] {STEP}\na note\n"
    assert (tmp_path / "errors").read_text() == "an error\nanother\n"


def test_closed_output_is_ignored():
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        display = LaunchDisplay(out=stream, errors=stream)
        display.worker(0, "one")
        display.info("two")
