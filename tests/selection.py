"""Which rows of a matrix are in `make test`, and which in `make acceptance` alone (marked so: pytest -m acceptance)."""
import pytest

from pipeline.distributed.devices import limits_onednn
from pipeline.processor import cpu_features

# Of tests that compute in half precision: with ONEDNN_MAX_CPU_ISA below what TensorFlow selects kernels by, the process
# would end by SIGSEGV; Mirrorline refuses it there, which tests/distributed/test_devices.py holds everywhere.
half_precision = pytest.mark.skipif(
    any(limits_onednn(precision, cpu_features()) for precision in ("mixed_bfloat16", "mixed_float16")),
    reason="half precision is refused here, see pipeline.distributed.devices.limits_onednn")


def quick(rows, *numbers):
    """Returns the rows of a parametrize, of which those with these numbers are in `make test`.

    Rows with a precision of `mixed_...` are marked half_precision.

    Args:
      rows: list of tuples with a value for each name; of values where there is one name and they are no tuples.
      numbers: positions in it.
    """
    found = []
    for i, row in enumerate(rows):
        values = row if isinstance(row, tuple) else (row,)
        marks = [] if i in numbers else [pytest.mark.acceptance]
        if "'mixed_" in repr(values):
            marks.append(half_precision)
        found.append(pytest.param(*values, marks=marks))
    return found
