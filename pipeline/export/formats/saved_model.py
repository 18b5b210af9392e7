"""A trained model as TensorFlow's SavedModel: for TensorFlow Serving, and for users of TensorFlow alone."""
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.choices import EXPORT_FORMATS
from pipeline.errors import UsageError
from pipeline.export.export_format import ExportFormat
from pipeline.export.signatures import Serving, signatures
from pipeline.files import read_json, write_json
from pipeline.internals.tensorflow_internals import object_graph
from pipeline.models.identity import described_variables
from pipeline.paths import PATTERN, literal

# Imports inside functions: each runtime is loaded in a process that needs no other.

EXTRA = "assets.extra"  # TensorFlow's name for a folder that it does not read.
METADATA, VARIABLES = os.path.join(EXTRA, "metadata.json"), os.path.join(EXTRA, "variables.json")
VALUES = os.path.join("variables", "variables")
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # Key of a checkpoint's object graph.
LIST = "variables"  # Attribute of Serving.


@EXPORT_FORMATS.built_in(
    "saved_model", summary="TensorFlow's SavedModel, for TensorFlow Serving and without this project's code")
class SavedModel(ExportFormat):
    """TensorFlow's SavedModel; see signatures.Serving and signatures.signatures for its functions."""

    runtime = "tensorflow"
    decodes_files = True
    usage = """\
It needs TensorFlow alone (`pip install tensorflow`).

```python
import numpy as np
import tensorflow as tf

loaded = tf.saved_model.load(".")  # This folder.
images = np.zeros((1, {{ array }}), np.float32)  # Yours: any number of them, values in 0..1.
found = loaded.signatures["serving_default"](image=tf.constant(images))
print(found["class_names"].numpy(), found["probabilities"].numpy())
```

{% if shape[-1] in (1, 3) %}
`serving_uint8` takes images in 0..255, and `serving_bytes` takes image files as they are:

```python
image = tf.io.encode_png(np.zeros(({{ array }}), np.uint8)).numpy()  # Yours: open("photo.jpg", "rb").read()
found = loaded.signatures["serving_bytes"](image_bytes=tf.constant([image]))
print(found["class_names"].numpy())
```
{% else %}
`serving_uint8` takes images in 0..255.
{% endif %}
"""

    def write(self, trained: Any, path: str, metadata: dict, calibration: np.ndarray | None = None) -> None:
        """See ExportFormat; the metadata is in assets.extra/metadata.json too.

        Raises:
          ValueError: the model does not compute in float32, or a variable of it is missing in what was written.
        """
        tf.saved_model.save(Serving(trained, metadata), path, signatures=signatures(trained))
        os.makedirs(os.path.join(path, EXTRA), exist_ok=True)
        write_json(os.path.join(path, METADATA), metadata)
        described = described_variables(trained.model)
        write_json(os.path.join(path, VARIABLES), described)
        with literal(path) as opened:
            reader = tf.train.load_checkpoint(os.path.join(opened, VALUES))
            shapes, keys = reader.get_variable_to_shape_map(), _keys(reader)
        missing = [name for (name, shape, _), key in zip(described, keys, strict=True) if shapes.get(key) != shape]
        if missing:
            raise ValueError(f"variables are missing in {path}: {', '.join(missing)}")

    @staticmethod
    def load(path: str, threads: int, signature: str = "serving_default") -> tuple[Callable, Callable]:
        """See ExportFormat; `signature` is one of signatures.signatures, whatever it takes."""
        import os

        import numpy as np
        import tensorflow as tf

        def literal(folder):  # TensorFlow takes brackets and backslashes for a pattern, and finds no files.
            opened = f"/proc/self/fd/{os.open(folder, os.O_RDONLY)}"  # Until this process ends.
            return opened if os.path.isdir(opened) else folder

        loaded = tf.saved_model.load(literal(path))
        function = loaded.signatures[signature]  # Holds no reference to the model that it is of.
        (name, spec), = function.structured_input_signature[1].items()

        def prepare(images):
            if spec.dtype == tf.string:  # Image files, without loss.
                return tf.constant([tf.io.encode_png(image).numpy() for image in images])
            return tf.constant(images if spec.dtype == tf.uint8 else np.float32(images) / np.float32(255))

        def compute(batch, _keep=loaded):
            return function(**{name: batch})["probabilities"].numpy()

        return prepare, compute

    def read_variables(self, path: str) -> dict[str, np.ndarray]:
        """See ExportFormat; nothing of the model is run."""
        if not os.path.isfile(os.path.join(path, "saved_model.pb")):
            raise UsageError(f"{path} is no SavedModel: it has no saved_model.pb")
        described = read_json(os.path.join(path, VARIABLES))
        if described is None:
            raise UsageError(f"{path} does not name its variables ({VARIABLES}): it was not written by mirrorline "
                             "export; give a .keras file instead")
        with literal(path) as opened:
            reader = tf.train.load_checkpoint(os.path.join(opened, VALUES))
            return {name: reader.get_tensor(key) for (name, *_), key in zip(described, _keys(reader), strict=True)}

    def remark(self, output: str) -> str | None:
        """Returns a note about a path that TensorFlow cannot load from."""
        if not PATTERN.intersection(os.path.abspath(output)):
            return None
        return ("TensorFlow takes brackets, backslashes, * and ? in a path for a pattern: move the SavedModel to a "
                "path without them before others load it")


def _keys(reader: Any) -> list[str]:
    """Returns the keys of Serving.variables in the checkpoint of a SavedModel, in their order."""
    graph = object_graph(reader.get_tensor(GRAPH))

    def children(node):
        return {child.local_name: graph.nodes[child.node_id] for child in node.children}

    listed = children(children(graph.nodes[0])[LIST])
    return [listed[str(number)].attributes[0].checkpoint_key for number in range(len(listed))]
