"""A small data set that the tests make for themselves: images that encode their number."""
import io

import numpy as np

from pipeline.data.memory import InMemory
from pipeline.data.source import Split

TRAIN, TEST, CLASSES = 2700, 150, 3


def numbered_images(numbers, shape=(4, 4, 3)):
    """Returns uint8 [n, *shape] whose first two pixels encode the number of an image."""
    numbers = np.asarray(numbers)
    images = np.zeros((len(numbers), *shape), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = numbers // 256, numbers % 256
    return images


def numbers_of(images):
    """Returns the numbers that `numbered_images` wrote."""
    images = np.asarray(images).astype(int)
    return images[:, 0, 0, 0] * 256 + images[:, 0, 1, 0]


def numbered_split(count, shape=(4, 4, 3)):
    labels = (np.arange(count) % CLASSES).astype(np.int32)
    return Split("train", count, InMemory(numbered_images(np.arange(count), shape), labels), labels)


def make_builder(tfds, label_of=lambda number: number % CLASSES, other_features=None,
                 image_of=lambda number: None, train=TRAIN, size=(4, 4)):
    """Returns the class of a TFDS data set of numbered images, in several shards; `train`: how many train."""
    class Numbered(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Images that encode their number."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = other_features or {"image": tfds.features.Image(shape=(*size, 3)),
                                          "label": tfds.features.ClassLabel(names=["ant", "bee", "cow"])}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(range(train)),
                    "test": self._generate_examples(range(train, train + TEST))}

        def _generate_examples(self, numbers):
            for number, image in zip(numbers, numbered_images(list(numbers)), strict=True):
                content = image_of(number)  # Encoded, in place of the pixels.
                image = image if content is None else io.BytesIO(content)
                yield number, ({"image": image, "label": label_of(number)} if not other_features else {"text": "x"})

    return Numbered


def prepare(data_dir, file_format="tfrecord", **kwargs):
    """Prepares the numbered data set in a folder, in seven shards, and returns the folder."""
    import tensorflow_datasets as tfds
    builder = make_builder(tfds, **kwargs)(data_dir=str(data_dir), file_format=file_format)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=7, try_download_gcs=False))
    return str(data_dir)
