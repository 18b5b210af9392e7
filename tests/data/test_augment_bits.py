"""Augmentations give the same bits wherever and however they are computed, and as in earlier versions."""
import functools
import hashlib

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from pipeline.augmentation import Augmentation
from pipeline.choices import AUGMENTATIONS
from pipeline.data import augment
from pipeline.data.augment.kernels import by_value
from tests.selection import quick

SHAPES = ((8, 8, 1), (32, 32, 3), (33, 47, 3))
# SHA-256 of images and shares for each of SHAPES, as of the first version of each augmentation.
DIGESTS = {
    "flip": ("59cc8edf3fd5", "ab2075f3d198", "df3cf3ae13f3"),
    "flip:0.2": ("a7cf36708441", "8447a0b52b2c", "9eb9c60d50dd"),
    "crop": ("4466b67497b6", "1d8b8ac7bd19", "89c2b35965fd"),
    "crop:2": ("ca88ad3e3bde", "d404425294f5", "06833b6a7c6b"),
    "color": ("91f4e49bc86b", "1291d400d028", "78e344863bf1"),
    "color:0.9": ("a4abc83f1557", "09a320d8ebca", "46e3e104009f"),
    "rotate": ("ddd0f484128a", "97fb4cd5a5dd", "0604a4d69894"),
    "rotate:90": ("05cdd9a4c7df", "2975b08b1026", "477f2733176d"),
    "cutout": ("f1efe18b0f72", "5d6dcfb1e88f", "66bd377483a2"),
    "cutout:3": ("3fe11c7493f5", "e89c6d847b09", "e22cb3405245"),
    "mixup:1": ("d61405365640", "850e09cfee32", "f95edd29a3ce"),
    "cutmix": ("e733e63cc3b9", "bbeb61747606", "8fbca70e2ce4"),
    "randaugment": ("1647f491aadd", "2da4e84d4603", "b7c9bbf4d8ac"),
    "randaugment:4.3": ("29f725dbbfc2", "d4d8ad1a3e69", "e6b1c03188a6"),
    "trivialaugment": ("71ccb47b0b80", "96b1604ca065", "73aba6fa10ad"),
    "erasing": ("41bf3f0bc124", "44dc1f9d566a", "d136327de0a6"),
    "grayscale": ("bc0d375ed2a8", "14169d07f612", "d77cda35f165"),
    "blur": ("dfc660ec0bf8", "c688f9243d8d", "e14c6b14ea7d"),
    "mixup:1,cutmix:2": ("b1fc02931112", "fcd97a1bda82", "3d90e4ffee7e"),
}
FIRST = 2**33  # More than 32 bits of a position count.


def images_of(shape, count=32):
    draws = np.random.RandomState(sum(shape))
    first = draws.randint(0, 256, (count, 1, 1, shape[2]))
    return np.clip(first + np.cumsum(draws.randint(-12, 13, (count, *shape)), axis=2), 0, 255).astype(np.uint8)


def augmented(images, *texts, device="CPU:0", seed=3, first=FIRST):
    """Returns (images, shares or an empty array), in a graph whose operations are placed on a device; None: eagerly."""
    def compute(images, positions):
        with tf.device(device):
            found, mix = augment.apply(images, positions, seed, tuple(map(Augmentation.parse, texts)))
        return found, tf.zeros([0]) if mix is None else mix

    positions = tf.range(first, first + len(images), dtype=tf.int64)
    compute = tf.function(compute, autograph=False) if device else compute
    return tuple(value.numpy() for value in compute(tf.constant(images), positions))


@pytest.mark.parametrize("text", DIGESTS)
def test_bits_are_those_of_earlier_versions(text):
    found = [augmented(images_of(shape), *text.split(","), device=None) for shape in SHAPES]
    assert tuple(hashlib.sha256(a.tobytes() + b.tobytes()).hexdigest()[:12] for a, b in found) == DIGESTS[text]


@functools.cache
def everything_on_gpus(shape):
    """Returns the function that applies every augmentation to 8 images where there is a GPU, traced."""
    @tf.function(autograph=False)
    def compute(images, positions):
        with tf.device("GPU:0"):
            return augment.apply(images, positions, 3, [Augmentation(name, None) for name in AUGMENTATIONS])

    return compute.get_concrete_function(tf.TensorSpec([8, *shape], tf.uint8), tf.TensorSpec([8], tf.int64))


# Images of whole words and not, of one channel and of several.
EACH_LAYOUT = quick([((32, 32, 3),), ((8, 8, 1),), ((33, 47, 3),)], 0)


@pytest.mark.parametrize("shape", EACH_LAYOUT)
def test_what_is_computed_for_gpus_gives_the_same_bits(shape):
    images = images_of(shape, 8)
    # Without a GPU TensorFlow runs these operations on the CPU.
    found = everything_on_gpus(shape)(tf.constant(images), tf.range(FIRST, FIRST + 8, dtype=tf.int64))
    for one, other in zip(found, augmented(images, *AUGMENTATIONS, device=None), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", EACH_LAYOUT)
def test_every_operation_has_a_kernel_on_gpus(shape):
    """TensorFlow would copy the images to the host for any other."""
    if not any(kernel.device_type == "GPU" for kernel in kernels.get_registered_kernels_for_op("MatMul").kernel):
        pytest.skip("this TensorFlow has no kernels for GPUs")
    definition = everything_on_gpus(shape).graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    seen = {f"{node.op} {[tf.as_dtype(t).name for t in types_of(node)]}": node for node in nodes}
    assert [name for name, node in seen.items() if not has_gpu_kernel(node)] == []


def types_of(node):
    return [t for _, value in sorted(node.attr.items()) for t in (value.type, *value.list.type) if t]


def has_gpu_kernel(node):
    def takes(kernel):
        return all({value.type, *value.list.type} <= {0, *constraint.allowed_values.list.type}
                   for constraint in kernel.constraint for value in [node.attr[constraint.name]])
    return any(kernel.device_type in ("GPU", "DEFAULT") and takes(kernel)
               for kernel in kernels.get_registered_kernels_for_op(node.op).kernel)


def test_a_large_batch_is_computed_in_parts_with_the_same_bits():
    texts, images = ("flip", "color", "cutmix"), images_of((140, 130, 3), 18)
    whole = augmented(images, *texts)
    for first, size in ((2, 2), (4, 14)):  # The whole is computed in parts of 6, 14 in one.
        part = augmented(images[first:first + size], *texts, first=FIRST + first)
        for found, expected in zip(part, whole, strict=True):
            np.testing.assert_array_equal(found, expected[first:first + size])


@pytest.mark.parametrize("function", [tf.cos, tf.sin, tf.exp])
def test_a_function_by_value_does_not_depend_on_the_place(function):
    values = tf.constant(np.random.RandomState(0).rand(300).astype(np.float32))
    whole = by_value(function, values).numpy()
    for first, size in ((0, 1), (0, 7), (100, 13), (292, 8)):
        np.testing.assert_array_equal(by_value(function, values[first:first + size]), whole[first:first + size])
