"""Hyper-parameters for TensorBoard's tab HParams: the options that change the mathematics, and how the run ended."""
from typing import Any

import tensorflow as tf
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata, summary
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import SessionStartInfo

from pipeline.config import ExperimentConfig, options
from pipeline.options import FREE

START, END = metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG


def hyperparameters(config: ExperimentConfig, plan: Any, replicas: int) -> dict[str, bool | float | int | str]:
    """Returns {name: value} of a run.

    Args:
      config: options that may change when a run is resumed, such as paths, are no hyper-parameters.
      plan: Plan; the length is given in steps and in epochs, whichever was asked for.
      replicas: in sync.
    """
    found = {name: ",".join(value) if isinstance(value, tuple) else value for name, value in config.flat().items()
             if options()[name].metadata["resume"] != FREE and value is not None}
    return {**found, "steps": plan.total_steps, "epochs": round(plan.epochs, 4), "replicas": replicas}


def start_value(values: dict[str, bool | float | int | str], started: float) -> Summary.Value:
    """Returns the value that begins a session of these hyper-parameters; started: seconds since the epoch."""
    # Not hparams_pb: it groups runs with equal hyper-parameters, and names them by a hash instead of their folder.
    return _value(summary.session_start_pb(values, start_time_secs=started))


def end_value(ended: float) -> Summary.Value:
    """Returns the value that ends a session with success; ended: seconds since the epoch."""
    return _value(summary.session_end_pb(Status.Value("STATUS_SUCCESS"), ended))


def _value(made: tf.compat.v1.Summary) -> Summary.Value:
    """Returns the value in a summary of TensorFlow's class, in TensorBoard's class."""
    return Summary.FromString(made.SerializeToString()).value[0]


def start_info(value: Summary.Value) -> SessionStartInfo:
    """Returns what `start_value` was given: the time, and the hyper-parameters by name."""
    return metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
