"""The table of metrics that an evaluation computes beside loss and accuracy. Standard library only."""
from pipeline.registry import Registry

# Each a function of (logits [B, classes] float, label [B] int32) to a value for each example, float [B]; the figure is
# the mean over all examples of the split, from a float64 sum.
METRICS = Registry("metric", {})
