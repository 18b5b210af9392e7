"""Layers, models, their table, and how they are shown.

Importing this package registers every layer and model with Keras: keras.saving.load_model needs no custom_objects.
"""
from pipeline.choices import MODELS
from pipeline.models import image_classifier, registry  # noqa: F401

for _entry in MODELS.values():
    _entry.load()
