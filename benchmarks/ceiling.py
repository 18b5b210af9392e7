"""The machine's ceiling: its largest matrix product, and a model's convolutions alone."""
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.gate import Gate

PRODUCT_SIZES = (1024, 2048, 4096)
PRODUCT_SECONDS = 0.6


def measure_product(multiply: Callable[[], Any], size: int) -> float:
    """Returns the GFLOP/s of a product of two [size, size] matrices: the median over some time.

    Args:
      multiply: computes one product, and returns when it is done.
      size: of the matrices.
    """
    multiply()
    rates, end = [], time.monotonic() + PRODUCT_SECONDS
    while time.monotonic() < end or len(rates) < 3:
        began = time.perf_counter()
        multiply()
        rates.append(2 * size**3 / (time.perf_counter() - began) / 1e9)
    return statistics.median(rates)


def run(order: Mapping[str, Any], gate: Gate) -> None:
    """Answers "product" with the GFLOP/s of a matrix product, "convolutions" with the seconds of those of a step."""
    import tensorflow as tf

    from benchmarks import keras_models
    workload = order["workload"]
    layers = keras_models.convolutions(workload.model, workload.image_shape)
    kernels = step_kernels(layers, workload.batch_size)

    def product(size):
        a, b = tf.random.uniform([size, size]), tf.random.uniform([size, size])
        return {"gflops": measure_product(lambda: tf.linalg.matmul(a, b).numpy(), size)}

    def convolutions(repeats):
        return {"seconds": sum(count * seconds_alone(compute, repeats) for compute, count in kernels)}

    gate.on("product", product)
    gate.on("convolutions", convolutions)
    gate.send(operations=keras_models.step_operations(layers), convolutions=len(layers))
    gate.serve()


def seconds_alone(compute: Callable[[], Any], repeats: int) -> float:
    """Returns the shortest of some measurements of a kernel."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def step_kernels(layers: Sequence[Mapping[str, Any]], batch_size: int) -> list[tuple[Callable[[], Any], int]]:
    """Returns [(function that computes one kernel, how often a step needs it)] of a model's convolutions.

    Args:
      layers: what keras_models.convolutions returned.
      batch_size: examples a step.
    """
    import tensorflow as tf
    counts = {}
    for layer in layers:
        on_image = layer["input"] == layers[0]["input"]  # Whose gradient is not computed.
        key = (layer["input"], layer["kernel"], layer["strides"], layer["padding"], layer["output"], on_image)
        counts[key] = counts.get(key, 0) + 1
    kernels = []
    for (inputs, kernel, strides, padding, outputs, on_image), count in counts.items():
        x, w, y = (tf.random.uniform(shape) for shape in ([batch_size, *inputs], kernel, [batch_size, *outputs]))
        settings = {"strides": [1, strides, strides, 1], "padding": padding}
        kernels.append((lambda x=x, w=w, s=settings: tf.raw_ops.Conv2D(input=x, filter=w, **s).numpy(), count))
        kernels.append((lambda x=x, y=y, k=kernel, s=settings: tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=k, out_backprop=y, **s).numpy(), count))
        if not on_image:
            kernels.append((lambda w=w, y=y, n=(batch_size, *inputs), s=settings: tf.raw_ops.Conv2DBackpropInput(
                input_sizes=n, filter=w, out_backprop=y, **s).numpy(), count))
    return kernels
