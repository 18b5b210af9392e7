"""Devices, replicas and workers: the strategy of a run, its reduction, and what several workers agree on."""
