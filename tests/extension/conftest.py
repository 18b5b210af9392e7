"""An extension that a test loads leaves nothing behind."""
import sys

import pytest

from pipeline import choices, extension
from pipeline.callbacks import CALLBACKS


@pytest.fixture(autouse=True)
def nothing_left():
    """Takes away what a test has loaded and registered."""
    registries = (choices.AUGMENTATIONS, choices.DATASETS, choices.LOSSES, choices.METRICS, choices.MODELS,
                  choices.OPTIMIZERS, CALLBACKS)
    tables = (extension._loaded, extension._unusable, sys.modules, *(registry.registered for registry in registries))
    before, path = [dict(table) for table in tables], list(sys.path)
    yield
    for table, values in zip(tables, before, strict=True):
        for name in set(table) - set(values):
            del table[name]
    sys.path[:] = path
