"""Image classification data sets of TensorFlow Datasets."""
import dataclasses

import numpy as np
import tensorflow as tf

from pipeline.activity import activity
from pipeline.config import DataConfig
from pipeline.console import STANDARD, Console
from pipeline.data.array_records import is_array_record
from pipeline.data.encoded_header import Header
from pipeline.data.encoded_images import decode_alike, decode_one
from pipeline.data.holdout import source_of
from pipeline.data.memory import InMemory, empty_images
from pipeline.data.record_stream import BLOCK, GROUP, Records, first_line, record_dataset
from pipeline.data.records import read_table
from pipeline.data.source import Source, Split
from pipeline.data.sources.tfds_prepare import find_or_prepare
from pipeline.data.splits import choose_splits, unused_validation
from pipeline.errors import UsageError
from pipeline.preprocessing import EARLIER, Preprocessing, preprocessings, uses_resized_crop
from pipeline.quantities import counted

# Imports inside functions: TensorFlow Datasets takes seconds.

_DECODED_TOGETHER = 500


@dataclasses.dataclass(frozen=True)
class ExampleFormat:
    """How an example is serialized and its image decoded.

    Attributes:
      image_key, label_key: names of the features.
      size: (height, width) of all files, None where they differ.
      training, evaluation: how encoded images are decoded and resized.
      resized: whether files have other sizes, or become more than one image.
      crops: whether training images are drawn parts of the files.
    """

    image_key: str
    label_key: str
    size: tuple[int | None, int | None]
    training: Preprocessing
    evaluation: Preprocessing
    resized: bool
    crops: bool = False

    @property
    def decodes_once(self) -> bool:
        """Whether each file has one image, which may be kept in memory."""
        return self.training == self.evaluation and not self.crops

    def sized(self, size: int) -> "ExampleFormat":
        """Returns it with training images of size x size."""
        return dataclasses.replace(self, training=self.training.sized(size), resized=True)

    def parse(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Parses serialized examples, string [n], to encoded images, string [n], and labels, int32 [n]."""
        features = tf.io.parse_example(records, {self.image_key: tf.io.FixedLenFeature([], tf.string),
                                                 self.label_key: tf.io.FixedLenFeature([], tf.int64)})
        return features[self.image_key], tf.cast(features[self.label_key], tf.int32)

    def decode(self, encoded: tf.Tensor, preprocessing: Preprocessing, header: Header | None = None,
               box: tf.Tensor | None = None) -> tf.Tensor:
        """Decodes one image: string scalar to uint8 [H, W, C]; see encoded_images.decode_one."""
        shape = preprocessing.image_shape
        if preprocessing.version == EARLIER:
            return _decode_as_before(encoded, shape, self.resized)
        if self.resized or box is not None:
            return decode_one(encoded, preprocessing, header, box)
        pixels = tf.cond(  # Mostly small PNG images: their kernel alone costs half.
            tf.io.is_jpeg(encoded), lambda: tf.io.decode_jpeg(encoded, shape[-1], dct_method="INTEGER_ACCURATE"),
            lambda: tf.io.decode_png(encoded, shape[-1]))
        return tf.ensure_shape(pixels, shape)


    def decode_all(self, encoded: tf.Tensor) -> tf.Tensor:
        """Decodes images as `decode` does for training, string [n] to uint8 [n, H, W, C]."""
        preprocessing, (height, width) = self.training, self.size
        if self.resized and height and width and preprocessing.version != EARLIER:
            return decode_alike(encoded, height, width, preprocessing)
        return tf.map_fn(lambda content: self.decode(content, preprocessing), encoded, parallel_iterations=1,
                         fn_output_signature=tf.TensorSpec(preprocessing.image_shape, tf.uint8))


def _decode_as_before(encoded, shape, resized):
    """Decodes one image for runs that were started with it: JPEG with the fast transform, resized in one pass."""
    if not resized:
        return tf.ensure_shape(tf.io.decode_png(encoded, shape[-1]), shape)
    image = tf.io.decode_image(encoded, shape[-1], expand_animations=False)
    image = tf.image.resize(image, shape[:2], antialias=True)
    return tf.ensure_shape(tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8), shape)


def load_tfds(config: DataConfig, console: Console = STANDARD, own_validation: bool = True,
              before: Preprocessing | None = None) -> Source:
    """Loads a data set of TensorFlow Datasets by its name.

    Where there is neither a test nor a validation split, what --validation_split holds out is the test split.

    Args:
      config: dataset, data_dir, image_size, validation_split, memory_budget and cache_dir are used.
      console: where messages go.
      own_validation: see splits.choose_splits.
      before: see load.load.

    Returns:
      Source, in memory where its decoded images fit the budget.

    Raises:
      UsageError: not found, not for image classification, of images of several sizes without --image_size, without any
        way to get a test split, or damaged.
    """
    builder = find_or_prepare(config.dataset, config.data_dir, console)
    form, class_names = _example_format(builder.info, config, before)
    chosen, lines = _choose_splits(builder.info, config, own_validation)
    with activity("looking at records", console):
        tables = {name: read_table(_shards(builder.info.splits[split]), config.cache_dir)
                  for name, split in chosen.items()}
    shape = form.training.image_shape
    total = sum(len(table.offset) for table in tables.values()) * int(np.prod(shape))
    in_memory = total <= config.memory_budget * 2**20 and form.decodes_once
    splits, parts = {}, [builder.info.name, str(builder.info.version), class_names, shape]
    for name, table in tables.items():
        splits[name] = _decode_all(name, table, form, len(class_names), console) if in_memory else Split(
            name, len(table.offset), Records(table, form, config.cache_dir))
        parts += [name, table.checksum]
    too_large = total > config.memory_budget * 2**20
    reason = (f"{total / 2**20:,.0f} MiB decoded is more than --memory_budget={config.memory_budget}" if too_large
              else "an image differs between epochs, or between training and evaluation")
    notes = () if in_memory else (
        f"{reason}: streaming from {counted(len(tables['train'].files), 'shard')}, shuffled by blocks of {BLOCK} "
        f"consecutive records and within groups of {BLOCK * GROUP:,} examples",)
    source = source_of(config.dataset, class_names, shape, splits, parts, config.held_out, (*lines, *notes),
                       evaluation=form.evaluation)
    return dataclasses.replace(source, resized=form.size != shape[:2])


def _example_format(info, config, before):
    """Returns (ExampleFormat, class names) of a data set for image classification."""
    import tensorflow_datasets as tfds
    features = info.features
    flat = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    images = [key for key, feature in flat.items() if type(feature) is tfds.features.Image]
    labels = [key for key, feature in flat.items() if type(feature) is tfds.features.ClassLabel]
    supervised = info.supervised_keys or ()
    image_key, label_key = (next((key for key in supervised if key in keys), keys[0] if len(keys) == 1 else None)
                            for keys in (images, labels))
    if image_key is None or label_key is None:
        raise UsageError(f"--dataset={config.dataset} is not for image classification: it has the features "
                         f"{', '.join(sorted(flat)) or type(features).__name__}; one image and one class label are "
                         f"needed, as in mnist")
    feature = flat[image_key]
    if feature.np_dtype != np.uint8:
        raise UsageError(f"--dataset={config.dataset} has images of {feature.np_dtype}: uint8 is needed")
    height, width, channels = feature.shape
    if config.image_size is None and (height is None or width is None):
        raise UsageError(f"--dataset={config.dataset} has images of several sizes: give --image_size to resize all, "
                         f"such as --image_size=64")
    size = config.image_size
    shape = (size or height, size or width, channels if channels in (1, 3) else 3)
    other_size = shape[:2] != (height, width)
    training, evaluation = preprocessings(config, shape, other_size, before)
    resized = other_size or evaluation.image_shape != shape or evaluation.policy != "stretch"
    crops = uses_resized_crop(config) and resized
    form = ExampleFormat(image_key, label_key, (height, width), training, evaluation, resized, crops)
    return form, tuple(flat[label_key].names)


def _choose_splits(info, config, own_validation):
    """Returns ({"train", "validation", "test": the data set's own names, where they exist}, lines for the user)."""
    has = {name: split for name, split in info.splits.items() if split.num_examples}
    if "train" not in has:
        raise UsageError(f"--dataset={config.dataset} has no training split: it has {', '.join(has) or 'none'}")
    found, unused = choose_splits(f"--dataset={config.dataset}", has, own_validation, ("test", "validation"))
    if not found and not config.held_out:
        raise UsageError(f"--dataset={config.dataset} has neither a test nor a validation split (it has "
                         f"{', '.join(has)}): give --validation_split=0.2 to hold a part out for testing")
    return {"train": "train", **found}, unused_validation(unused, unused == found.get("test"))


def _shards(split):
    """Returns the paths of a split's files."""
    files = [str(path) for path in split.filepaths]
    if not all(".tfrecord" in path or is_array_record(path) for path in files):
        raise UsageError(f"{files[0]} is neither a TFRecord nor an ArrayRecord file: prepare the data set with "
                         "file_format=tfrecord")
    return files


def _decode_all(name, table, form, num_classes, console):
    """Returns a split with every image of a table decoded in memory."""
    count = len(table.offset)
    shape = form.training.image_shape
    images, labels = empty_images(count, shape), np.empty(count, np.int32)

    @tf.autograph.experimental.do_not_convert
    def decode(records):
        encoded, labels = form.parse(records)
        return form.decode_all(encoded), labels

    records = record_dataset(*table.files).batch(_DECODED_TOGETHER)
    batches, done = records.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True), 0
    try:
        with activity(f"decoding the {name} images", console, count) as doing:
            for some_images, some_labels in batches:
                rows = slice(done, done + len(some_labels))
                images[rows], labels[rows] = some_images.numpy(), some_labels.numpy()
                done = rows.stop
                doing.advance(len(some_labels))
    except tf.errors.OpError as error:
        raise UsageError(f"cannot decode {name} of {table.files[0]} near example {done:,}: "
                         f"{first_line(error)}") from error
    if done and not 0 <= labels.min() <= labels.max() < num_classes:
        raise UsageError(f"the {name} split has labels from {labels.min()} to {labels.max()} for {num_classes} "
                         f"classes: a split whose labels were published is needed")
    return Split(name, count, InMemory(images, labels), labels)
