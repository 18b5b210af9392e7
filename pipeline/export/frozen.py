"""What the converters to other runtimes start from: a graph with the weights in it, and a quiet screen."""
import contextlib
import os
import sys

from pipeline.errors import UsageError
from pipeline.export.signatures import float_function
from pipeline.internals.tensorflow_internals import freeze_graph
from pipeline.quantities import plural

ELSEWHERE = "--format=saved_model,keras,weights hold every model"


def freeze(trained, lower_control_flow=True):
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


def cannot_convert(form, operations, runtime, instead=ELSEWHERE):
    """Returns the UsageError for operations of a model that a converter has nothing for.

    Args:
      form: name of the form.
      operations: their names.
      runtime: what has no counterpart for them.
      instead: what would work.
    """
    names = sorted(set(operations))
    return UsageError(f"form {form}: {runtime} cannot do {plural(len(names), 'operation')} {', '.join(names)} of this "
                      f"model; {instead}")


@contextlib.contextmanager
def quiet_converter():
    """Holds back what a converter writes to standard error, from C++ or from Python; shows it only with a defect.

    A UsageError says in its own line what matters of it.
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


def _memory_file():
    # Not a temporary file: that would need room on a disk that may be full.
    return open(os.memfd_create("converter"), "w", encoding="utf-8", errors="replace", buffering=1)


def _divert(number, target):
    """Lets a file descriptor write where another one does; returns a copy of the first, None where it is closed."""
    try:
        kept = os.dup(number)
    except OSError:
        return None
    os.dup2(target, number)
    return kept
