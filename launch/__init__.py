"""The commands."""
import os

from pipeline.version import __version__  # noqa: F401

# Every process of the commands imports this first. A notebook's MPLBACKEND names a module that they may not have.
os.environ["MPLBACKEND"] = "Agg"
os.environ.pop("TF_USE_LEGACY_KERAS", None)  # With it, `tf.keras` would be that of Keras 2.
