"""The commands, and the runtime they start."""

__version__ = "0.1.0"
