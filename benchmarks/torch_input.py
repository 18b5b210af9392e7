"""PyTorch's DataLoader with torchvision's transforms, in a process that may be of another Python environment.

`python -m benchmarks.torch_input ORDER`: {"folder" or "arrays": path, "size": pixels, "batch_size": int, "crop":
pixels}, then see benchmarks.pulling.serve. Imports nothing of Mirrorline.
"""
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torchvision
from torchvision import transforms

from benchmarks.pulling import serve

WORKERS = 2


class Transformed(torch.utils.data.TensorDataset):
    """A TensorDataset of (images, labels) whose images are transformed."""

    def __init__(self, transform, *tensors):
        super().__init__(*tensors)
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = super().__getitem__(index)
        return self.transform(image), label


def dataset_of(order: Mapping[str, Any]) -> torch.utils.data.Dataset:
    """Returns the data set of an order, with its transforms; images uint8 [3, height, width]."""
    flip = transforms.RandomHorizontalFlip()
    if "arrays" in order:
        images, labels = (torch.from_numpy(np.load(f"{order['arrays']}/{name}.npy")) for name in ("images", "labels"))
        chosen = transforms.Compose([transforms.RandomCrop(images.shape[1:3], padding=order["crop"]), flip])
        return Transformed(chosen, images.permute(0, 3, 1, 2).contiguous(), labels)
    chosen = transforms.Compose([transforms.RandomResizedCrop(order["size"]), flip, transforms.PILToTensor()])
    return torchvision.datasets.ImageFolder(f"{order['folder']}/train", chosen)


def endless_batches(order: Mapping[str, Any]) -> Iterator[Any]:
    """Returns batches without end, so that no end of an epoch empties the workers' queues."""
    dataset = dataset_of(order)
    sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=2**40)
    return iter(torch.utils.data.DataLoader(dataset, order["batch_size"], sampler=sampler, num_workers=WORKERS))


def main(text: str) -> None:
    """Lets its batches be pulled."""
    batches = endless_batches(json.loads(text))
    serve(lambda: len(next(batches)[1]))


if __name__ == "__main__":
    main(sys.argv[1])
