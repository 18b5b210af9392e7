"""Metrics of a model: exact sums over examples, metrics by class, confidence intervals."""
