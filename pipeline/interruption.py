"""Ctrl-C, SIGTERM and a lost terminal, where a command does not hear them itself: it ends in words.

A handler of Python runs between two instructions of the main thread, and one call of TensorFlow may last; a thread
hears the signals meanwhile, and ends the process where the main thread does not come to its end. Standard library only.
"""
import contextlib
import os
import signal
import socket
import sys
import threading

from pipeline import activity

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 10.0  # Seconds for the main thread to clear up.
_command = None


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to end.

    Attributes:
      number: of the signal.
    """

    def __init__(self, number):
        super().__init__()
        self.number = number


def command():
    """Returns what the process runs as a command, "mirrorline train"; None where a user's Python runs it."""
    return _command


def hears(number):
    """Tells whether a signal ends the process as an Interrupted: whoever wants to hear it instead may."""
    return getattr(signal.getsignal(number), "interrupts", False)


def words(doing):
    """Returns the line about an interruption; doing: see activity.activity, or None."""
    return f"interrupted while {doing}; nothing was written" if doing else "interrupted"


@contextlib.contextmanager
def heard(name):
    """Lets signals end what is inside as an Interrupted; those that are ignored, as nohup asks for, stay so.

    Args:
      name: of the command, for the words where the process ends from a thread.

    Yields:
      Function that returns the number of the signal that came, None before.
    """
    global _command
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came, raised, (receiver, sender) = [], [], socket.socketpair()
    sender.setblocking(False)

    def end(number, frame):
        if not raised:
            raised.append(number)
            raise Interrupted(number)

    end.interrupts = True

    def listen():
        while number := receiver.recv(1):
            # What the command hears itself is not for us.
            if number[0] not in SIGNALS or signal.getsignal(number[0]) is not end:
                continue
            came.append(number[0])
            if len(came) == 1:
                receiver.settimeout(PATIENCE)
                continue
            give_up()

    def listen_until_closed():
        try:
            listen()
        except TimeoutError:
            give_up()
        except OSError:
            pass  # It was closed.

    def give_up():
        print(f"{name}: {words(activity.running())}", file=sys.stderr, flush=True)
        os._exit(128 + came[0])

    before = {number: signal.signal(number, end) for number in SIGNALS
              if signal.getsignal(number) != signal.SIG_IGN}
    wakeup, outer, _command = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False), _command, name
    threading.Thread(target=listen_until_closed, daemon=True).start()
    try:
        yield lambda: came[0] if came else None
    finally:
        _command = outer
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        sender.close()
