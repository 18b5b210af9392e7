"""Measured rates of a machine's matrix product, kept for later runs as JSON files in the cache folder."""
import contextlib
import hashlib
import json
import math
import os
import tempfile
from typing import Any

import tensorflow as tf

from pipeline.files import read_cached_json
from pipeline.processor import cpu_model


def machine_key(precision: str, kind: str) -> dict[str, Any]:
    """Returns what the rate of "CPU" or "GPU" depends on: {"precision", "processor", "cores", "gpus", "tensorflow"}."""
    gpus = tf.config.get_visible_devices("GPU") if kind == "GPU" else []
    names = sorted({str(tf.config.experimental.get_device_details(gpu).get("device_name")) for gpu in gpus})
    return {"precision": precision, "processor": cpu_model(), "cores": len(os.sched_getaffinity(0)), "gpus": names,
            "tensorflow": tf.__version__}


def rate_path(key: dict[str, Any], folder: str) -> str:
    """Returns the path of the file with the rate of a machine, see `machine_key`, in a cache folder."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return os.path.join(folder, f"matrix-product-{digest[:16]}.json")


def read_rate(key: dict[str, Any], folder: str) -> float | None:
    """Returns the kept rate in 1e9 operations/s, or None where none is kept or readable."""
    try:
        kept = read_cached_json(rate_path(key, folder))
        rate = float(kept["gflops"]) if kept["machine"] == key else math.nan
    except (TypeError, KeyError, ValueError):
        return None
    return rate if math.isfinite(rate) and rate > 0 else None


def write_rate(key: dict[str, Any], folder: str, rate: float) -> None:
    """Keeps a rate, unless the folder cannot be written."""
    path = rate_path(key, folder)
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # Runs that begin at once write a file each; the last one stays.
        with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), suffix=".part", delete=False,
                                         encoding="utf-8") as file:
            json.dump({"machine": key, "gflops": rate}, file)
        os.replace(file.name, path)
