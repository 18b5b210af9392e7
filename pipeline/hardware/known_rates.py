"""What a machine's matrix product was measured at, kept for the runs to come: JSON files in the cache folder."""
import contextlib
import hashlib
import json
import math
import os
import re
import tempfile

import tensorflow as tf

from pipeline.files import read_cached_json


def machine_key(precision, kind):
    """Returns what decides how fast a matrix product is: {"precision", "processor", "cores", "gpus", "tensorflow"}.

    Args:
      precision: one of pipeline.config.PRECISIONS.
      kind: "CPU" or "GPU": where it is computed.
    """
    gpus = tf.config.get_visible_devices("GPU") if kind == "GPU" else []
    names = sorted({str(tf.config.experimental.get_device_details(gpu).get("device_name")) for gpu in gpus})
    return {"precision": precision, "processor": processor(), "cores": len(os.sched_getaffinity(0)), "gpus": names,
            "tensorflow": tf.__version__}


def processor(path="/proc/cpuinfo"):
    """Returns the name of the processor, "" where the system does not say."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        found = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
        return found[1].strip() if found else ""
    return ""


def rate_path(key, folder):
    """Returns the path of the file that keeps the rate of a machine, see `machine_key`, in a cache folder."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return os.path.join(folder, f"matrix-product-{digest[:16]}.json")


def read_rate(key, folder):
    """Returns the kept rate, 1e9 operations/s as float, or None: nothing is kept, or it cannot be read."""
    try:
        kept = read_cached_json(rate_path(key, folder))
        rate = float(kept["gflops"]) if kept["machine"] == key else math.nan
    except (TypeError, KeyError, ValueError):
        return None
    return rate if math.isfinite(rate) and rate > 0 else None


def write_rate(key, folder, rate):
    """Keeps a rate; a folder that cannot be written is done without."""
    path = rate_path(key, folder)
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # Several runs may begin at once: each writes a file of its own, and the last one's name stands.
        with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), suffix=".part", delete=False,
                                         encoding="utf-8") as file:
            json.dump({"machine": key, "gflops": rate}, file)
        os.replace(file.name, path)
