"""What opening a large data set costs: python -m benchmarks.opening --place=FOLDER [--files=1281167].

Makes a folder of photographs, hard links to a few thousand different ones, and a data set of TFRecord files. Opens each
in a process of its own: first, again with the index of the first time, and a tiny one of the same kind, whose memory is
that of Python and TensorFlow. A quarter of a percent of the training split is held out. Prints a table; the data stay
in FOLDER for the next time.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np

from benchmarks.photographs import photograph
from benchmarks.processes import REPOSITORY

HEIGHT, WIDTH, SIZE = 375, 500, 224
SHARDS = 1024
# Runs in a process of its own, in the repository that is measured, which may be an older one.
OPEN = """
import json, sys, time
began = time.monotonic()
import tensorflow as tf
from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data.load import load
from pipeline.data.stream import BatchLayout, train_stream
dataset, data_dir, cache_dir = sys.argv[1:4]

def memory():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) / 1024

found = {"imports": time.monotonic() - began}
began, cpu = time.monotonic(), time.process_time()
config = DataConfig(dataset=dataset, data_dir=data_dir or None, cache_dir=cache_dir, image_size=SIZE, memory_budget=0,
                    validation_split=0.0025)
source = load(config, 256, Console(quiet=True))
found |= {"seconds": time.monotonic() - began, "cpu": time.process_time() - cpu, "memory": memory(),
          "examples": source.train.num_examples, "fingerprint": source.fingerprint[:12]}
began = time.monotonic()
stream = train_stream(source.train, BatchLayout(16, 2, workers=2, worker=1), 0, 1000)
labels = next(iter(stream))["label"]
found |= {"first batch": time.monotonic() - began, "memory with a batch": memory(), "labels": labels.numpy().tolist()}
print(json.dumps(found))
"""


def make_photographs(folder: pathlib.Path, files: int, classes: int, distinct: int) -> None:
    """Makes `folder`, with `files` hard links to `distinct` photographs in `classes` folders; keeps one that exists."""
    if folder.exists():
        return
    originals, draw = folder.parent / f"originals-{distinct}", np.random.default_rng(0)
    originals.mkdir(parents=True, exist_ok=True)
    for i in range(len(os.listdir(originals)), distinct):
        (originals / f"{i}.jpg").write_bytes(photograph(draw, HEIGHT, WIDTH, noise=20, quality=75))
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for label in range(classes):
        inside = unfinished / f"n{label:08}"
        inside.mkdir(parents=True)
        for number in range(label, files, classes):
            os.link(originals / f"{number % distinct}.jpg", inside / f"n{label:08}_{number}.JPEG")
    unfinished.rename(folder)


def make_records(folder: pathlib.Path, records: int, shards: int) -> None:
    """Makes a data set of TensorFlow Datasets, `numbered`, in `folder`; keeps one that exists."""
    if folder.exists():
        return
    # Imported here: only this process of all needs them.
    import tensorflow as tf
    import tensorflow_datasets as tfds
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(8, 8, 3)),
                                           "label": tfds.features.ClassLabel(num_classes=1000)})
    draw = np.random.default_rng(0)
    images = [tf.io.encode_png(draw.integers(0, 256, (8, 8, 3), np.uint8)).numpy() for _ in range(100)]
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    inside = unfinished / "numbered" / "1.0.0"
    inside.mkdir(parents=True)
    labels = min(1000, records // 50)
    lengths = [len(range(shard, records, shards)) for shard in range(shards)]
    for shard in range(shards):
        with tf.io.TFRecordWriter(str(inside / f"numbered-train.tfrecord-{shard:05}-of-{shards:05}")) as writer:
            for number in range(shard, records, shards):
                feature = {"image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[images[number % 100]])),
                           "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % labels]))}
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    split = tfds.core.SplitInfo(name="train", shard_lengths=lengths, num_bytes=0, filename_template=None)
    info = tfds.folder_dataset.write_metadata(data_dir=str(inside), features=features, split_infos=[split],
                                              check_data=False)
    del info
    unfinished.rename(folder)


def opened(repository: pathlib.Path, dataset: str, data_dir: str, cache_dir: pathlib.Path) -> dict:
    """Opens a data set in a new process; returns its figures."""
    done = subprocess.run([sys.executable, "-c", OPEN.replace("SIZE", str(SIZE)), dataset, data_dir, str(cache_dir)],
                          cwd=repository, check=True, stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": str(repository), "TF_CPP_MIN_LOG_LEVEL": "3"})
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", required=True, type=pathlib.Path)
    parser.add_argument("--files", type=int, default=1_281_167)
    parser.add_argument("--records", type=int, default=1_280_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--distinct", type=int, default=4000)
    parser.add_argument("--repository", type=pathlib.Path, default=REPOSITORY)
    given = parser.parse_args()
    place, cache = given.place.resolve(), given.place.resolve() / "cache"
    cases = []
    if given.files:
        make_photographs(place / "tiny", 1000, 2, given.distinct)
        make_photographs(place / f"photographs-{given.files}", given.files, given.classes, given.distinct)
        cases.append((f"folder:{place / f'photographs-{given.files}'}", "", f"folder:{place / 'tiny'}", ""))
    if given.records:
        make_records(place / "tiny-records", 1000, 2)
        make_records(place / f"records-{given.records}", given.records, SHARDS)
        cases.append(("numbered", str(place / f"records-{given.records}"), "numbered", str(place / "tiny-records")))
    for dataset, data_dir, tiny, tiny_dir in cases:
        shutil.rmtree(cache, ignore_errors=True)
        least = opened(given.repository, tiny, tiny_dir, cache)
        print(f"{dataset} {data_dir}\n{'':8}{'seconds':>10}{'CPU':>10}{'memory':>10}{'batch':>10}{'memory':>10}")
        for name in ("first", "again", "again"):
            found = opened(given.repository, dataset, data_dir, cache)
            print(f"{name:8}{found['seconds']:8.1f} s{found['cpu']:8.1f} s{found['memory'] - least['memory']:6.0f} MiB"
                  f"{found['first batch']:8.1f} s{found['memory with a batch'] - least['memory with a batch']:6.0f} MiB"
                  f"   {found['examples']:,} examples, {found['fingerprint']}", flush=True)
        size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) if cache.exists() else 0
        print(f"cache {size / 2**20:.0f} MiB; imports {found['imports']:.1f} s; memory of the tiny one "
              f"{least['memory']:.0f} MiB")


if __name__ == "__main__":
    main()
