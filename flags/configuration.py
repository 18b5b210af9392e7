"""The one way from flag values to an ExperimentConfig."""
from flags.defaults import with_dataset_defaults
from pipeline import config


def given_options(flag_values):
    """Returns {option name: value} of the options that the user set, on the command line or in a flag file.

    A command that works on a run of the past takes the rest from that run instead of from the defaults.
    """
    return {name: flag_values[name].value for name in config.options()
            if name in flag_values and not flag_values[name].using_default_value}


def config_from_flags(flag_values):
    """Returns the pipeline.config.ExperimentConfig that the values of the flags, over the defaults, amount to.

    Args:
      flag_values: absl FlagValues after parsing. Options that the command does not offer keep their defaults.

    Raises:
      UsageError: a value out of its range, or values that do not go together.
    """
    return config.ExperimentConfig.from_flat(with_dataset_defaults(given_options(flag_values)))
