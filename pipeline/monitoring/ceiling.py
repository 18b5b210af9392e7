"""The ceiling of a machine: the rate of its fastest large matrix product in a precision, computed by TensorFlow."""
import math
import time

import tensorflow as tf

SIZES = {"CPU": (512, 1024, 2048), "GPU": (2048, 4096, 8192)}
DTYPES = {"float32": "float32", "float64": "float64", "mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}
SLOW = 0.5  # Seconds of one product beyond which no larger one is measured.
QUICK_SIZES = {"CPU": (256, 512, 1024, 2048), "GPU": (2048, 4096)}
QUICK_SECONDS, QUICK_ROUND = 0.25, 0.01


def matrix_product_rate(precision: str, kind: str, seconds: float = 0.3, rounds: int = 5) -> dict[str, float | str]:
    """Measures square matrix products of growing size and returns the fastest.

    Args:
      precision: one of pipeline.config.PRECISIONS; the products are in the dtype its layers compute in.
      kind: "CPU" or "GPU": the first device of that kind computes.
      seconds: length of a round.
      rounds: per size; the fastest counts, since a ceiling is the rate of an undisturbed machine.

    Returns:
      {"matmul_gflops": 1e9 operations/s, 2 n^3 a product; "size": n; "unit": "GFLOP/s"}.
    """
    best = (0.0, 0)
    for size in SIZES[kind]:
        one = product_seconds(size, DTYPES[precision], kind)
        repetitions = max(1, math.ceil(seconds / one))
        fastest = min(product_seconds(size, DTYPES[precision], kind, repetitions)
                      for _ in range(rounds if one < SLOW else 2))
        best = max(best, (2 * size**3 / fastest / 1e9, size))
        if one > SLOW:
            break
    return {"matmul_gflops": best[0], "size": best[1], "unit": "GFLOP/s"}


def quick_matrix_product_rate(precision: str, kind: str, seconds: float = QUICK_SECONDS) -> float:
    """Returns the rate in 1e9 operations/s, measured in rounds of 10 ms: short enough to interrupt a training.

    Args:
      precision, kind: as in `matrix_product_rate`.
      seconds: limit of the whole measurement; only the first product, of the smallest size, may exceed it.
    """
    best, sizes, deadline = 0.0, QUICK_SIZES[kind], time.perf_counter() + seconds
    for number, size in enumerate(sizes):
        until = time.perf_counter() + (deadline - time.perf_counter()) / (len(sizes) - number)
        one = product_seconds(size, DTYPES[precision], kind)
        while True:
            best = max(best, 2 * size**3 / one / 1e9)
            repetitions = max(1, math.ceil(QUICK_ROUND / one))
            if time.perf_counter() + (repetitions + 1) * one > until:
                break
            one = min(one, product_seconds(size, DTYPES[precision], kind, repetitions))
        if time.perf_counter() + 2 * 8 * one > deadline:  # Twice the size is eight times the work, and it runs twice.
            break
    return best


def product_seconds(size: int, dtype: str, kind: str, repetitions: int = 1) -> float:
    """Returns the mean seconds of a product of two matrices of ones, over `repetitions` after a first one."""
    with tf.device(f"{kind}:0"):
        matrix = tf.ones([size, size], dtype)
        tf.matmul(matrix, matrix)[0, 0].numpy()
        began = time.perf_counter()
        for _ in range(repetitions):
            product = tf.matmul(matrix, matrix)
        product[0, 0].numpy()  # Waits for a GPU.
        return (time.perf_counter() - began) / repetitions
