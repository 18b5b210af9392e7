"""ONNX, for onnxruntime and every other runtime that reads it.

tf2onnx folds a batch normalization into the convolution before it, unless images are so small that the convolution's
output is a single pixel, and drops what does nothing at inference.
"""
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.choices import EXPORT_FORMATS
from pipeline.export.export_format import ExportFormat
from pipeline.export.frozen import cannot_convert, freeze, quiet_converter
from pipeline.export.signatures import without_compiled_calls
from pipeline.files import plain, write_bytes

# Imports inside functions: each runtime is loaded in a process that needs no other.

OPSET = 17  # Of 2022: read by every runtime in use, and the newest but one that tf2onnx writes.
METADATA = "mirrorline"


@EXPORT_FORMATS.built_in("onnx", summary="ONNX, for onnxruntime")
class Onnx(ExportFormat):
    """A model of `image`, float32 [n, H, W, C] in 0..1, to `probabilities`, float32 [n, classes]."""

    file = "model.onnx"
    runtime = "onnxruntime"
    requirements = ("tf2onnx", "onnx", "onnxruntime")
    install = "mirrorline[onnx]"
    library = "onnx"
    usage = """\
It needs `pip install onnxruntime` and nothing else.

```python
import json
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
images = np.zeros((1, {{ array }}), np.float32)  # Yours: any number of them, values in 0..1.
probabilities, = session.run(["probabilities"], {"image": images})
with open("metadata.json") as file:
    names = json.load(file)["class_names"]
print([names[i] for i in probabilities.argmax(axis=1)])
```
"""

    def write(self, trained: Any, path: str, metadata: dict, calibration: np.ndarray | None = None) -> None:
        """See ExportFormat; the metadata is JSON in a property of the model, see `read_metadata`."""
        self.check_requirements()
        import onnx  # Optional.
        # Of a graph that is not frozen tf2onnx makes every captured tensor an input of the file.
        model = _convert(freeze(trained, lower_control_flow=False), (None, *trained.image_shape))
        unknown = [node.op_type for node in _nodes(model.graph) if not onnx.defs.has(node.op_type, node.domain)]
        if unknown:
            raise cannot_convert(self.name, unknown, "ONNX")
        onnx.helper.set_model_props(model, {METADATA: json.dumps(plain(metadata), allow_nan=False)})
        onnx.checker.check_model(model)
        write_bytes(path, model.SerializeToString())

    @staticmethod
    def load(path: str, threads: int) -> tuple[Callable, Callable]:
        """See ExportFormat."""
        import numpy as np
        import onnxruntime
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return (lambda images: np.float32(images) / np.float32(255),
                lambda batch: session.run(["probabilities"], {name: batch})[0])


def read_metadata(path: str) -> dict | None:
    """Returns the metadata in a file; None where there is none."""
    import onnx  # Optional.
    properties = {p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}
    return json.loads(properties[METADATA]) if METADATA in properties else None


def _convert(frozen: Any, shape: tuple) -> Any:
    """Returns the ModelProto of a frozen function of images of a shape, its first axis of any length."""
    image = tf.TensorSpec(shape, tf.float32, name="image")
    with quiet_converter():
        from tf2onnx import convert
        model, _ = convert.from_function(without_compiled_calls(frozen, image), [image], opset=OPSET,
                                         custom_op_handlers={"Erfc": (_write_erfc, [])})
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def _write_erfc(graph: Any, node: Any, *_: Any) -> None:
    """Writes erfc(x), of TensorFlow's exact GELU, as 1 - erf(x), which ONNX has; see tf2onnx's custom_op_handlers."""
    shape, dtype = graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    graph.remove_node(node.name)
    one = graph.make_const(f"{node.name}/one", np.ones([], np.float32)).output[0]
    erf = graph.make_node("Erf", node.input, shapes=[shape], dtypes=[dtype]).output[0]
    graph.make_node("Sub", [one, erf], name=node.name, outputs=node.output, shapes=[shape], dtypes=[dtype])


def _nodes(graph: Any) -> Iterator[Any]:
    """Yields the nodes of a graph, those of its branches and loops among them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
