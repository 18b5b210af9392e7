"""How a form is loaded, in code that runs as it stands in the folder of its model card."""
CODE = {
    "saved_model": """
import numpy as np
import tensorflow as tf

loaded = tf.saved_model.load(".")  # This folder.
images = np.zeros((1, {shape}), np.float32)  # Yours: any number of them, values in 0..1.
found = loaded.signatures["serving_default"](image=tf.constant(images))
print(found["class_names"].numpy(), found["probabilities"].numpy())
""",
    "bytes": """
picture = tf.io.encode_png(np.zeros(({shape}), np.uint8)).numpy()  # Yours: open("photo.jpg", "rb").read()
found = loaded.signatures["serving_bytes"](image_bytes=tf.constant([picture]))
print(found["class_names"].numpy())
""",
    "keras": """
import keras
import numpy as np
import pipeline.models.registry  # Of Mirrorline: the layers that the file is made of.

model = keras.saving.load_model("model.keras")
images = np.zeros((1, {shape}), np.float32)  # Yours: any number of them, values in 0..1.
probabilities = np.array(model(images))
print([model.class_names[i] for i in probabilities.argmax(axis=1)])
""",
    "weights": """
import numpy as np
from pipeline.export.weights_file import load  # Of Mirrorline.

model = load("model.weights.h5")
images = np.zeros((1, {shape}), np.float32)  # Yours: any number of them, values in 0..1.
probabilities = np.array(model(images))
print([model.class_names[i] for i in probabilities.argmax(axis=1)])
""",
    "tflite": """
import json
import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter("model.tflite")
(taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
images = np.zeros((1, {shape}), {dtype})  # Yours: any number of them, values in {span}.
interpreter.resize_tensor_input(taken["index"], images.shape)
interpreter.allocate_tensors()
interpreter.set_tensor(taken["index"], images)
interpreter.invoke()
probabilities = {probabilities}
with open("metadata.json") as file:
    names = json.load(file)["class_names"]
print([names[i] for i in probabilities.argmax(axis=1)])
""",
    "onnx": """
import json
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
images = np.zeros((1, {shape}), np.float32)  # Yours: any number of them, values in 0..1.
probabilities, = session.run(["probabilities"], {{"image": images}})
with open("metadata.json") as file:
    names = json.load(file)["class_names"]
print([names[i] for i in probabilities.argmax(axis=1)])
"""}
NEEDS = {"saved_model": "TensorFlow alone is needed (`pip install tensorflow`).",
         "keras": "It needs Mirrorline to be installed, whose layers it is made of.",
         "weights": "It needs Mirrorline to be installed, which makes the model that the weights belong to.",
         "tflite": "It needs `pip install ai-edge-litert` and nothing else.",
         "onnx": "It needs `pip install onnxruntime` and nothing else."}


def loading(form, metadata):
    """Returns Markdown that says how a form is loaded: sentences, and Python in fenced blocks.

    Args:
      form: Form.
      metadata: see metadata.metadata.
    """
    kind, shape = form.name.partition("_")[0] if form.runtime == "litert" else form.name, metadata["image_shape"]
    parts = [NEEDS[kind] + _extension(form, metadata), block(kind, shape, form.name == "tflite_int8")]
    if kind == "saved_model":
        others = ("`serving_uint8` takes images in 0..255" +
                  (", and `serving_bytes` takes files of pictures as they are:" if shape[-1] in (1, 3) else "."))
        parts += [others, *([block("bytes", shape)] if shape[-1] in (1, 3) else [])]
    return "\n\n".join(parts)


def block(kind, shape, quantized=False):
    """Returns a fenced block of Python for images [H, W, C] of a shape."""
    tensor = 'interpreter.get_tensor(given["index"])'
    code = CODE[kind].format(
        shape=", ".join(map(str, shape)), dtype="np.uint8" if quantized else "np.float32",
        span="0..255" if quantized else "0..1",
        probabilities=f'{tensor} * np.float32(given["quantization"][0])' if quantized else tensor)
    return f"```python\n{code.strip()}\n```"


def _extension(form, metadata):
    """Says what else is needed where the model's class is a user's own."""
    names = metadata["config"].get("extension") or ()
    if form.runtime != "keras" or not names:
        return ""
    return f" Import {', '.join(f'`{name}`' for name in names)} first, where the model is defined."
