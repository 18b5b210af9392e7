"""What the bits of a computation on the CPU depend on beside the program: threads, oneDNN, instructions.

Kernels add up a part in each thread, so another number of threads is another order of sums. oneDNN, which TensorFlow
takes by default on processors with AVX-512 VNNI and newer, has kernels of its own, chosen by the instructions.
"""
import os

from pipeline.quantities import counted

# What oneDNN has kernels for, best first; names of /proc/cpuinfo.
INSTRUCTIONS = ("amx_fp16", "amx_tile", "avx512_fp16", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2",
                "avx", "sse4_1")


def default_threads(environment=os.environ):
    """Returns how many threads TensorFlow computes an operation with where nobody says it."""
    text = environment.get("TF_NUM_INTRAOP_THREADS", "")
    return int(text) if text.isdigit() and int(text) else len(os.sched_getaffinity(0))


def threads():
    """Returns how many threads this process computes an operation with."""
    import tensorflow as tf
    return tf.config.threading.get_intra_op_parallelism_threads() or default_threads()


def set_threads(number):
    """Lets operations be computed with a number of threads; to be called before any other TensorFlow operation.

    Args:
      number: of threads; 0: as it is.

    Returns:
      Whether that is their number now: it stays as it is where TensorFlow has begun to compute.
    """
    import tensorflow as tf
    if number and number != threads():
        try:
            tf.config.threading.set_intra_op_parallelism_threads(number)
        except RuntimeError:
            return False
    return True


def stored_threads(stored):
    """Returns with how many threads a run computes on the CPU; 0 where nothing says it, or it is on GPUs.

    Args:
      stored: what config.json of the run holds, or None.
    """
    device = (stored or {}).get("device") or {}
    return 0 if device.get("kind") == "GPU" else device.get("threads") or device.get("cores") or 0


def describe(features):
    """Returns {"threads", "onednn" (None where that is not known), "instructions"}: what config.json says of it.

    Args:
      features: of the CPU, see pipeline.distributed.devices.cpu_features.
    """
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "").lower()
    best = next((name for name in INSTRUCTIONS if name in features), "unknown")
    from pipeline.internals.tensorflow_internals import uses_onednn
    return {"threads": threads(), "onednn": uses_onednn(),
            "instructions": best if most in ("", "all", "default") else f"{best}, at most {most}"}


def changes(before, now):
    """Returns a line for each thing because of which a run on CPUs has other bits than in one piece.

    Args:
      before, now: `device` of config.json, of the start before and of this one; what is missing is not known.
    """
    if (before.get("kind"), now.get("kind")) != ("CPU", "CPU"):
        return []
    lines, ends = [], "the weights will not be those of a run in one piece, bit for bit"
    was, number = before.get("threads") or before.get("cores"), now["threads"]
    if was and was != number:
        lines.append(f"this run was computed with {counted(was, 'thread')}, now with {number}: {ends} "
                     f"(--threads={was})")
    was, is_on = before.get("onednn"), now["onednn"]
    if None not in (was, is_on) and was != is_on:
        lines.append(f"this run was computed {_with(was)} oneDNN, now {_with(is_on)} it: {ends} "
                     f"(TF_ENABLE_ONEDNN_OPTS={int(was)})")
    elif is_on and before.get("instructions") not in (None, now["instructions"]):
        lines.append(f"this run was computed with the instructions {before['instructions']}, now with "
                     f"{now['instructions']}: {ends} (ONEDNN_MAX_CPU_ISA sets the most that oneDNN uses)")
    return lines


def _with(is_on):
    return "with" if is_on else "without"


def same_threads(config, stored, console):
    """Returns the configuration with the number of threads that a run on CPUs began with, where none is given."""
    number, here = config.runtime.threads or stored_threads(stored), default_threads()
    if not config.runtime.threads and number not in (0, here):
        console.info(f"threads {number}, as this run began, for the same bits ({here} here by default: "
                     f"--threads={here})")
    return config.replace(threads=number)
