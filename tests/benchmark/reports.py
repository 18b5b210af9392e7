"""Reports as benchmark.json holds them, with plausible figures."""
import itertools

from pipeline.benchmark import projection
from pipeline.benchmark.derived import derive

SPEED = {"float32": 1.0, "mixed_bfloat16": 0.52, "mixed_float16": 0.06}
ON_GPU = {"float32": 1.0, "mixed_bfloat16": 1.71, "mixed_float16": 1.83}
SPREAD = (0.97, 0.99, 1.0, 1.008, 1.021)


def cell(model="cnn", image_size="28x28x1", precision="float32", replicas=1, batch_size=64, xla="off", gpu=False,
         rate=None, workers=1, **other):
    """Returns one measured cell; `other` replaces what it holds."""
    speed = (ON_GPU if gpu else SPEED)[precision]
    size = other.get("fitted_batch_size") or batch_size
    if rate is None:
        count = workers * replicas
        rate = (24_000.0 * count * 0.96 ** (count - 1) if gpu else 880.0 * 0.97 ** (count - 1)) * speed
        rate *= size / (size + 6 * replicas) * (1.12 if xla == "on" else 1.0)
    step = 1e3 * size / rate
    shares = (0.3, 0.55, 0.02 * replicas, 0.04, 0.09 - 0.02 * replicas)
    return {
        "model": model, "image_size": image_size, "precision": precision, "workers": workers, "replicas": replicas,
        "batch_size": batch_size, "xla": xla, "status": "ok", "error": None, "fitted_batch_size": size,
        "emulated": not gpu and precision != "float32", "note": None, "examples_per_second": rate,
        "spread": [SPREAD[0] * rate, SPREAD[-1] * rate], "repeats": [factor * rate for factor in SPREAD],
        "examples_per_second_per_replica": rate / replicas / workers,
        "step_ms": {"p50": step, "p90": 1.06 * step, "p99": 1.31 * step}, "synthetic_examples_per_second": 1.013 * rate,
        "input_wait_share": 0.013,
        "split_ms": dict(zip(("forward", "backward", "reduction", "update", "rest"), (s * step for s in shares),
                             strict=True)),
        "trace_seconds": 2.41, "compile_seconds": 7.7 if xla == "on" else None, "first_step_seconds": 9.8,
        "peak_memory_mib": {"host": 790.0 + 1.1 * size, "device": 900.0 + 7.7 * size if gpu else None},
        "gradient_bytes": 4_388_392, "reduced_bytes": 4_390_212, "flops_per_example": 2.13e8,
        "statistics_reductions": {"count": 18, "bytes": 24_648},
        "slowest_worker": {"rank": workers - 1, "examples_per_second": 0.99 * rate,
                           "step_ms": {"p50": 1.01 * step, "p90": 1.07 * step, "p99": 1.33 * step}}
        if workers > 1 else None, **other}


def failed(error="ResourceExhaustedError: out of memory", status="failed", **key):
    """Returns a cell that failed."""
    names = ("model", "image_size", "precision", "workers", "replicas", "batch_size", "xla")
    nothing = dict.fromkeys(set(cell()) - set(names))
    return {**{name: cell(**key)[name] for name in names}, **nothing, "status": status, "error": error}


def sweep(precisions=("float32",), replicas=(1,), batches=(64,), xla=("off",), workers=(1,), **other):
    """Returns a cell for every combination."""
    return [cell(precision=p, workers=w, replicas=n, batch_size=b, xla=x, **other)
            for p, w, n, b, x in itertools.product(precisions, workers, replicas, batches, xla)]


def report(cells, gpus=(), most=None, **other):
    """Returns a whole report, its cells derived, with a projection to `most` replicas."""
    ceilings = {name: {"matmul_gflops": 251.0 * (200 if gpus else 1) * factor, "size": 2048, "unit": "GFLOP/s"}
                for name, factor in (ON_GPU if gpus else SPEED).items()}
    derive(cells, ceilings)
    chosen = projection.choose(cells)
    return {
        "schema": 1, "created": "2026-03-14T09:26:53Z", "complete": True,
        "command": "mirrorline benchmark --model=cnn --batch_sizes=16,64",
        "machine": {"cpu": "Intel(R) Xeon(R) Platinum 8481C", "cores": 2, "memory_gib": 23.4, "gpus": list(gpus),
                    "system": "Linux-6.1-x86_64", "features": ["avx2", "avx512f"]},
        "versions": {"mirrorline": "0.3.0", "python": "3.11.9", "tensorflow": "2.21.0", "keras": "3.15.1",
                     "numpy": "2.4.6"},
        "flags": {"dataset": "mnist", "augment": ["flip", "crop:3"]}, "ceilings": ceilings, "cells": cells,
        "projection": projection.project(chosen, most) if most and chosen else None, **other}
