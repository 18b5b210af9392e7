"""Writers with a defect: what they write differs from the model. They stand for ExportFormat.write."""
import numpy as np

from pipeline.errors import UsageError
from pipeline.export.formats.onnx_file import Onnx

WRITE = Onnx.write


def write(self, trained, path, metadata, calibration=None):
    """Writes ONNX of a model whose last bias has moved by half a unit for one class."""
    bias = trained.model.variables[-1]
    before = bias.numpy()
    try:
        bias.assign(before + 0.5 * (np.arange(len(before)) == 0))
        WRITE(self, trained, path, metadata)
    finally:
        bias.assign(before)


def write_rubbish(self, trained, path, metadata, calibration=None):
    """Writes a file that is no model."""
    with open(path, "wb") as file:
        file.write(b"rubbish")


def refuse(self, trained, path, metadata, calibration=None):
    """Writes nothing, as a converter does with an operation that it lacks."""
    raise UsageError("format tflite: TFLite cannot do operation Betainc of this model")
