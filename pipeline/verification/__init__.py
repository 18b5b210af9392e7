"""The user's own proof: what the pipeline promises, compared on their machine with their model, data and options.

Nothing here computes a step, a stream or a checkpoint of its own: the production ones run, and this compares what they
gave. `measure` works on an experiment inside the one process that its strategy needs, `processes` and `killing` start
and end other processes, `comparison` turns arrays into rows, `report` shows the rows.
"""
