"""What the bits of a computation on a CPU depend on besides the program: threads, oneDNN, instructions.

Kernels add up one part per thread, so the number of threads decides the order of sums. oneDNN, which TensorFlow uses by
default on processors with AVX-512 VNNI and newer, has kernels of its own, selected by the instruction set.
"""
import os
from collections.abc import Collection, Mapping
from typing import Any

from pipeline.config import ExperimentConfig
from pipeline.console import Console
from pipeline.errors import UsageError
from pipeline.quantities import counted

# Imports inside functions: it is read before TensorFlow is imported.

MOST_THREADS = 4096  # As of --threads.
# For which oneDNN has kernels, best first; names of /proc/cpuinfo.
INSTRUCTIONS = ("amx_fp16", "amx_tile", "avx512_fp16", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2",
                "avx", "sse4_1")


def default_threads(environment: Mapping[str, str] = os.environ) -> int:
    """Returns the number of threads with which TensorFlow computes an operation by default."""
    text = environment.get("TF_NUM_INTRAOP_THREADS", "")
    return int(text) if text.isdigit() and int(text) else len(os.sched_getaffinity(0))


def check_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Raises UsageError for a number of threads in the environment that TensorFlow ignores or crashes on."""
    text = environment.get("TF_NUM_INTRAOP_THREADS", "")
    if text and not (text.isascii() and text.isdigit() and int(text) <= MOST_THREADS):
        raise UsageError(f"TF_NUM_INTRAOP_THREADS must be a whole number from 0, for all cores, to {MOST_THREADS}; "
                         f"found '{text}'")


def threads() -> int:
    """Returns the number of threads with which this process computes an operation."""
    import tensorflow as tf  # This module is imported before the flags are checked.
    return tf.config.threading.get_intra_op_parallelism_threads() or default_threads()


def set_threads(number: int) -> bool:
    """Sets the number of threads of an operation; to be called before any other TensorFlow operation.

    Args:
      number: of threads; 0: unchanged.

    Returns:
      Whether it is set: it cannot be changed once TensorFlow is initialized.
    """
    import tensorflow as tf
    if number and number != threads():
        try:
            tf.config.threading.set_intra_op_parallelism_threads(number)
        except RuntimeError:
            return False
    return True


def stored_threads(stored: Mapping[str, Any] | None) -> int:
    """Returns the threads of a run on CPUs by its config.json; 0 where they are unknown, and on GPUs."""
    device = (stored or {}).get("device") or {}
    return 0 if device.get("kind") == "GPU" else device.get("threads") or device.get("cores") or 0


def describe(features: Collection[str]) -> dict[str, Any]:
    """Returns {"threads", "onednn" (None where it is unknown), "instructions"} for config.json.

    Args:
      features: of the CPU, see pipeline.processor.cpu_features.
    """
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "").lower()
    best = next((name for name in INSTRUCTIONS if name in features), "unknown")
    from pipeline.internals.tensorflow_internals import uses_onednn
    return {"threads": threads(), "onednn": uses_onednn(),
            "instructions": best if most in ("", "all", "default") else f"{best}, at most {most}"}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns a line for each reason why a resumed run on CPUs has other bits than an uninterrupted one.

    Args:
      before, now: `device` of config.json at the start before and at this one; missing values are unknown.
    """
    if (before.get("kind"), now.get("kind")) != ("CPU", "CPU"):
        return []
    lines, effect = [], "the weights will differ from those of an uninterrupted run"
    was, number = before.get("threads") or before.get("cores"), now["threads"]
    if was and was != number:
        lines.append(f"this run was computed with {counted(was, 'thread')}, now with {number}: {effect} "
                     f"(--threads={was})")
    was, is_on = before.get("onednn"), now["onednn"]
    if None not in (was, is_on) and was != is_on:
        words = {True: "with", False: "without"}
        lines.append(f"this run was computed {words[bool(was)]} oneDNN, now {words[is_on]} it: {effect} "
                     f"(TF_ENABLE_ONEDNN_OPTS={int(bool(was))})")
    elif is_on and before.get("instructions") not in (None, now["instructions"]):
        lines.append(f"this run was computed with the instructions {before['instructions']}, now with "
                     f"{now['instructions']}: {effect} (ONEDNN_MAX_CPU_ISA limits what oneDNN uses)")
    return lines


def same_threads(config: ExperimentConfig, stored: Mapping[str, Any] | None, console: Console) -> ExperimentConfig:
    """Returns the configuration with the number of threads of the run so far, where none is given."""
    number, default = config.runtime.threads or stored_threads(stored), default_threads()
    if not config.runtime.threads and number not in (0, default):
        console.info(f"threads {number}, as this run began, for the same bits ({default} by default: "
                     f"--threads={default})")
    return config.replace(threads=number)
