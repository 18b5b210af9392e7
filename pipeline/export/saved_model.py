"""A trained model as TensorFlow's SavedModel: for TensorFlow Serving, and for whoever has TensorFlow alone."""
import os

import tensorflow as tf

from pipeline.errors import UsageError
from pipeline.export.signatures import Serving, signatures
from pipeline.files import read_json, write_json
from pipeline.internals.tensorflow_internals import object_graph
from pipeline.models.identity import described_variables
from pipeline.paths import literal

EXTRA = "assets.extra"  # TensorFlow's name for a folder that it does not look into.
METADATA, VARIABLES = os.path.join(EXTRA, "metadata.json"), os.path.join(EXTRA, "variables.json")
VALUES = os.path.join("variables", "variables")
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # Where a checkpoint keeps which object is whose.
LIST = "variables"  # Attribute of Serving.


def write(trained, path, metadata, calibration=None):
    """Writes a SavedModel, see signatures.Serving and signatures.signatures for what it can be asked.

    Args:
      trained: TrainedModel whose model computes in float32.
      path: of the version's folder, which is made, or filled.
      metadata: dict of JSON types; lies in assets.extra/metadata.json too.
      calibration: not used.

    Raises:
      ValueError: the model does not compute in float32, or a variable of it is not in what was written.
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


def read_variables(path):
    """Reads the variables of a SavedModel without running anything of it.

    Args:
      path: of its folder.

    Returns:
      {name: numpy array}, in the order of the model's variables; names as in identity.variable_names.

    Raises:
      UsageError: there is no SavedModel, or one without names of its variables.
    """
    if not os.path.isfile(os.path.join(path, "saved_model.pb")):
        raise UsageError(f"{path} is no SavedModel: it has no saved_model.pb")
    described = read_json(os.path.join(path, VARIABLES))
    if described is None:
        raise UsageError(f"{path} does not say what its variables are called ({VARIABLES}): it was not written by "
                         "mirrorline export; give a .keras file instead")
    with literal(path) as opened:
        reader = tf.train.load_checkpoint(os.path.join(opened, VALUES))
        return {name: reader.get_tensor(key) for (name, *_), key in zip(described, _keys(reader), strict=True)}


def _keys(reader):
    """Returns the keys of Serving.variables in the checkpoint of a SavedModel, in their order."""
    graph = object_graph(reader.get_tensor(GRAPH))

    def children(node):
        return {child.local_name: graph.nodes[child.node_id] for child in node.children}

    listed = children(children(graph.nodes[0])[LIST])
    return [listed[str(number)].attributes[0].checkpoint_key for number in range(len(listed))]
