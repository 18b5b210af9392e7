"""Writers with a defect: what they write is not what the model is."""
import numpy as np

from pipeline.errors import UsageError
from pipeline.export import onnx_file


def write(trained, path, metadata, calibration=None):
    """Writes ONNX of a model whose last bias has moved by half a unit for one class."""
    bias = trained.model.variables[-1]
    before = bias.numpy()
    try:
        bias.assign(before + 0.5 * (np.arange(len(before)) == 0))
        onnx_file.write(trained, path, metadata)
    finally:
        bias.assign(before)


def write_rubbish(trained, path, metadata, calibration=None):
    """Writes what is no model."""
    with open(path, "wb") as file:
        file.write(b"rubbish")


def refuse(trained, path, metadata, calibration=None):
    """Writes nothing: what a converter does with an operation that it does not know."""
    raise UsageError("form tflite: TFLite cannot do operation Betainc of this model")
