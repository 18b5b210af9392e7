"""Layers, models, the table of their names, and how they are shown.

Whoever imports it has told Keras of every layer and model: keras.saving.load_model then needs no custom_objects.
"""
from pipeline.choices import MODELS
from pipeline.models import image_classifier, registry  # noqa: F401

for _entry in MODELS.values():
    _entry.load()
