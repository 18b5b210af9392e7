"""Histograms of weights and gradients (--histograms_every)."""
import numpy as np
import tensorflow as tf

from pipeline.monitoring.events import histogram_value


def histogram_values(experiment, step):
    """Computes the histograms of all trained variables and of their gradients in the step after `step`.

    The gradients are those of that step's batch, reduced over the replicas and clipped, from a stream of their own:
    nothing that training goes on with is touched.

    Args:
      experiment: Experiment.
      step: global step.

    Returns:
      A list of Summary.Values with the tags weights/PATH and gradients/PATH; none for a tensor without finite values.
    """
    steps = experiment.steps
    gradients, _ = steps.reduced_gradients(steps.input_distributor.iterator(experiment.train_dataset(step)))
    found = []
    for variable, gradient in zip(experiment.state.model.trainable_variables, gradients, strict=True):
        for kind, tensor in (("weights", variable.value), ("gradients", gradient)):
            values = tf.convert_to_tensor(tensor).numpy()
            if np.isfinite(values).any():
                found.append(histogram_value(f"{kind}/{variable.path}", values))
    return found
