"""Rows of the table of models, and the architectures of keras.applications.

Standard library only: `--help` lists them.
"""
import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """One model: a keras.Model subclass, or a function that returns a keras.Model.

    Attributes:
      example_shape: (height, width, channels) for which its parameters are documented and `inspect` shows it.
      wanted_channels: 3 to repeat images of one channel; None to take images as they are.
      input_range: range of the values of its input, one of pipeline.preprocessing.INPUT_RANGES.
      classes: number of classes for which its figures are documented.
      parameters: their number for that and `example_shape`, or None.
      multiply_adds: of convolutions and matrix products in a forward pass of one image, or None.
      top1: accuracy in percent on the validation images of ImageNet with the weights that Keras publishes
        (https://keras.io/api/applications/; MobileNetV3: the documentation of its module), or None without any.
    """

    example_shape: tuple[int, int, int] = (28, 28, 1)
    wanted_channels: int | None = None
    input_range: str = "0..1"
    classes: int = 10
    parameters: int | None = None
    multiply_adds: int | None = None
    top1: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture(ModelRow):
    """One architecture of keras.applications.

    Attributes:
      constructor: its name there.
      smallest: smallest height and width of images, in pixels.
      preprocessing_inside: whether layers of the model bring values in [0, 255] into the range of its convolutions.
      dropout: its rate of dropout before the classifier.
      drop_path: its rate of stochastic depth, to which that of the blocks grows; None: it has none.
      options: its other options, {argument of the constructor: default}.
    """

    wanted_channels: int | None = 3
    classes: int = 1000
    constructor: str
    smallest: int = 32
    preprocessing_inside: bool = False
    dropout: float = 0.0
    drop_path: float | None = None
    options: dict[str, float | bool] = dataclasses.field(default_factory=dict)


def _row(constructor, size, input_range, top1, parameters, multiply_adds, **more):
    return Architecture(example_shape=(size, size, 3), input_range=input_range, constructor=constructor, top1=top1,
                        parameters=parameters, multiply_adds=multiply_adds,
                        preprocessing_inside=input_range == "0..255", **more)


_WIDTH = {"alpha": 1.0}
_V3 = {"alpha": 1.0, "minimalistic": False}
_CONVNEXT = {"drop_path": 0.0}

ARCHITECTURES = {
    "convnext_tiny": _row("ConvNeXtTiny", 224, "0..255", 81.3, 28_589_128, 4_455_531_264, **_CONVNEXT),
    "convnext_small": _row("ConvNeXtSmall", 224, "0..255", 82.3, 50_223_688, 8_683_712_256, **_CONVNEXT),
    "convnext_base": _row("ConvNeXtBase", 224, "0..255", 85.3, 88_591_464, 15_354_729_472, **_CONVNEXT),
    "convnext_large": _row("ConvNeXtLarge", 224, "0..255", 86.3, 197_767_336, 34_361_433_600, **_CONVNEXT),
    "convnext_xlarge": _row("ConvNeXtXLarge", 224, "0..255", 86.7, 350_196_968, 60_921_030_656, **_CONVNEXT),
    "densenet121": _row("DenseNet121", 224, "torch", 75.0, 8_062_504, 2_834_161_664),
    "densenet169": _row("DenseNet169", 224, "torch", 76.2, 14_307_880, 3_359_843_328),
    "densenet201": _row("DenseNet201", 224, "torch", 77.3, 20_242_984, 4_291_365_888),
    "efficientnet_b0": _row("EfficientNetB0", 224, "0..255", 77.1, 5_330_571, 385_814_752, dropout=0.2, drop_path=0.2),
    "efficientnet_b1": _row("EfficientNetB1", 240, "0..255", 79.1, 7_856_239, 686_802_832, dropout=0.2, drop_path=0.2),
    "efficientnet_b2": _row("EfficientNetB2", 260, "0..255", 80.1, 9_177_569, 993_561_872, dropout=0.3, drop_path=0.2),
    "efficientnet_b3": _row("EfficientNetB3", 300, "0..255", 81.6, 12_320_535, 1_827_141_392,
                            dropout=0.3, drop_path=0.2),
    "efficientnet_b4": _row("EfficientNetB4", 380, "0..255", 82.9, 19_466_823, 4_393_771_024,
                            dropout=0.4, drop_path=0.2),
    "efficientnet_b5": _row("EfficientNetB5", 456, "0..255", 83.6, 30_562_527, 10_266_384_752,
                            dropout=0.4, drop_path=0.2),
    "efficientnet_b6": _row("EfficientNetB6", 528, "0..255", 84.0, 43_265_143, 19_067_593_536,
                            dropout=0.5, drop_path=0.2),
    "efficientnet_b7": _row("EfficientNetB7", 600, "0..255", 84.3, 66_658_687, 37_745_884_192,
                            dropout=0.5, drop_path=0.2),
    "efficientnet_v2_b0": _row("EfficientNetV2B0", 224, "0..255", 78.7, 7_200_312, 718_086_176,
                               dropout=0.2, drop_path=0.2),
    "efficientnet_v2_b1": _row("EfficientNetV2B1", 240, "0..255", 79.8, 8_212_124, 1_196_819_360,
                               dropout=0.2, drop_path=0.2),
    "efficientnet_v2_b2": _row("EfficientNetV2B2", 260, "0..255", 80.5, 10_178_374, 1_697_542_832,
                               dropout=0.2, drop_path=0.2),
    "efficientnet_v2_b3": _row("EfficientNetV2B3", 300, "0..255", 82.0, 14_467_622, 3_011_458_816,
                               dropout=0.2, drop_path=0.2),
    "efficientnet_v2_s": _row("EfficientNetV2S", 384, "0..255", 83.9, 21_612_360, 8_365_617_152,
                              dropout=0.2, drop_path=0.2),
    "efficientnet_v2_m": _row("EfficientNetV2M", 480, "0..255", 85.3, 54_431_388, 24_582_460_384,
                              dropout=0.2, drop_path=0.2),
    "efficientnet_v2_l": _row("EfficientNetV2L", 480, "0..255", 85.7, 119_027_848, 56_079_699_008,
                              dropout=0.2, drop_path=0.2),
    "inception_resnet_v2": _row("InceptionResNetV2", 299, "-1..1", 80.3, 55_873_736, 13_155_794_016, smallest=75),
    "inception_v3": _row("InceptionV3", 299, "-1..1", 77.9, 23_851_784, 5_713_216_096, smallest=75),
    "mobilenet": _row("MobileNet", 224, "-1..1", 70.4, 4_253_864, 568_740_352, dropout=0.001, options=_WIDTH),
    "mobilenet_v2": _row("MobileNetV2", 224, "-1..1", 71.3, 3_538_984, 300_774_272, options=_WIDTH),
    "mobilenet_v3_large": _row("MobileNetV3Large", 224, "0..255", 75.6, 5_507_432, 216_589_760,
                               dropout=0.2, options=_V3),
    "mobilenet_v3_small": _row("MobileNetV3Small", 224, "0..255", 68.1, 2_554_968, 56_510_400,
                               dropout=0.2, options=_V3),
    "nasnet_large": _row("NASNetLarge", 331, "-1..1", 82.5, 88_949_818, 23_783_414_658),
    "nasnet_mobile": _row("NASNetMobile", 224, "-1..1", 74.4, 5_326_716, 563_638_816),
    "resnet101": _row("ResNet101", 224, "caffe", 76.4, 44_707_176, 7_570_194_432),
    "resnet101_v2": _row("ResNet101V2", 224, "-1..1", 77.2, 44_675_560, 7_194_476_544),
    "resnet152": _row("ResNet152", 224, "caffe", 76.6, 60_419_944, 11_282_415_616),
    "resnet152_v2": _row("ResNet152V2", 224, "-1..1", 78.0, 60_380_648, 10_906_697_728),
    "resnet50": _row("ResNet50", 224, "caffe", 74.9, 25_636_712, 3_857_973_248),
    "resnet50_v2": _row("ResNet50V2", 224, "-1..1", 76.0, 25_613_800, 3_482_255_360),
    "vgg16": _row("VGG16", 224, "caffe", 71.3, 138_357_544, 15_470_264_320),
    "vgg19": _row("VGG19", 224, "caffe", 71.3, 143_667_240, 19_632_062_464),
    "xception": _row("Xception", 299, "-1..1", 79.0, 22_910_480, 8_357_403_496, smallest=71),
}
