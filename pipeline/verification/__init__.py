"""Verification of the product's promises on the user's machine, with their model, data and options.

Steps, streams and checkpoints are those of production; only their results are compared here. `runner` runs the
processes, `part_process` is one with its own strategy, in which `measure` works on an experiment; `killing` kills and
compares runs, `comparison` compares arrays, `report` shows the comparisons. `installation` checks a machine.
"""
