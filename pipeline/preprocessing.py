"""How image files become the images of a model, in training, evaluation, prediction and exports alike.

Standard library only.
"""
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from pipeline.errors import UsageError

CROP_PART = 0.875  # 224 of 256 pixels, the evaluation of ImageNet models since AlexNet.
# How files are decoded and resized. Runs started before there was a choice keep their method.
EARLIER, CURRENT = 1, 2
# Ranges of a model's input, and what its layers then see of red, green and blue in 0..255.
UNIT = "0..1"
INPUT_RANGES = {
    UNIT: "values / 255",
    "0..255": "the values; layers of the model scale them",
    "-1..1": "values / 127.5 - 1",
    "caffe": "blue, green, red, less ImageNet's mean 103.939, 116.779, 123.68",
    "torch": "values / 255, less ImageNet's mean 0.485, 0.456, 0.406, over its std 0.229, 0.224, 0.225",
}
RESIZED_CROP = "resized_crop"  # The augmentation that is part of decoding.
RESIZE_FORMS = "stretch, crop, crop:PART with PART above 0 and at most 1 (crop is crop:0.875), or pad"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What each use of a model repeats to make its images of files.

    Attributes:
      image_shape: (H, W, C) of the uint8 images.
      resize: "stretch" to H x W; "crop:PART", the centred part of the image with the aspect ratio of H x W, whose
        shorter side is PART of the image's; "pad", the whole image, padded with black.
      interpolation: "bilinear" or "bicubic".
      version: CURRENT, or EARLIER for a run that began with the decoding before it.
      input_range: one of INPUT_RANGES, which the model declares.
    """

    image_shape: tuple[int, int, int]
    resize: str = "stretch"
    interpolation: str = "bilinear"
    version: int = CURRENT
    input_range: str = UNIT

    @property
    def policy(self) -> str:
        """"stretch", "crop" or "pad"."""
        return self.resize.partition(":")[0]

    @property
    def part(self) -> float:
        """The part of the image that `crop` keeps, in (0, 1]."""
        return float(self.resize.partition(":")[2] or CROP_PART)

    @property
    def method(self) -> str:
        """The method of resizing, in words."""
        if self.version == EARLIER:
            return "bilinear, antialiased"
        return f"{self.interpolation}, JPEG files reduced by 2, 4 or 8 before; antialiased above a ratio of 3"

    def sized(self, size: int) -> "Preprocessing":
        """Returns it for images of size x size."""
        return dataclasses.replace(self, image_shape=(size, size, self.image_shape[-1]))

    def stored(self) -> dict[str, Any]:
        """Returns it as config.json of a run has it."""
        return {**dataclasses.asdict(self), "image_shape": list(self.image_shape)}

    @classmethod
    def of_run(cls, stored: Mapping[str, Any]) -> "Preprocessing":
        """Returns that of a run, by its config.json, for its evaluation."""
        found = stored.get("preprocessing")
        if not found:
            return cls(tuple(stored["data"]["image_shape"]), version=EARLIER)
        return cls(tuple(found["image_shape"]), found["resize"], found["interpolation"], found["version"],
                   found.get("input_range", UNIT))


def preprocessings(config: Any, shape: tuple[int, int, int], resized: bool,
                   before: Preprocessing | None = None) -> tuple[Preprocessing, Preprocessing]:
    """Returns those of training and of evaluation.

    Args:
      config: DataConfig.
      shape: (H, W, C) of training images.
      resized: whether files have other sizes.
      before: of the run that continues, by its config.json: its version and its policy hold, whatever other files there
        are now. None for a new run.

    Raises:
      UsageError: an option that the version of the run does not know.
    """
    cropped = uses_resized_crop(config) and resized
    version = before.version if before else CURRENT
    if version == EARLIER:
        _check_earlier(config)
    resize = config.resize or (before.resize if before else "crop" if cropped else "stretch")
    resize = f"crop:{CROP_PART}" if resize == "crop" else resize
    size = config.eval_image_size
    evaluation = Preprocessing((size, size, shape[2]) if size else shape, resize, config.interpolation, version)
    # A drawn part has the aspect ratio that it is to have.
    return dataclasses.replace(evaluation, image_shape=shape, resize="stretch" if cropped else resize), evaluation


def _check_earlier(config):
    """Raises UsageError for options that a run which began with the earlier decoding cannot continue with."""
    cropped = next((text for text in config.augment if text.partition(":")[0] == RESIZED_CROP), None)
    for name, value, default in (("resize", config.resize, None), ("interpolation", config.interpolation, "bilinear"),
                                 ("augment", cropped, None)):
        if value not in (default, "stretch"):
            raise UsageError(f"--{name}={value}: this run decodes its images as an earlier version did, without that "
                             "option; begin a new run with it")


def uses_resized_crop(config: Any) -> bool:
    """Returns whether a DataConfig asks for random resized crops."""
    return any(text.partition(":")[0] == RESIZED_CROP for text in config.augment)


def check_resize(text: str | None) -> None:
    """Raises UsageError for a --resize that is none of RESIZE_FORMS; None is decided later."""
    if text is None:
        return
    match = re.fullmatch(r"stretch|pad|crop(?::([0-9]*\.?[0-9]+))?", text)
    if not match or (match[1] and not 0 < float(match[1]) <= 1):
        raise UsageError(f"--resize={text}: give {RESIZE_FORMS}")


def check_normalize(model: str, input_range: str, normalize: str) -> None:
    """Raises UsageError for a --normalize that contradicts the input range of a model."""
    if normalize != "none" and input_range != UNIT:
        raise UsageError(f"--normalize={normalize}: model {model} takes values in a range of its own, {input_range} "
                         f"({INPUT_RANGES[input_range]}), to which images are brought anyway: leave --normalize out")


def of_begun(stored: Mapping[str, Any] | None) -> Preprocessing | None:
    """Returns Preprocessing.of_run of the config.json of a run; None for None, a new run."""
    return None if stored is None else Preprocessing.of_run(stored)
