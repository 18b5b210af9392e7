"""What TensorBoard's tab HParams compares runs by: the options that change the mathematics, and how the run ended."""
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

from pipeline.config import options
from pipeline.options import FREE

START, END = metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG


def hyperparameters(config, plan, replicas):
    """Returns {name: bool, float, int or str} of a run.

    Args:
      config: ExperimentConfig; options with which a run may go on freely, such as paths, are no hyper-parameters.
      plan: Plan: the length is given in steps and in epochs, however it was asked for.
      replicas: in sync.
    """
    found = {name: ",".join(value) if isinstance(value, tuple) else value for name, value in config.flat().items()
             if options()[name].metadata["resume"] != FREE and value is not None}
    return {**found, "steps": plan.total_steps, "epochs": round(plan.epochs, 4), "replicas": replicas}


def start_value(values, started):
    """Returns the Summary.Value that begins a session.

    Args:
      values: see `hyperparameters`.
      started: seconds since the epoch.
    """
    info = SessionStartInfo(start_time_secs=started)
    for name, value in values.items():
        kind = "bool_value" if isinstance(value, bool) else "string_value" if isinstance(value, str) else "number_value"
        setattr(info.hparams[name], kind, value)
    return _value(START, HParamsPluginData(session_start_info=info))


def end_value(ended):
    """Returns the Summary.Value that ends a session with success; ended: seconds since the epoch."""
    info = SessionEndInfo(status=Status.Value("STATUS_SUCCESS"), end_time_secs=ended)
    return _value(END, HParamsPluginData(session_end_info=info))


def started_at(value):
    """Returns when a session began that `start_value` described, seconds since the epoch."""
    return _start_info(value).start_time_secs


def same_session(first, second):
    """Tells whether two Summary.Values of `start_value` have the same hyper-parameters."""
    return dict(_start_info(first).hparams) == dict(_start_info(second).hparams)


def _start_info(value):
    return metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)


def _value(tag, content):
    return Summary.Value(tag=tag, tensor=metadata.NULL_TENSOR, metadata=metadata.create_summary_metadata(content))
