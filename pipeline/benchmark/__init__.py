"""Benchmarks: throughput of the training step over many settings, compared with the ceiling of the machine."""
