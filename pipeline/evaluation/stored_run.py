"""A run read back from its directory: its data, and its model with fresh weights."""
from collections.abc import Mapping
from typing import Any

from pipeline import extension as extensions
from pipeline import keras_import
from pipeline.activity import STARTING, activity
from pipeline.config import ExperimentConfig
from pipeline.console import STANDARD, Console
from pipeline.data.load import load as load_data
from pipeline.data.source import Source, Split
from pipeline.data.splits import TRAINING, own_validation
from pipeline.dataset_name import has_path
from pipeline.dataset_name import split as split_name
from pipeline.distributed import devices
from pipeline.errors import UsageError
from pipeline.preprocessing import of_begun
from pipeline.training import experiment as experiments


def reopen_data(config: ExperimentConfig, stored: Mapping[str, Any], console: Console = STANDARD) -> tuple[Any, Source]:
    """Starts the devices and loads the data that a run was trained on.

    Returns:
      (strategy, Source).

    Raises:
      UsageError: devices or data are not what the run needs.
    """
    with activity(STARTING, console):
        strategy = devices.start(config.runtime, config.training, config.optimizer, console, share_batch=False)
    return strategy, same_data(config, stored, console)


def same_data(config: ExperimentConfig, stored: Mapping[str, Any], console: Console) -> Source:
    """Returns the Source that a run was trained on.

    Raises:
      UsageError: it is another now, and --allow=fingerprint does not accept that, or cannot: other classes, another
        shape, or a split held out of training, which would hold examples that the model was trained on.
    """
    extensions.load(config.data.extension, stored.get("extensions") or ())
    source = load_data(config.data, stored["config"]["batch_size"], console, own_validation(stored),
                       of_begun(stored))
    data = stored["data"]
    if source.fingerprint_as(data["fingerprint"]) == data["fingerprint"]:
        return source
    changed = (f"the data of {source.name} is not what this run was trained on (fingerprint {source.fingerprint[:12]}, "
               f"then {data['fingerprint'][:12]})")
    remedy = f"--dataset={split_name(source.name)[0]}:PATH" if has_path(source.name) else "--data_dir"
    alike = (list(source.class_names) == data["class_names"] and list(source.image_shape) == data["image_shape"]
             and not source.test_from_train and source.validation_from != TRAINING)
    if "fingerprint" not in config.runtime.allow or not alike:
        accept = "; --allow=fingerprint accepts files added or removed since" if alike else ""
        raise UsageError(f"{changed}: give its {remedy}{accept}")
    console.warning(changed)
    return source


def choose_split(source: Source, name: str | None) -> Split:
    """Returns a split of a Source by name, the final one for None; raises UsageError where there is none."""
    if name is None:
        return source.final
    found: dict[str, Split | None] = {"test": source.test, "validation": source.validation, "train": source.train}
    chosen = found.get(name)
    if chosen is None:
        raise UsageError(f"there is no split '{name}' of {source.name}: it has "
                         f"{', '.join(known for known, split in found.items() if split)}")
    return chosen


def rebuild(config: ExperimentConfig, stored: Mapping[str, Any], source: Source, strategy: Any
            ) -> experiments.Experiment:
    """Returns the Experiment of a run in its own precision, with fresh weights."""
    keras_import.set_precision(config.runtime.precision)  # Each run has its own.
    return experiments.build(config, source, strategy, stored)
