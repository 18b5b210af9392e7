"""The commands."""

from pipeline.version import __version__  # noqa: F401
