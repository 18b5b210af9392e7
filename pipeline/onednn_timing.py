"""Prints the seconds of a training step of convolutions of ResNet-50's shapes: python -m pipeline.onednn_timing.

Run by pipeline.onednn in a process of its own, with oneDNN and without.
"""
import time

import tensorflow as tf

# [height, channels] of the middle of stages 1, 3 and 4, for 8 images of 112 pixels.
SHAPES = ((28, 64), (7, 256), (4, 512))
IMAGES, ROUNDS = 8, 7


def seconds() -> float:
    """Returns the fastest of ROUNDS forward and backward passes, in seconds."""
    images = [tf.random.stateless_normal([IMAGES, size, size, channels], (0, 1)) for size, channels in SHAPES]
    kernels = [tf.random.stateless_normal([3, 3, channels, channels], (0, 2)) for _, channels in SHAPES]

    def step():
        for image, kernel in zip(images, kernels, strict=True):
            out = tf.nn.conv2d(image, kernel, 1, "SAME")
            of = {"out_backprop": out, "strides": [1, 1, 1, 1], "padding": "SAME"}
            tf.raw_ops.Conv2DBackpropInput(input_sizes=image.shape, filter=kernel, **of)
            tf.raw_ops.Conv2DBackpropFilter(input=image, filter_sizes=kernel.shape, **of)

    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        step()
        found.append(time.perf_counter() - began)
    return min(found)


if __name__ == "__main__":
    print(seconds())
