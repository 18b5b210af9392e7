"""The gradients of 1x1 convolutions as products of matrices: python -m benchmarks.pointwise [--rounds=15].

TensorFlow's kernels for the gradients of a convolution beside the layer's own (pipeline.models.layers), in turns, for
shapes of ResNet-50 and EfficientNetV2-B0 on images of 64x64, batch 32. Prints a table in Markdown.
"""
import argparse
import time
from collections.abc import Callable

import tensorflow as tf

from benchmarks.ratios import median_ratio
from pipeline.models.layers import pointwise_convolution

BATCH, CALLS = 32, 5
# (height and width, channels, filters).
SHAPES = ((16, 64, 256), (8, 512, 128), (4, 1024, 256), (2, 2048, 512), (4, 112, 672), (2, 1152, 192), (1, 672, 28))


def gradients(convolve: Callable, size: int, channels: int, filters: int) -> Callable[[], tuple]:
    """Returns a function that computes both gradients of a convolution of random numbers."""
    x, dy = (tf.random.stateless_normal((BATCH, size, size, last), (0, last)) for last in (channels, filters))
    kernel = tf.random.stateless_normal((1, 1, channels, filters), (0, 0))

    @tf.function(autograph=False)
    def computed(x, kernel, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = convolve(x, kernel)
        return tape.gradient(y, [x, kernel], dy)

    return lambda: computed(x, kernel, dy)


def seconds(function: Callable) -> float:
    """Returns the time of CALLS calls."""
    began = time.perf_counter()
    for _ in range(CALLS):
        found = function()
    found[0].numpy()
    return time.perf_counter() - began


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    print("| maps | channels to filters | speed of products over that of TensorFlow's kernels |\n|---|---|---|")
    for size, channels, filters in SHAPES:
        pair = [gradients(convolve, size, channels, filters) for convolve in (
            lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "VALID"), pointwise_convolution)]
        times: list[list[float]] = [[], []]
        for function in pair:
            function()
        for number in range(rounds):
            for k in ((0, 1), (1, 0))[number % 2]:
                times[k].append(seconds(pair[k]))
        ratio = median_ratio(*times)
        print(f"| {size}x{size} | {channels} to {filters} | {ratio['median']:.2f} ({ratio['low']:.2f} to "
              f"{ratio['high']:.2f}) |", flush=True)


if __name__ == "__main__":
    main()
