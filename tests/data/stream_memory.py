"""Resident memory along a stream, in MiB, as a JSON list.

    python -m tests.data.stream_memory FOLDER AUGMENT STEP STEP     after these batches of two from an image folder
    python -m tests.data.stream_memory PAUSES                       after each pause, batches from memory in between
"""
import json
import os
import sys
import time

import numpy as np

from pipeline.augmentation import augmentations
from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data.load import load
from pipeline.data.memory import InMemory
from pipeline.data.source import Split
from pipeline.data.stream import BatchLayout, train_stream

PAUSE = 0.3  # Seconds, in which more batches can be made than a stream may keep.


def memory():
    """Returns the resident memory of this process in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def along_files(folder, augment, *steps):
    """Returns the memory after each of the steps, ascending, of a training stream of an image folder."""
    config = DataConfig(dataset=f"folder:{folder}", image_size=8, memory_budget=0, cache_dir=f"{folder}/cache",
                        augment=tuple(augment.split(",")) if augment else ())
    source = load(config, 2, Console(quiet=True))
    batches = iter(train_stream(source.train, BatchLayout(2), 0, 0, augmentations(config)))
    found, done = [], 0
    for step in map(int, steps):
        for _ in range(step - done):
            next(batches)
        found.append(memory())
        done = step
    return found


def after_pauses(pauses):
    """Returns the memory after each pause of a stream of images in memory; a batch has 0.84 MiB."""
    split = Split("train", 100, InMemory(np.zeros([100, 96, 96, 3], np.uint8), np.zeros(100, np.int32)))
    batches, found = iter(train_stream(split, BatchLayout(32), 0, 0)), []
    for _ in range(int(pauses)):
        for _ in range(200):
            next(batches)
        time.sleep(PAUSE)
        found.append(memory())
    return found


if __name__ == "__main__":
    print(json.dumps((along_files if sys.argv[2:] else after_pauses)(*sys.argv[1:])), flush=True)
    os._exit(0)  # Threads of a stream may be in Python.
