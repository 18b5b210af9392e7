"""Figures of a model on data: exact sums, classes, intervals."""
