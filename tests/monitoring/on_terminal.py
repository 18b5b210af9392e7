"""Runs the command on a terminal of its own, as its foreground process.

    python -m tests.monitoring.on_terminal TERMINAL [ARGUMENTS]
"""
import fcntl
import os
import runpy
import sys
import termios

if __name__ == "__main__":
    os.setsid()
    terminal = os.open(sys.argv.pop(1), os.O_RDWR)
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for number in (0, 1, 2):
        os.dup2(terminal, number)
    os.close(terminal)
    runpy.run_module("launch", run_name="__main__", alter_sys=True)
