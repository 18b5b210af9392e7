"""A run read back from its directory: its configuration, its data, its model with fresh weights."""
from pipeline import extension as extensions
from pipeline import keras_import
from pipeline.activity import STARTING, activity
from pipeline.console import STANDARD
from pipeline.data.load import load as load_data
from pipeline.data.splits import own_validation
from pipeline.dataset_name import has_path, split
from pipeline.distributed import devices
from pipeline.errors import UsageError
from pipeline.training import experiment as experiments


def reopen_data(config, stored, console=STANDARD):
    """Starts the devices and loads the data that a run was trained on.

    Args:
      config: ExperimentConfig, see run_directory.evaluation_config.
      stored: what config.json of the run holds.
      console: where messages go.

    Returns:
      (strategy, Source).

    Raises:
      UsageError: devices or data are not what the run needs.
    """
    with activity(STARTING, console):
        strategy = devices.start(config.runtime, config.training, config.optimizer, console, share_batch=False)
    return strategy, same_data(config, stored, console)


def same_data(config, stored, console):
    """Returns the Source that a run was trained on; raises UsageError where it is another one now."""
    extensions.load(config.data.extension, stored.get("extensions"))
    source = load_data(config.data, stored["config"]["batch_size"], console,
                       own_validation(stored))
    known = stored["data"]["fingerprint"]
    if source.fingerprint != known:
        remedy = f"--dataset={split(source.name)[0]}:PATH" if has_path(source.name) else "--data_dir"
        raise UsageError(f"the data of {source.name} is not what this run was trained on (fingerprint "
                         f"{source.fingerprint[:12]}, then {known[:12]}): give its {remedy}")
    return source


def choose_split(source, name):
    """Returns a split of a Source by its name, the final one for None; raises UsageError where there is none."""
    if name is None:
        return source.final
    found = {"test": source.test, "validation": source.validation, "train": source.train}
    if found.get(name) is None:
        raise UsageError(f"there is no split '{name}' of {source.name}: it has "
                         f"{', '.join(known for known, split in found.items() if split)}")
    return found[name]


def rebuild(config, stored, source, strategy):
    """Returns the Experiment of a run in its own precision, with fresh weights, to read others into."""
    keras_import.set_precision(config.runtime.precision)  # Each run has its own.
    return experiments.build(config, source, strategy, stored)
