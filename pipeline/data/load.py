"""From --dataset to a Source."""
import dataclasses

from pipeline import extension
from pipeline.console import STANDARD
from pipeline.data import registry
from pipeline.data.holdout import hold_out_validation, keep_only, untrained_classes
from pipeline.data.splits import DATA_SET


def load(config, batch_size, seed=0, console=STANDARD, own_validation=True):
    """Loads the data set that a configuration asks for.

    Args:
      config: DataConfig; its extensions are loaded.
      batch_size: examples of one optimizer step, the unit of --subset.
      seed: the run's seed; nothing here depends on it: what is held out is the same in every run.
      console: where messages go.
      own_validation: whether a validation split of the data set's own selects the checkpoint; False for a run that was
        begun without it, see splits.choose_splits.

    Returns:
      Source.

    Raises:
      UsageError: an unknown name, an extension that cannot be loaded, or a data set that cannot be used as it was asked
        for; one line says why.
    """
    del seed
    extension.load(config.extension)
    kind, _, rest = config.dataset.partition(":")
    if kind == "folder":
        from pipeline.data.sources.folder import load_folder
        source = load_folder(rest, config, console, own_validation)
    elif kind == "synthetic":
        from pipeline.data.sources.synthetic import load_synthetic
        source = load_synthetic(rest, config.image_size)
    elif config.dataset == "digits":
        from pipeline.data.sources.digits import load_digits
        source = load_digits(config.image_size)
    elif registry.find(config.dataset):
        source = registry.load_registered(config)
    else:
        from pipeline.data.sources.tfds import load_tfds
        source = load_tfds(config, console, own_validation)
    source = _with_validation(source, config.validation_split, own_validation)
    untrained = untrained_classes(source)
    source = dataclasses.replace(source, notes=(*source.notes, *untrained)) if untrained else source
    return keep_only(source, config.subset * batch_size) if config.subset else source


def _with_validation(source, share, own_validation):
    """Returns the source with what selects the checkpoint: its own validation split, or else a share of training."""
    if source.validation is not None and (own_validation or not share):
        note = ("its own validation split selects the checkpoint; nothing is held out of training",) if share else ()
        return dataclasses.replace(source, validation_from=DATA_SET, notes=(*source.notes, *note))
    # A data set without a test split has given the share away as that already.
    return hold_out_validation(source, share) if share and not source.test_from_train else source
