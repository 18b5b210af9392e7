"""Resident memory along a streamed run: python -m tests.data.stream_memory FOLDER AUGMENT STEP [STEP ...].

Takes batches of two of the training stream of an image folder, and prints its memory after each of the steps, a JSON
list in MiB.
"""
import json
import os
import sys

from pipeline.augmentation import augmentations
from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data.load import load
from pipeline.data.stream import BatchLayout, train_stream


def main(folder, augment, *steps):
    """Prints the memory after each of `steps`, ascending."""
    config = DataConfig(dataset=f"folder:{folder}", image_size=8, memory_budget=0, cache_dir=f"{folder}/cache",
                        augment=tuple(augment.split(",")) if augment else ())
    source = load(config, 2, Console(quiet=True))
    batches, found, done = iter(train_stream(source.train, BatchLayout(2), 0, 0, augmentations(config))), [], 0
    for step in map(int, steps):
        for _ in range(step - done):
            next(batches)
        with open("/proc/self/statm") as file:
            found.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
        done = step
    print(json.dumps(found), flush=True)
    os._exit(0)  # Threads of the stream may be in Python.


if __name__ == "__main__":
    main(*sys.argv[1:])
