"""An extension that a test loads leaves nothing behind."""
import sys

import pytest

from pipeline import extension


@pytest.fixture(autouse=True)
def nothing_left():
    """Takes away what a test has loaded and registered."""
    from pipeline.data import registry as data
    from pipeline.models import registry as models
    tables = (extension._loaded, extension._unusable, models.REGISTERED, data.REGISTERED, sys.modules)
    before, path = [dict(table) for table in tables], list(sys.path)
    yield
    for table, values in zip(tables, before, strict=True):
        for name in set(table) - set(values):
            del table[name]
    sys.path[:] = path
