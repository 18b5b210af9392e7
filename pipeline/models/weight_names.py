"""What a model's variables are called by those who take them over or freeze them, and which layer is its head."""
from pipeline.models.identity import variable_names
from pipeline.models.recording import record_calls


def named(model):
    """Returns {name: keras.Variable} of a model's float variables, in order; integers belong to the run, not to it.

    A name is the path within the model: "block1/norm/gamma", without the model's own name.
    """
    pairs = zip(variable_names(model), model.variables, strict=True)
    return {name.removeprefix(f"{model.name}/"): variable for name, variable in pairs if is_float(variable)}


def is_float(variable):
    """Tells whether a variable or an array holds float numbers."""
    return "float" in str(variable.dtype)


def names_in(layer, variables):
    """Returns the names of a layer's variables among {name: keras.Variable}, a set."""
    inside = {id(v) for v in layer.variables}
    return {name for name, variable in variables.items() if id(variable) in inside}


def layer_of(name):
    """Returns the path of the layer that a variable is in; its own name for one that lies in the model itself."""
    return name.rpartition("/")[0] or name


def head(model, image_shape):
    """Returns the last layer with weights that a model calls: what makes logits of features.

    Args:
      model: built keras.Model over images.
      image_shape: (height, width, channels) of its images.
    """
    return [call.layer for call in record_calls(model, image_shape).calls
            if call.layer and call.is_leaf and call.layer.weights][-1]
