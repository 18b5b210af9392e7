"""Augmentations: pure functions of a batch of uint8 images and a seed for each image.

Each is a function (images uint8 [B, H, W, C], seeds int64 [B, 2], strength) -> uint8 [B, H, W, C] (a user's gets the
seeds as int32), declared with its
options by `@AUGMENTATIONS.built_in` on a top-level function, with literal values, since the source is read and not run
to list them, and used as --augment=NAME or NAME:STRENGTH. It runs on decoded images: in tf.data
for a data set that streams or lies in host memory, on the device within the step with --cache=device. One that mixes
pairs also returns the share of the own image, float32 [B].

Row i of the result is a function of row i of the arguments alone (of the rows 2i and 2i + 1 for one that mixes), in a
batch of any size; the default strength changes at least a quarter of the images visibly, and no strength turns them
black. Random numbers come from pipeline.data.stateless_random.uniform(seeds, draw).
"""
from pipeline.data.augment.apply import apply

__all__ = ["apply"]
