"""Python reads this first where the folder is on PYTHONPATH: takes cures out of the processes that compute."""
import os
import sys

if "pipeline.verification.part_process" in sys.orig_argv or "train" in sys.orig_argv:
    from tests.cures import PROVED, take_out
    for name in os.environ["WITHOUT_CURES"].split(os.pathsep):
        take_out(PROVED[name].without)
