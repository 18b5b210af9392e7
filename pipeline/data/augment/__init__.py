"""Augmentations: pure functions of a batch of uint8 images and per-example seeds.

Every one of them has the signature (images uint8 [B, H, W, C], seeds int32 [B, 2], strength) -> uint8 [B, H, W, C]; the
mixing ones return the share of the own image, float32 [B], beside. A row of the result depends on the same row of
the arguments alone (for the mixing ones: on the rows 2i and 2i + 1), in a batch of any size.
"""
from pipeline.data.augment.apply import MIXING, apply

__all__ = ["MIXING", "apply"]
