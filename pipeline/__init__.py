"""The engine of Mirrorline: data, models, training, monitoring, evaluation and export."""
import time

from pipeline import keras_import

BEGAN = time.monotonic()  # Commands import this module first.

keras_import.install()
