"""The devices a run computes on: which, how many replicas, in which precision."""
import functools
import os

from pipeline import arithmetic, keras_import
from pipeline.console import STANDARD
from pipeline.distributed import multi_worker_strategy
from pipeline.errors import UsageError
from pipeline.quantities import counted

MOST_LOGICAL_CPUS = 8
# Measured as a training step's time over that of float32 on the same CPU.
FLOAT16_COST = "on a CPU mixed_float16 is 3 to 60 times slower than float32"
BFLOAT16_COST = ("mixed_bfloat16 is about 2 times slower than float32 on this CPU, which has neither AMX nor "
                 "AVX512-BF16")


def start(runtime, training, optimizer, console=STANDARD, share_batch=True, cluster=None, settings=""):
    """Sets the process up and returns its strategy; to be called before any other TensorFlow operation.

    Wrong settings are refused before a device is touched. Called again it returns the strategy of before where the
    devices are the same; how many replicas a CPU plays cannot grow any more then.

    Args:
      runtime: pipeline.config.RuntimeConfig.
      training: pipeline.config.TrainingConfig; its batch size and seed count here.
      optimizer: pipeline.config.OptimizerConfig; its number of micro-batches counts here.
      console: where messages go.
      share_batch: whether the batch has to divide by the replicas; an evaluation fills it up instead.
      cluster: pipeline.distributed.cluster.Cluster where several workers train together, or None.
      settings: text that has to be the same on every worker.

    Returns:
      tf.distribute.MirroredStrategy over the chosen devices, also where that is one.

    Raises:
      UsageError: devices that are not there, more replicas than devices, a batch that cannot be shared out, a
        precision that this hardware is far too slow for, or a reduction that does not work on these devices.
    """
    import keras
    import tensorflow as tf

    keras_import.set_defaults()
    from pipeline.data.stream import check_batch_size

    if not arithmetic.set_threads(runtime.threads):
        console.info(f"--threads={runtime.threads}: TensorFlow has begun to compute with {arithmetic.threads()} "
                     "threads in this process; it goes on with these")
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
                                     runtime.start_timeout, settings, everywhere=runtime.listen == "all")
    return open_strategy(kind, indices, runtime.cross_device_reduction)


def check_workers(runtime):
    """Raises UsageError for what is of one machine alone."""
    if runtime.cross_device_reduction in ("hierarchical", "tree"):
        raise UsageError(f"--cross_device_reduction={runtime.cross_device_reduction} is of one machine; several "
                         "workers take auto, or nccl between GPUs")
    if runtime.histograms_every not in ("", "0"):
        raise UsageError(f"--histograms_every={runtime.histograms_every} is of one machine; leave it out with several "
                         "workers")


@functools.cache
def open_strategy(kind, indices, cross_device_reduction="auto"):
    """Returns the MirroredStrategy with one replica on each of the devices.

    Args:
      kind: "GPU", whose memory then grows on demand, or "CPU", where several replicas are logical devices.
      indices: which GPUs, as TensorFlow counts them; for CPUs, 0 to replicas - 1; a tuple.
      cross_device_reduction: as in RuntimeConfig, after `check_cross_device_reduction`.

    Raises:
      UsageError: TensorFlow has begun to compute on other devices in this process.
    """
    import tensorflow as tf

    prepare_devices(kind, indices)
    reductions = {"nccl": tf.distribute.NcclAllReduce, "hierarchical": tf.distribute.HierarchicalCopyAllReduce,
                  "tree": tf.distribute.ReductionToOneDevice}
    reduction = reductions[cross_device_reduction]() if cross_device_reduction != "auto" else None
    visible = tf.config.get_visible_devices(kind)  # Of CPUs one, which logical devices share.
    every = tf.config.list_physical_devices(kind)
    places = [visible.index(every[i]) for i in indices] if kind == "GPU" else indices
    return tf.distribute.MirroredStrategy([f"{kind}:{place}" for place in places], cross_device_ops=reduction)


def prepare_devices(kind, indices):
    """Makes the chosen devices the visible ones; arguments and errors are those of open_strategy."""
    import tensorflow as tf

    if kind == "GPU":
        _choose_gpus([tf.config.list_physical_devices("GPU")[i] for i in indices])
    elif len(indices) > 1:
        _divide_cpu(len(indices))


def _choose_gpus(chosen):
    """Makes GPUs the visible ones; a process that has begun with more of them goes on with some of these."""
    import tensorflow as tf

    try:
        tf.config.set_visible_devices(chosen, "GPU")
        for gpu in chosen:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:
        if not set(chosen) <= set(tf.config.get_visible_devices("GPU")):
            raise UsageError("--devices: TensorFlow has begun to compute on other GPUs in this process: start Python "
                             "anew, with the most GPUs first") from error


def _divide_cpu(replicas):
    """Makes as many logical devices of the CPU; more than are needed do no harm."""
    import tensorflow as tf

    try:
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0],
                                                   [tf.config.LogicalDeviceConfiguration() for _ in range(replicas)])
    except RuntimeError as error:
        there = len(tf.config.list_logical_devices("CPU"))
        if there < replicas:
            raise UsageError(f"--replicas={replicas}: in this process TensorFlow has begun to compute with the CPU as "
                             f"{there}: start Python anew, with the most replicas first") from error


def check_cross_device_reduction(name, kind, replicas):
    """Raises UsageError for a reduction (--cross_device_reduction) that does not work on "GPU" or "CPU" replicas."""
    if name == "nccl" and kind == "CPU":
        raise UsageError("--cross_device_reduction=nccl is between GPUs, and TensorFlow finds none here; on CPUs auto, "
                         "tree and, with an even number of replicas, hierarchical work")
    # TensorFlow's HierarchicalCopyAllReduce adds up two halves of the devices, each of them half the number rounded
    # down: the last of an odd number is left out without a word.
    if name == "hierarchical" and replicas > 1 and replicas % 2:
        raise UsageError(f"--cross_device_reduction=hierarchical would leave out one of {replicas} replicas: give an "
                         f"even number of replicas, or auto{', nccl' * (kind == 'GPU')} or tree")


def choose_devices(gpus, wanted=(), replicas=0):
    """Returns the kind and the indices of the devices, one for each replica.

    Args:
      gpus: how many GPUs TensorFlow can use.
      wanted: indices asked for with --devices, as str; empty for all.
      replicas: how many are asked for; 0 for every device.

    Returns:
      ("GPU", indices in the order asked for) or ("CPU", 0 to replicas - 1).

    Raises:
      UsageError: an index that is not there or twice there, or more replicas than devices.
    """
    listed = ",".join(wanted)
    missing = [text for text in wanted if int(text) >= gpus]
    if missing:
        there = f"GPUs here: {', '.join(map(str, range(gpus)))}" if gpus else \
            "TensorFlow finds no GPU here; leave --devices out to train on the CPU ('mirrorline doctor' says more)"
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
        raise UsageError(f"--replicas={replicas} without a GPU: the CPU can play at most {MOST_LOGICAL_CPUS} replicas")
    return "CPU", tuple(range(replicas or 1))


def check_precision(precision, kind, force, features):
    """Returns what the user should know about a precision on this hardware, or None.

    Args:
      precision: one of pipeline.config.PRECISIONS.
      kind: "GPU" or "CPU".
      force: whether to go on where it makes no sense.
      features: CPU features, as of `cpu_features`.

    Raises:
      UsageError: float16 on a CPU without `force`.
    """
    if kind == "GPU":
        return None
    if precision == "mixed_float16":
        if not force:
            raise UsageError(f"--precision=mixed_float16: {FLOAT16_COST}; take --precision=float32, or --force to go "
                             "on all the same")
        return f"{FLOAT16_COST}; going on because of --force"
    if precision == "mixed_bfloat16" and not any(name.startswith("amx") or name == "avx512_bf16" for name in features):
        return BFLOAT16_COST
    return None


def cpu_features(path="/proc/cpuinfo"):
    """Returns the set of features the CPU reports ("avx2", "avx512f", "amx_bf16"); empty where it cannot be read."""
    if not os.path.exists(path):
        return set()
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return set(value.split())
    return set()
