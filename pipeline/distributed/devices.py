"""The devices of a run: which of them, how many replicas, in which precision."""
import functools
import os
from collections.abc import Collection, Sequence
from typing import Any

from pipeline import arithmetic, keras_import
from pipeline.config import AUTO, OptimizerConfig, RuntimeConfig, TrainingConfig
from pipeline.console import STANDARD, Console
from pipeline.distributed import multi_worker_strategy
from pipeline.distributed.cluster import Cluster
from pipeline.errors import UsageError
from pipeline.processor import cpu_features
from pipeline.quantities import counted

# Imports inside functions: settings come before TensorFlow is imported.

MOST_LOGICAL_CPUS = 8
# Measured as a training step's time over that of float32 on the same CPU.
FLOAT16_COST = "on a CPU mixed_float16 is 3 to 60 times slower than float32"
BFLOAT16_COST = ("mixed_bfloat16 is about 2 times slower than float32 on this CPU, which has neither AMX nor "
                 "AVX512-BF16")


def start(runtime: RuntimeConfig, training: TrainingConfig, optimizer: OptimizerConfig, console: Console = STANDARD,
          share_batch: bool = True, cluster: Cluster | None = None, settings: str = "") -> Any:
    """Sets the process up and returns its strategy; to be called before any other TensorFlow operation.

    Wrong settings are refused before a device is used. A second call with the same devices returns the same strategy;
    the number of logical CPUs cannot grow any more then.

    Args:
      runtime: devices, replicas, precision and reduction.
      training: batch size and seed.
      optimizer: number of micro-batches.
      console: where messages go.
      share_batch: whether the batch size must be divisible by the replicas; an evaluation pads it instead.
      cluster: of a run of several workers, or None.
      settings: text that has to be the same on every worker.

    Returns:
      tf.distribute.MirroredStrategy over the chosen devices, also for a single one; of several workers
      tf.distribute.MultiWorkerMirroredStrategy.

    Raises:
      UsageError: missing devices, more replicas than devices, an indivisible batch, a precision that is far too slow on
        this hardware, or a reduction that does not work on these devices.
    """
    import keras
    import tensorflow as tf

    keras_import.set_defaults()
    if runtime.gpu_thread_mode != "global":  # Read when the first GPU is used.
        os.environ["TF_GPU_THREAD_MODE"] = f"gpu_{runtime.gpu_thread_mode}"
    tf.config.experimental.enable_tensor_float_32_execution(runtime.tf32)
    from pipeline.data.stream import check_batch_size

    if not arithmetic.set_threads(runtime.threads):
        console.info(f"--threads={runtime.threads}: TensorFlow is initialized with {arithmetic.threads()} threads in "
                     "this process and keeps them")
    kind, indices = choose_devices(len(tf.config.list_physical_devices("GPU")), runtime.devices, runtime.replicas)
    check_cross_device_reduction(runtime.cross_device_reduction, kind, len(indices))
    if share_batch:
        check_batch_size(training.batch_size, len(indices) * (len(cluster.addresses) if cluster else 1),
                         optimizer.accumulate_steps)
    warning = check_precision(runtime.precision, kind, runtime.force, cpu_features())
    if warning:
        console.info(warning)
    if kind == "CPU" and len(indices) > 1:
        console.info(f"{len(indices)} replicas share one CPU: for trial, not for speed")
    keras_import.set_precision(runtime.precision)
    keras.utils.set_random_seed(training.seed)
    if runtime.deterministic and kind == "GPU":
        tf.config.experimental.enable_op_determinism()
    if cluster:
        check_workers(runtime)
        prepare_devices(kind, indices)
        return multi_worker_strategy.open_strategy(cluster, (kind, len(indices)), runtime.cross_device_reduction,
                                                   runtime.start_timeout, settings, runtime.listen == "all")
    return open_strategy(kind, indices, runtime.cross_device_reduction)


def check_workers(runtime: RuntimeConfig) -> None:
    """Raises UsageError for options that work on one machine only."""
    if runtime.cross_device_reduction in ("hierarchical", "tree"):
        raise UsageError(f"--cross_device_reduction={runtime.cross_device_reduction} works on one machine only; "
                         "several workers take auto, or nccl between GPUs")
    if runtime.histograms_every not in ("", "0"):
        raise UsageError(f"--histograms_every={runtime.histograms_every} works on one machine only; leave it out with "
                         "several workers")


@functools.cache
def open_strategy(kind: str, indices: tuple[int, ...], cross_device_reduction: str = "auto") -> Any:
    """Returns the tf.distribute.MirroredStrategy with one replica on each of the devices.

    Args:
      kind: "GPU", whose memory then grows on demand, or "CPU", where replicas are logical devices.
      indices: of the GPUs, as TensorFlow counts them; for CPUs 0 to replicas - 1.
      cross_device_reduction: checked by `check_cross_device_reduction`.

    Raises:
      UsageError: TensorFlow is initialized with other devices in this process.
    """
    import tensorflow as tf
    prepare_devices(kind, indices)
    reductions = {"nccl": tf.distribute.NcclAllReduce, "hierarchical": tf.distribute.HierarchicalCopyAllReduce,
                  "tree": tf.distribute.ReductionToOneDevice}
    reduction = reductions[cross_device_reduction]() if cross_device_reduction != "auto" else None
    visible = tf.config.get_visible_devices(kind)
    every = tf.config.list_physical_devices(kind)
    # Logical devices share the one visible CPU.
    logical = [visible.index(every[i]) for i in indices] if kind == "GPU" else indices
    return tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in logical], cross_device_ops=reduction)


def prepare_devices(kind: str, indices: Sequence[int]) -> None:
    """Makes the chosen devices visible to TensorFlow; arguments and errors as of open_strategy."""
    import tensorflow as tf
    if kind == "GPU":
        _choose_gpus([tf.config.list_physical_devices("GPU")[i] for i in indices])
    elif len(indices) > 1:
        _divide_cpu(len(indices))


def _choose_gpus(chosen: list) -> None:
    """Makes GPUs the visible ones; a process that was initialized with more of them keeps these."""
    import tensorflow as tf
    try:
        tf.config.set_visible_devices(chosen, "GPU")
        for gpu in chosen:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:
        if not set(chosen) <= set(tf.config.get_visible_devices("GPU")):
            raise UsageError("--devices: TensorFlow is initialized with other GPUs in this process: restart Python and "
                             "use the most GPUs first") from error


def _divide_cpu(replicas: int) -> None:
    """Makes at least so many logical devices of the CPU."""
    import tensorflow as tf
    try:
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0],
                                                   [tf.config.LogicalDeviceConfiguration() for _ in range(replicas)])
    except RuntimeError as error:
        present = len(tf.config.list_logical_devices("CPU"))
        if present < replicas:
            raise UsageError(f"--replicas={replicas}: TensorFlow is initialized with {counted(present, 'logical CPU')} "
                             "in this process: restart Python and use the most replicas first") from error


def check_cross_device_reduction(name: str, kind: str, replicas: int) -> None:
    """Raises UsageError for a --cross_device_reduction that does not work on so many "GPU" or "CPU" replicas."""
    if name == "nccl" and kind == "CPU":
        raise UsageError("--cross_device_reduction=nccl is between GPUs, and TensorFlow finds none here; on CPUs auto, "
                         "tree and, with an even number of replicas, hierarchical work")
    # TensorFlow's HierarchicalCopyAllReduce adds two halves of the devices, each half the number rounded down: it
    # silently leaves out the last of an odd number.
    if name == "hierarchical" and replicas > 1 and replicas % 2:
        raise UsageError(f"--cross_device_reduction=hierarchical would leave out one of {replicas} replicas: give an "
                         f"even number of replicas, or auto{', nccl' * (kind == 'GPU')} or tree")


def choose_devices(gpus: int, wanted: Sequence[str] = (), replicas: int = 0) -> tuple[str, tuple[int, ...]]:
    """Returns the kind and the indices of the devices, one for each replica.

    Args:
      gpus: number of GPUs that TensorFlow can use.
      wanted: indices from --devices; empty for all.
      replicas: requested number; 0 for every device.

    Returns:
      ("GPU", indices in the requested order) or ("CPU", 0 to replicas - 1).

    Raises:
      UsageError: an unknown or repeated index, or more replicas than devices.
    """
    listed = ",".join(wanted)
    missing = [text for text in wanted if int(text) >= gpus]
    if missing:
        there = f"GPUs here: {', '.join(map(str, range(gpus)))}" if gpus else \
            "TensorFlow finds no GPU here; leave --devices out to train on the CPU (see 'mirrorline doctor')"
        raise UsageError(f"--devices={listed}: there is no GPU {', '.join(missing)}; {there}")
    indices = tuple(int(text) for text in wanted) or tuple(range(gpus))
    if len(set(indices)) < len(indices):
        raise UsageError(f"--devices={listed}: a GPU is named twice; name each once")
    if indices:
        if replicas > len(indices):
            raise UsageError(f"--replicas={replicas} on {counted(len(indices), 'GPU')}: give at most "
                             f"{len(indices)}, or set CUDA_VISIBLE_DEVICES=-1 to try it on the CPU")
        return "GPU", indices[:replicas or None]
    if replicas > MOST_LOGICAL_CPUS:
        raise UsageError(f"--replicas={replicas} without a GPU: the CPU emulates at most {MOST_LOGICAL_CPUS} replicas")
    return "CPU", tuple(range(replicas or 1))


# What TensorFlow selects kernels of a precision by, whatever oneDNN is allowed to use.
KERNEL_FEATURE = {"mixed_bfloat16": "avx512f", "mixed_float16": "avx512_fp16"}


def limits_onednn(precision: str, features: Collection[str]) -> bool:
    """Tells whether a variable keeps oneDNN from the kernels that TensorFlow selects for a precision on this CPU.

    Such a kernel fails, or ends the process by SIGSEGV (TensorFlow 2.21).
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL"
    below = limit.upper().startswith(("SSE", "AVX")) and not limit.upper().startswith(("AVX512", "AVX10"))
    return (below and KERNEL_FEATURE.get(precision) in features
            and os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1").lower() not in ("0", "false"))


def check_precision(precision: str, kind: str, force: bool, features: Collection[str]) -> str | None:
    """Returns a warning about a precision that is slow on this hardware, or None.

    Args:
      precision: one of pipeline.config.PRECISIONS, or AUTO.
      kind: "GPU" or "CPU".
      force: accept a precision that is far too slow.
      features: of `cpu_features`.

    Raises:
      UsageError: float16 on a CPU without `force`; half precision where `limits_onednn`; AUTO, which only a training
        has resolved.
    """
    if precision == AUTO:
        raise UsageError("--precision=auto is chosen by a training, which keeps it: give float32, mixed_bfloat16 or "
                         "mixed_float16 here")
    if kind == "GPU":
        return None
    if limits_onednn(precision, features):
        raise UsageError(f"--precision={precision} cannot be computed on this CPU with ONEDNN_MAX_CPU_ISA set to less "
                         "than AVX-512, as it is here: TensorFlow selects kernels that oneDNN then lacks; unset it, or "
                         "take --precision=float32")
    if precision == "mixed_float16":
        if not force:
            raise UsageError(f"--precision=mixed_float16: {FLOAT16_COST}; take --precision=float32, or --force to "
                             "continue")
        return f"{FLOAT16_COST}; continuing because of --force"
    if precision == "mixed_bfloat16" and not any(name.startswith("amx") or name == "avx512_bf16" for name in features):
        return BFLOAT16_COST
    return None


