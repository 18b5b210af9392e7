"""The tests run in the same environment everywhere."""
import os

import pytest

from tests.commands import environment
from tests.surroundings import clean

AROUND = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "KERAS_BACKEND": "torch", "TF_CONFIG": "{}",
          "TF_USE_LEGACY_KERAS": "1", "SLURM_STEP_ID": "0", "RAY_ADDRESS": "auto", "JOB_COMPLETION_INDEX": "1",
          "COLUMNS": "40", "LC_ALL": "C", "PYTHONWARNINGS": "error", "NO_COLOR": "1", "XDG_CACHE_HOME": "/nowhere"}


@pytest.mark.parametrize("name", AROUND)
def test_environment_of_the_user_is_removed(name):
    assert name not in clean({name: AROUND[name]}) and environment().get(name) != AROUND[name]


def test_home_terminal_and_language_are_fixed():
    found = clean({"LANG": "C", "TERM": "xterm-256color", "USER": "me", "PATH": "/bin"})
    assert (found["LANG"], found["TERM"], found["PATH"]) == ("C.UTF-8", "dumb", "/bin") and found["USER"] != "me"
    assert not os.path.exists(os.path.join(os.environ["HOME"], "tensorflow_datasets"))


@pytest.mark.parametrize("name", ["TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS"])
def test_choice_of_kernels_and_threads_is_kept(name):
    assert clean({name: "1"})[name] == "1"
