"""The engine of Mirrorline: data, models, training, monitoring and evaluation behind one configuration."""
import time

from pipeline import keras_import

BEGAN = time.monotonic()  # The commands import this first.

keras_import.install()
