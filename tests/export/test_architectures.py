"""Exports of the standard architectures: every format computes what the trained model does, its input range inside."""
import gc
import os

import numpy as np
import pytest

from pipeline.export.export_format import find_format
from pipeline.export.formats.weights_file import load_model
from pipeline.export.proof import allowed
from pipeline.export.rounding import rounding
from pipeline.internals.keras_internals import layers_of
from pipeline.models.normalization import BatchNormalization
from pipeline.training.settings import preprocess
from tests.export.fresh_models import pixels, trained_model
from tests.selection import quick

FORMATS = ("saved_model", "keras", "weights", "tflite", "onnx")
# One of each family, and the smallest images that it is tried with.
ROWS = [("mobilenet", 32, "alpha=0.25"), ("resnet50", 32), ("resnet50_v2", 32), ("efficientnet_b0", 32),
        ("efficientnet_v2_b0", 32), ("convnext_tiny", 32, "drop_path=0.1"), ("mobilenet_v2", 32),
        ("mobilenet_v3_large", 32), ("densenet121", 32), ("inception_v3", 75), ("inception_resnet_v2", 75),
        ("xception", 71), ("nasnet_mobile", 32), ("vgg16", 32), ("vit_ti16", 32, "patch_size=8"), ("wrn16_8", 16),
        ("resnet18_cifar", 16), ("speed_cifar", 16)]


def settle(trained):
    """Gives the normalizations the statistics of a batch: with others, nothing of an image is left behind 50 layers.

    Then scales the last layer so that logits differ by about 1: of larger ones the softmax would keep one class.
    """
    norms = [layer for layer in layers_of(trained.model) if isinstance(layer, BatchNormalization)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    images = preprocess(pixels(trained, 8), trained.inference.settings)
    trained.model(images, training=True)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    scale = 1 / np.std(trained.model(images, training=False))
    for variable in layers_of(trained.model)[-1].trainable_variables:
        variable.assign(variable * scale)


@pytest.fixture(autouse=True)
def no_model_of_the_row_before():
    """Frees what a row made: its model, graphs and exports are gigabytes, and refer to themselves."""
    yield
    gc.collect()


@pytest.mark.parametrize("row, formats", quick([(ROWS[0], ("keras",)), *((row, FORMATS) for row in ROWS)], 0),
                         ids=lambda value: value[0])
def test_every_format_computes_what_the_model_does(row, formats, tmp_path):
    name, size, *options = row
    trained = trained_model(name, *options, image_shape=(size, size, 3))
    settle(trained)
    images = pixels(trained, 3)
    wanted = trained.probabilities(images)
    assert np.ptp(wanted, axis=0).max() > 1e-4  # Images count.
    moved = rounding(trained, wanted, images)
    assert 0 < moved < 1e-3  # With another input range probabilities differ by 0.1.
    np.testing.assert_array_equal(trained.probabilities(images), wanted)  # The weights are what they were.
    settings = trained.inference.settings
    about = {"model": name, "model_options": list(options), "batch_norm_momentum": 0.9,
             "class_names": list(trained.class_names), "image_shape": [size, size, 3],
             "preprocessing": {"mean": None, "deviation": None, "channels": 3, "input_range": settings.input_range}}
    for kind in formats:
        export_format = find_format(kind)
        path = os.path.join(tmp_path, kind, export_format.file).rstrip("/")
        os.makedirs(tmp_path / kind)
        export_format.write(trained, path, about)
        if kind == "weights":
            found = np.array(load_model(path, about)(images.astype(np.float32) / 255))
        else:
            prepare, compute = export_format.load(path, 1)
            found = np.array(compute(prepare(images)))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=allowed(export_format.tolerance, moved), err_msg=kind)
