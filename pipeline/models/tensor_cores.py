"""Which sizes of a model keep products in half precision off the Tensor Cores of GPUs.

NVIDIA's Deep Learning Performance Guide ("Matrix Multiplication", "Tensor Core Requirements"): both sizes of a matrix
have to be multiples of 16 bytes, 8 values of 16 bits; cuBLAS and cuDNN since version 11 and 7.6.3 pad others or compute
them less efficiently.
"""
import math
from typing import Any

import keras

from pipeline.internals.keras_internals import layers_of

MULTIPLE = 8  # Values of 16 bits.
HALF = ("mixed_float16", "mixed_bfloat16")


def misses(layer: Any, inside: bool) -> str:
    """Returns the channels and units of a layer that are no multiple of MULTIPLE, as text: "in 3", "in 9, out 10".

    Args:
      layer: built; layers that compute no product of matrices miss nothing.
      inside: whether to look at the layers inside of it too, whose names are added: "conv1 in 3; classifier out 10".
    """
    inner = [one for one in layers_of(layer) if one is not layer] if inside else []
    found = [(one.name, _of_layer(one)) for one in inner]
    return "; ".join([_of_layer(layer), *(f"{name} {text}" for name, text in found if text)]).removeprefix("; ")


def _of_layer(layer):
    """Returns what one layer itself misses, as `misses` does."""
    sizes = _sizes(layer)
    return ", ".join(f"{name} {size}" for name, size in zip(("in", "out"), sizes, strict=False) if size % MULTIPLE)


def _sizes(layer):
    """Returns (inputs, outputs) of the product of matrices that a layer computes for each group, () for none."""
    if isinstance(layer, (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)):
        *_, inputs, outputs = layer.kernel.shape
        return inputs, outputs // layer.groups
    if isinstance(layer, (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)):
        return layer.pointwise_kernel.shape[-2:]
    if isinstance(layer, keras.layers.Dense):
        return tuple(layer.kernel.shape)
    if isinstance(layer, keras.layers.EinsumDense):
        inputs, outputs = layer.equation.split("->")
        axes = dict(zip(inputs.split(",")[1], layer.kernel.shape, strict=True))
        return (math.prod(size for axis, size in axes.items() if axis not in outputs),
                math.prod(size for axis, size in axes.items() if axis in outputs))
    return ()
