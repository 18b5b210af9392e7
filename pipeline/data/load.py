"""From --dataset to a Source."""
from pipeline import extension
from pipeline.data import registry
from pipeline.data.holdout import hold_out_validation, keep_only


def load(config, batch_size, seed=0, echo=print):
    """Loads the data set that a configuration asks for.

    Args:
      config: DataConfig; its extensions are loaded.
      batch_size: examples of one optimizer step, the unit of --subset.
      seed: the run's seed; nothing here depends on it: what is held out is the same in every run.
      echo: takes lines about what takes long, one a call.

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
        source = load_folder(rest, config, echo)
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
        source = load_tfds(config, echo)
    # A data set without a test split has given the share away as that already.
    if config.validation_split and not source.test_from_train:
        source = hold_out_validation(source, config.validation_split)
    return keep_only(source, config.subset * batch_size) if config.subset else source
