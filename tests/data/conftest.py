"""Data sets that the tests make for themselves."""
import pytest

from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data.load import load
from tests.data.numbered import prepare


@pytest.fixture(scope="session")
def numbered_dir(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def load_numbered(numbered_dir, tmp_path):
    """Loads the numbered data set; memory_budget=0 streams it."""
    def load_with(**options):
        config = {"dataset": "numbered", "data_dir": numbered_dir, "cache_dir": str(tmp_path / "cache"), **options}
        return load(DataConfig(**config), options.pop("batch_size", 64), console=Console(quiet=True))
    return load_with
