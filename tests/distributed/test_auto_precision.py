"""--precision=auto: what GPUs have Tensor Cores for, and what a run has begun with."""
import pytest

from pipeline import runs
from pipeline.config import ExperimentConfig
from pipeline.distributed import auto_precision, cuda, devices
from pipeline.errors import UsageError

AUTO = ExperimentConfig.from_flat({"precision": "auto"})


@pytest.mark.parametrize("capabilities, precision, why", [
    ((), "float32", "without a GPU"), (((6, 1),), "float32", "for a GPU of compute capability 6.1"),
    (((7, 0),), "mixed_float16", "for a GPU of compute capability 7.0"), (((7, 5),), "mixed_float16", "capability 7.5"),
    (((8, 0),), "mixed_bfloat16", "capability 8.0"), (((12, 0), (9, 0)), "mixed_bfloat16", "capability 9.0"),
    (((9, 0), (7, 5)), "mixed_float16", "capability 7.5"),
])
def test_the_oldest_gpu_decides(capabilities, precision, why):
    found = auto_precision.for_gpus(capabilities)
    assert found[0] == precision and why in found[1]


def test_a_run_keeps_its_precision_and_only_its_devices_count(monkeypatch):
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ((7, 5), (9, 0), (6, 0)))
    assert auto_precision.resolved(AUTO) == "float32"
    assert auto_precision.resolved(AUTO.replace(devices=("1",))) == "mixed_bfloat16"
    assert auto_precision.resolved(AUTO.replace(replicas=2)) == "mixed_float16"
    assert auto_precision.choose(AUTO, {"precision": "float32"}) == ("float32", "as this run began")
    assert auto_precision.resolved(AUTO.replace(precision="float64")) == "float64"


def test_a_training_without_a_gpu_stores_float32_and_what_does_not_resolve_it_refuses():
    assert runs.resolve(AUTO).runtime.precision == "float32"
    with pytest.raises(UsageError, match="--precision=auto is chosen by a training, which keeps it: give float32"):
        devices.check_precision("auto", "CPU", False, ())
