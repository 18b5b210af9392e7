"""Whether TensorFlow computes with oneDNN on the CPU (--onednn), decided before TensorFlow is imported.

TensorFlow uses it by default on processors with one of BY_DEFAULT alone. On others it is faster too, three times for
deep networks; but the bits are others, so a run keeps what it began with. Imports no TensorFlow.
"""
import contextlib
import hashlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from typing import Any

from pipeline.activity import activity
from pipeline.console import Console
from pipeline.files import default_cache_dir, read_cached_json, write_json
from pipeline.processes import child_environment
from pipeline.processor import cpu_features, cpu_model

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
# As names of /proc/cpuinfo, those of which TensorFlow 2.21 looks for one (IsMKLEnabled in its util/port.cc).
BY_DEFAULT = ("avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16")
LEAST_GAIN = 1.1  # Below, a network of another shape may be slower with it.
LONGEST = 120.0  # Seconds that one of the two measurements may take.


def choose(requested: str, console: Console, stored: Mapping[str, Any] | None = None, alone: bool = True,
           cache_dir: str | None = None) -> None:
    """Sets the variable by which TensorFlow, in this process and its children, uses oneDNN or not.

    Args:
      requested: --onednn: "on", "off" or "auto": as the environment says, else as the run began, else what is faster on
        this processor.
      console: where it is reported, if it is not what TensorFlow would do by itself.
      stored: config.json of the run, None for a new one.
      alone: False for one of several workers, whose processors may differ: nothing is measured there.
      cache_dir: folder for measurements; None: ~/.cache/mirrorline.
    """
    wanted = _wanted(requested, console, stored, alone, cache_dir)
    if wanted is None:
        return
    if "tensorflow" not in sys.modules:
        os.environ[VARIABLE] = str(int(wanted))
        return
    from pipeline.internals.tensorflow_internals import uses_onednn  # TensorFlow is loaded.
    if uses_onednn() == (not wanted):
        console.warning(f"oneDNN stays {'off' if wanted else 'on'}: TensorFlow was imported before; set "
                        f"{VARIABLE}={int(wanted)} at the start of the process")


def choose_as_begun(stored: Mapping[str, Any]) -> None:
    """Makes TensorFlow compute as in the training of a run, by its config.json; see choose."""
    choose("auto", Console(quiet=True), stored, alone=False)


def uses_by_default(features: Collection[str]) -> bool:
    """Returns whether TensorFlow uses oneDNN on a processor by default."""
    return any(name in features for name in BY_DEFAULT)


def _wanted(requested, console, stored, alone, cache_dir):
    """Returns whether to use oneDNN, or None for what TensorFlow does by itself."""
    features = cpu_features()
    default = uses_by_default(features)
    if requested != "auto":
        return requested == "on"
    begun = ((stored or {}).get("device") or {}).get("onednn")
    if VARIABLE in os.environ:
        return None
    if begun is not None:
        if begun != default:
            console.info(f"onednn  {'on' if begun else 'off'}, as this run began, for the same bits (by default it is "
                         f"{'on' if default else 'off'} here: --onednn={'on' if default else 'off'})")
        return begun
    too_late, on_gpu = "tensorflow" in sys.modules, os.path.exists("/dev/nvidiactl")
    if too_late or on_gpu or stored or default or not alone or "avx2" not in features:
        return None
    gain = measured_gain(console, cache_dir)
    if gain is None or gain < LEAST_GAIN:
        return None
    console.info(f"onednn  on, {gain:.1f} times as fast on this processor (measured once; by default TensorFlow leaves "
                 "it off here: --onednn=off)")
    return True


def measured_gain(console: Console, cache_dir: str | None = None) -> float | None:
    """Returns how many times faster convolutions train here with oneDNN; measured once a processor and TensorFlow.

    Returns:
      The ratio, or None where it could not be measured.
    """
    about = {"processor": cpu_model(), "cores": len(os.sched_getaffinity(0)),
             "tensorflow": importlib.metadata.version("tensorflow")}
    name = hashlib.sha256(repr(sorted(about.items())).encode()).hexdigest()[:16]
    path = os.path.join(cache_dir or default_cache_dir(), f"onednn-{name}.json")
    found = read_cached_json(path)
    if not isinstance(found, dict) or {"seconds_with", "seconds_without"} - found.keys():
        with activity("measuring whether oneDNN is faster on this processor (once)", console):
            seconds = [_measure(value) for value in ("1", "0")]
        if None in seconds:
            return None
        found = {**about, "seconds_with": seconds[0], "seconds_without": seconds[1]}
        with contextlib.suppress(OSError):  # Then it is measured again the next time.
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write_json(path, found)
    return found["seconds_without"] / found["seconds_with"]


def _measure(value):
    """Returns the seconds of pipeline.onednn_timing in a process with a value of the variable; None if it fails."""
    try:
        done = subprocess.run([sys.executable, "-m", "pipeline.onednn_timing"], capture_output=True, encoding="utf-8",
                              env={**child_environment(), VARIABLE: value}, timeout=LONGEST, stdin=subprocess.DEVNULL)
        return float(done.stdout.split()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None
