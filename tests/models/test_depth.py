"""The blocks by which --layer_decay counts depth, and the factors of the learning rates."""
import keras
import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.models import registry
from pipeline.models.depth import blocks
from pipeline.models.trained_weights import rate_factors
from pipeline.models.weight_names import named
from tests.selection import quick

FIRST, LAST = "first", "last"
# Number of blocks of the published architecture with its stem, other convolutions outside of blocks, and its head.
PUBLISHED = [
    ("ResNet50", 64, 18, {FIRST: "conv1_conv", LAST: "conv5_block3"}),
    ("ResNet50V2", 64, 18, {FIRST: "conv1_conv", LAST: "conv5_block3"}),
    ("EfficientNetV2B0", 64, 24, {FIRST: "stem_conv", "block1a": 5, "block6h": 19, LAST: "top_conv"}),
    ("EfficientNetB0", 64, 19, {FIRST: "stem_conv", LAST: "top_conv"}),
    ("ConvNeXtTiny", 64, 23, {"convnext_tiny_downsampling_block_0": 4, "convnext_tiny_stage_0_block_2": 9}),
    ("MobileNet", 64, 15, {"block_13": 10}),
    ("MobileNetV2", 64, 20, {"expanded_conv": 10, "block_16": 15, LAST: "Conv_1"}),
    ("MobileNetV3Small", 64, 15, {FIRST: "conv", "expanded_conv_10": 19, LAST: "conv_2"}),
    ("DenseNet121", 64, 63, {FIRST: "conv1_conv", "conv2_block1": 10, "pool2": 5}),
    ("InceptionV3", 96, 17, {"mixed0": 28, "mixed10": 36}),
    ("InceptionResNetV2", 96, 50, {"block35_1": 26, "mixed_7a": 28, LAST: "conv_7b"}),
    ("Xception", 96, 15, {"block2": 17, "block5": 18}),
    ("VGG16", 64, 8, {"block5": 6, LAST: "fc2"}),
    ("NASNetMobile", 64, 18, {"cell reduce_4": 70, LAST: "cell 12"}),
]


@pytest.mark.parametrize("name, size, number, expected", quick(PUBLISHED, 7))
def test_blocks_are_those_of_the_architecture(name, size, number, expected):
    shape = (size, size, 3)
    model = getattr(keras.applications, name)(weights=None, input_shape=shape, classes=10)
    found = blocks(model, shape)
    assert sorted(name for _, names in found for name in names) == sorted(named(model))
    assert len(found) == number
    sizes = {block: len(names) for block, names in found}
    assert {key: {FIRST: found[0][0], LAST: found[-2][0]}.get(key, sizes.get(key)) for key in expected} == expected


@pytest.mark.parametrize("model, options, expected", quick([
    ("cnn", (), ["block1", "block2", "block3", "classifier"]), ("mlp", (), ["hidden", "classifier"]),
    ("vit_ti16", ("patch_size=8",), ["embedding", *(f"block{i}" for i in range(1, 13)), "classifier"]),
    ("speed_cifar", (), ["patches", "block1", "block2", "block3", "classifier"]),
    ("three_apis", ("api=functional",), ["convolution1", "convolution2", "classifier"]),
    ("mini_inception", (), ["conv", "inception1", "inception2", "downsample1", *(f"inception{i}" for i in range(3, 7)),
                            "downsample2", "inception7", "inception8", "classifier"]),
], 0, 1, 3, 4, 5))
def test_blocks_of_own_models_are_their_layers(model, options, expected):
    shape = (32, 32, 3)
    assert [name for name, _ in blocks(registry.create(model, 10, shape, options), shape)] == expected


class Wrapped(keras.Model):
    """A model of a user: a backbone that is one layer, with a weight of its own."""

    def __init__(self):
        super().__init__()
        k = keras.layers
        image = keras.Input((8, 8, 3))
        x = k.BatchNormalization()(k.Conv2D(4, 3, padding="same")(image))
        for _ in range(2):  # Residual, with the names that Keras gives.
            x = k.Add()([x, k.Conv2D(4, 3, padding="same")(k.ReLU()(k.Conv2D(4, 3, padding="same")(x)))])
        self.backbone = keras.Model(image, x, name="backbone")
        self.scale = self.add_weight((4,), name="scale")
        self.pool, self.classifier = k.GlobalAveragePooling2D(), k.Dense(10, name="classifier")

    def call(self, x, training=False):
        return self.classifier(self.pool(self.backbone(x, training=training) * self.scale))


def test_a_backbone_of_layers_that_keras_named_has_its_residual_blocks():
    model = Wrapped()
    model(np.zeros((1, 8, 8, 3)))
    found = blocks(model, (8, 8, 3))
    assert [len(names) for _, names in found] == [6 + 1, 4, 4, 2]  # The stem with `scale`, two blocks, the head.
    assert "scale" in found[0][1]


def test_factors_are_powers_of_the_decay_times_the_last_multiplier():
    model = registry.create("cnn", 10, (8, 8, 1))
    factors = rate_factors(model, 0.5, [("backbone", 0.5), ("*/norm", 4.0), ("stem", 0.0), ("block1/norm/beta", 8.0)],
                           (8, 8, 1))
    assert factors == {
        "block1/convolution/kernel": 0, "block1/convolution/bias": 0, "block1/norm/gamma": 0, "block1/norm/beta": 1,
        "block2/convolution/kernel": 1 / 8, "block2/convolution/bias": 1 / 8, "block2/norm/gamma": 1,
        "block2/norm/beta": 1, "block3/convolution/kernel": 1 / 4, "block3/convolution/bias": 1 / 4,
        "block3/norm/gamma": 2, "block3/norm/beta": 2, "classifier/kernel": 1, "classifier/bias": 1}
    with pytest.raises(UsageError, match="--lr_multipliers=heads matches no weight of model cnn: did you mean"):
        rate_factors(model, 1.0, [("heads", 2.0)], (8, 8, 1))
