"""The choice of devices, and settings that are refused before a run starts."""
import pytest

from pipeline.data.stream import check_batch_size
from pipeline.distributed import devices
from pipeline.errors import UsageError
from pipeline.processor import cpu_features
from tests.commands import mirrorline


@pytest.mark.parametrize("gpus, wanted, replicas, chosen", [
    (0, (), 0, ("CPU", (0,))),
    (0, (), 8, ("CPU", tuple(range(8)))),
    (4, (), 0, ("GPU", (0, 1, 2, 3))),
    (4, (), 2, ("GPU", (0, 1))),
    (4, ("3", "1"), 0, ("GPU", (3, 1))),
    (4, ("3", "1"), 1, ("GPU", (3,))),
    (1, (), 1, ("GPU", (0,))),
])
def test_chosen_devices(gpus, wanted, replicas, chosen):
    assert devices.choose_devices(gpus, wanted, replicas) == chosen


@pytest.mark.parametrize("gpus, wanted, replicas, line", [
    (0, (), 9, "--replicas=9 without a GPU: the CPU emulates at most 8 replicas"),
    (0, ("0",), 0, "--devices=0: there is no GPU 0; TensorFlow finds no GPU here"),
    (2, ("0", "2"), 0, "--devices=0,2: there is no GPU 2; GPUs here: 0, 1"),
    (2, ("1", "1"), 0, "--devices=1,1: a GPU is named twice"),
    (2, (), 3, "--replicas=3 on 2 GPUs: give at most 2, or set CUDA_VISIBLE_DEVICES=-1"),
    (4, ("1",), 2, "--replicas=2 on 1 GPU: give at most 1"),
])
def test_unavailable_devices_are_refused(gpus, wanted, replicas, line):
    with pytest.raises(UsageError) as caught:
        devices.choose_devices(gpus, wanted, replicas)
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize("name, kind, replicas, line", [
    ("nccl", "CPU", 1, "--cross_device_reduction=nccl is between GPUs, and TensorFlow finds none here; on CPUs auto"),
    ("hierarchical", "CPU", 3, "--cross_device_reduction=hierarchical would leave out one of 3 replicas: give an even "
                               "number of replicas, or auto or tree"),
    ("hierarchical", "GPU", 7, "--cross_device_reduction=hierarchical would leave out one of 7 replicas: give an even "
                               "number of replicas, or auto, nccl or tree"),
])
def test_unsupported_reductions_are_refused(name, kind, replicas, line):
    with pytest.raises(UsageError) as caught:
        devices.check_cross_device_reduction(name, kind, replicas)
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize("name, kind, replicas", [
    ("auto", "CPU", 3), ("tree", "CPU", 3), ("hierarchical", "CPU", 4), ("hierarchical", "CPU", 1), ("nccl", "GPU", 3),
])
def test_supported_reductions(name, kind, replicas):
    devices.check_cross_device_reduction(name, kind, replicas)


@pytest.mark.parametrize("batch, replicas, micro, sizes", [
    (64, 3, 1, "63 or 66"), (30, 4, 1, "28 or 32"), (32, 2, 3, "30 or 36"), (5, 2, 3, "6 or 12"),
])
def test_indivisible_batch_names_the_nearest_sizes(batch, replicas, micro, sizes):
    with pytest.raises(UsageError, match=f"--batch_size={batch} does not divide by {replicas} replicas times {micro} "
                                         f"micro-batch.*: the nearest that do are {sizes}$"):
        check_batch_size(batch, replicas, micro)
    for size in map(int, sizes.split(" or ")):
        check_batch_size(size, replicas, micro)


@pytest.mark.parametrize("precision, kind, force, features, says", [
    ("mixed_float16", "GPU", False, set(), None),
    ("mixed_float16", "CPU", True, {"amx_tile"}, "on a CPU mixed_float16 is 3 to 60 times slower than float32; "
                                                 "continuing because of --force"),
    ("mixed_bfloat16", "CPU", False, {"avx512f"}, "mixed_bfloat16 is about 2 times slower"),
    ("mixed_bfloat16", "CPU", False, {"amx_bf16"}, None),
    ("mixed_bfloat16", "CPU", False, {"avx512_bf16"}, None),
    ("float32", "CPU", False, set(), None),
    ("float64", "CPU", False, set(), None),
])
def test_slow_precisions_give_a_warning(monkeypatch, precision, kind, force, features, says):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    warning = devices.check_precision(precision, kind, force, features)
    assert warning == says or (says and warning.startswith(says))


@pytest.mark.parametrize("limit, features, refused", [
    ("AVX2", {"avx512f"}, True), ("avx2_vnni", {"avx512f"}, True), ("SSE41", {"avx512f"}, True),
    ("AVX2", {"avx2"}, False), ("AVX512_CORE_BF16", {"avx512f"}, False), ("", {"avx512f"}, False),
    ("ALL", {"avx512f"}, False)])
def test_half_precision_is_refused_where_onednn_lacks_the_kernels_of_the_cpu(monkeypatch, limit, features, refused):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if refused:
        with pytest.raises(UsageError, match="--precision=mixed_bfloat16 .* ONEDNN_MAX_CPU_ISA .* unset it"):
            devices.check_precision("mixed_bfloat16", "CPU", False, features)
    else:
        devices.check_precision("mixed_bfloat16", "CPU", False, features)
    assert devices.check_precision("float32", "CPU", False, features) is None


def test_float16_on_cpu_is_refused():
    with pytest.raises(UsageError, match="3 to 60 times slower than float32; take --precision=float32, or --force"):
        devices.check_precision("mixed_float16", "CPU", False, set())


def test_cpu_features(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu avx avx2\n\nflags : other\n")
    assert cpu_features(tmp_path / "cpuinfo") == {"fpu", "avx", "avx2"}
    assert cpu_features(tmp_path / "none") == set()


START = """
import os
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import keras, tensorflow as tf
from pipeline.config import ExperimentConfig
from pipeline.distributed import devices
from pipeline.errors import UsageError
from tests.consoles import RecordingConsole
said = []
def start(**values):
    config = ExperimentConfig.from_flat(values)
    return devices.start(config.runtime, config.training, config.optimizer, RecordingConsole(said))
for wrong in (dict(batch_size=7, replicas=2), dict(precision="mixed_float16"), dict(replicas=9), dict(devices=("0",)),
              dict(cross_device_reduction="nccl")):
    try:
        start(**wrong)
        print("not refused", wrong)
    except UsageError:
        pass
print(keras.config.floatx(), keras.config.dtype_policy().name, said)
tf32 = tf.config.experimental.tensor_float_32_execution_enabled
before = tf32()
strategy = start(replicas=2, tf32=False, gpu_thread_mode="private", precision="float64", seed=7,
                 cross_device_reduction="tree")
from pipeline.training.self_test import reduction_name
print(reduction_name(strategy))
print(type(strategy).__name__, strategy.num_replicas_in_sync, len(tf.config.list_logical_devices("CPU")))
print(keras.config.floatx(), keras.config.dtype_policy().name, said)
first = keras.random.normal((3,)).numpy().tolist()
keras.utils.set_random_seed(7)
print(first == keras.random.normal((3,)).numpy().tolist())
print(before, tf32(), os.environ["TF_GPU_THREAD_MODE"])
"""


def test_start_validates_before_it_changes_anything(tmp_path):
    (tmp_path / "starting.py").write_text(START)
    done = mirrorline(cwd=tmp_path, module="starting")
    assert done.stdout.splitlines() == [
        "float32 float32 []",
        "ReductionToOneDevice over 2 CPU replicas",
        "MirroredStrategy 2 2",
        "float64 float64 ['2 replicas share one CPU: for trial, not for speed']",
        "True", "True False gpu_private"], done.stderr
