"""The forms in which a trained model is exported, and how far each may be from it."""
import dataclasses
import importlib


@dataclasses.dataclass(frozen=True)
class Bounds:
    """How far an exported form may be from the live model on the test split.

    Attributes:
      probability: largest difference of a probability; None: not bounded.
      equal: smallest share of examples whose predicted class is the same; None: not bounded.
      accuracy_lost: most accuracy that may be lost, as a share (0.005 is half a point); None: not bounded.
    """

    probability: float | None = None
    equal: float | None = None
    accuracy_lost: float | None = None


@dataclasses.dataclass(frozen=True)
class Form:
    """One form of an exported model.

    Attributes:
      name: what --format calls it.
      file: name of the file or folder inside its version's folder; "" where the version's folder is the form itself.
      summary: one line for the help.
      runtime: what a fresh process loads it with: "tensorflow", "keras", "litert" or "onnxruntime".
      extra: the extra of the package that writes or reads it, or None.
      bounds: Bounds.
      writer: "module:function" that writes it, see `write`.
    """

    name: str
    file: str
    summary: str
    runtime: str
    extra: str | None
    bounds: Bounds
    writer: str

    def write(self, trained, path, metadata, calibration=None):
        """Writes the form.

        Args:
          trained: TrainedModel whose model computes in float32.
          path: of the file, or of the folder that is made or filled.
          metadata: dict that JSON can hold, see pipeline.export.metadata; travels inside the form.
          calibration: uint8 [n, H, W, C] images of the training split; only what is quantized with them needs them.

        Raises:
          UsageError: a package is missing, or the converter cannot do an operation of this model, which is named.
        """
        module, function = self.writer.split(":")
        getattr(importlib.import_module(module), function)(trained, path, metadata, calibration)


FLOAT32 = Bounds(probability=1e-5)
FLOAT16 = Bounds(probability=1e-2, equal=0.998)
INT8 = Bounds(equal=0.99, accuracy_lost=0.005)

FORMS = {form.name: form for form in (
    Form("saved_model", "", "TensorFlow's SavedModel, for TensorFlow Serving and without this project's code",
         "tensorflow", None, FLOAT32, "pipeline.export.saved_model:write"),
    Form("keras", "model.keras", "a Keras file, for keras.saving.load_model once pipeline is imported",
         "keras", None, FLOAT32, "pipeline.export.keras_file:write"),
    Form("weights", "model.weights.h5", "the weights alone, for a model made anew with the same options",
         "keras", None, FLOAT32, "pipeline.export.weights_file:write"),
    Form("tflite", "model.tflite", "TFLite (LiteRT) in float32", "litert", "tflite", FLOAT32,
         "pipeline.export.tflite:write_float32"),
    Form("tflite_float16", "model.tflite", "TFLite with float16 weights", "litert", "tflite", FLOAT16,
         "pipeline.export.tflite:write_float16"),
    Form("tflite_dynamic", "model.tflite", "TFLite with int8 weights and float activations", "litert", "tflite",
         INT8, "pipeline.export.tflite:write_dynamic"),
    Form("tflite_int8", "model.tflite", "TFLite in int8 throughout, calibrated on the training split", "litert",
         "tflite", INT8, "pipeline.export.tflite:write_int8"),
    Form("onnx", "model.onnx", "ONNX, for onnxruntime", "onnxruntime", "onnx", FLOAT32,
         "pipeline.export.onnx_file:write"),
)}
