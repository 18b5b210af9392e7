"""Serves a stream as benchmarks.torch_input does, of batches that are their sizes: python -m ... ORDER."""
import json
import pathlib
import sys

from benchmarks.pulling import serve

if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    given = pathlib.Path(order["folder"], "train") if "folder" in order else pathlib.Path(order["arrays"], "images.npy")
    if not given.exists():
        sys.exit(f"{given} is missing")
    serve(lambda: order["batch_size"])
