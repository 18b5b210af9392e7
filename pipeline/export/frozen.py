"""What the converters to other runtimes share: a graph with the weights as constants, and held back output."""
import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from pipeline.errors import UsageError
from pipeline.export.signatures import float_function
from pipeline.internals.tensorflow_internals import freeze_graph
from pipeline.quantities import plural

ELSEWHERE = "--format=saved_model,keras,weights hold every model"


def freeze(trained: Any, lower_control_flow: bool = True) -> Any:
    """Returns the function of a trained model with its weights as constants, so that a converter can fold them.

    Tensors that the model was made of (a table of more than 128 numbers in a functional model, the statistics of
    keras.layers.Normalization) are captured by its graph like variables, and become constants too.

    Args:
      trained: TrainedModel whose model computes in float32.
      lower_control_flow: write conditions and loops as the operations of TensorFlow 1.

    Returns:
      A concrete function of `image`, float32 [n, H, W, C] in 0..1, to {"probabilities": float32 [n, classes]}.
    """
    frozen = freeze_graph(float_function(trained).get_concrete_function(), lower_control_flow)
    # It has lost the names of its outputs.
    return frozen.prune(frozen.inputs, {"probabilities": frozen.outputs[0]})


def cannot_convert(name: str, operations: Iterable[str], runtime: str, instead: str = ELSEWHERE) -> UsageError:
    """Returns the UsageError for operations of a model that a converter lacks."""
    names = sorted(set(operations))
    which = f"{plural(len(names), 'operation')} {', '.join(names)}"
    return UsageError(f"format {name}: {runtime} cannot do {which} of this model; {instead}")


@contextlib.contextmanager
def quiet_converter() -> Iterator[None]:
    """Holds back what a converter writes to standard error, from C++ or Python; shows it with an unexpected error.

    The line of a UsageError is enough.
    """
    if sys.stderr is not None:
        sys.stderr.flush()
    with _memory_file() as held, contextlib.redirect_stderr(held):
        screen = _divert(2, held.fileno())
        try:
            yield
        except UsageError:
            raise
        except Exception:
            held.flush()
            if screen is not None:
                os.write(screen, os.pread(held.fileno(), os.fstat(held.fileno()).st_size, 0))
            raise
        finally:
            if screen is not None:
                os.dup2(screen, 2)
                os.close(screen)


def _memory_file() -> TextIO:
    # Not a temporary file: the disk may be full.
    return open(os.memfd_create("converter"), "w", encoding="utf-8", errors="replace", buffering=1)


def _divert(number: int, target: int) -> int | None:
    """Redirects a file descriptor to another one; returns a copy of the first, None where it is closed."""
    try:
        kept = os.dup(number)
    except OSError:
        return None
    os.dup2(target, number)
    return kept
