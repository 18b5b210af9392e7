"""PyTorch as its tutorials write it, and tuned: channels last, compiled, fused Adam, batches cut from one tensor."""
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks import torch_models
from benchmarks.ceiling import measure_product
from benchmarks.gate import Gate
from benchmarks.workloads import SEED


def run(order: Mapping[str, Any], gate: Gate) -> None:
    """Trains as an order's peer does: "torch_eager" or "torch_compiled"."""
    workload, folder, compiled = order["workload"], order["data"], order["peer"] == "torch_compiled"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(SEED)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/compiled"  # Else a second run would find the first one's code.
    images, labels = (torch.from_numpy(np.load(f"{folder}/train_{name}.npy")) for name in ("images", "labels"))
    labels = labels.long()
    model = torch_models.create(workload.model, workload.image_shape).train()
    first = None
    if order["weights"]:
        with np.load(order["weights"]) as stored:
            torch_models.load_weights(model, [stored[f"arr_{i}"] for i in range(len(stored.files) - 1)])
            first = torch.from_numpy(stored["first"]).reshape(-1, workload.batch_size)
    if compiled:
        model = torch.compile(model.to(memory_format=torch.channels_last))
    else:
        images = images.permute(0, 3, 1, 2).contiguous()
    trainer = TorchTrainer(model, torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7, fused=compiled or None))
    select = (lambda index: images[index].permute(0, 3, 1, 2)) if compiled else (lambda index: images[index])
    if first is not None:
        gate.report_first_steps(trainer.step(select(index), labels[index]) for index in first)
    stream = cut_batches(select, labels, workload.batch_size) if compiled else loaded_batches(
        images, labels, workload.batch_size)
    gate.on("product", product_handler())

    def run_steps(steps):
        for _ in range(steps):
            trainer.step(*next(stream))

    gate.train(run_steps)


class TorchTrainer:
    """A model, its optimizer, and sums of losses and correct predictions, as the other peers keep them."""

    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.loss, self.correct = torch.zeros([]), torch.zeros([])

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Trains on one batch, uint8 [batch, channels, height, width]; returns the loss."""
        logits = self.model(images.float().div_(255.0))
        loss = functional.cross_entropy(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.loss += loss.detach()
            self.correct += (logits.argmax(1) == labels).sum()
        return loss.detach()


def loaded_batches(images: torch.Tensor, labels: torch.Tensor, batch_size: int) -> Iterator[Any]:
    """Yields batches without end, from a DataLoader over a TensorDataset."""
    dataset = torch.utils.data.TensorDataset(images, labels)
    while True:
        yield from torch.utils.data.DataLoader(dataset, batch_size=batch_size, shuffle=True)


def cut_batches(select: Callable[[torch.Tensor], torch.Tensor], labels: torch.Tensor, batch_size: int) -> Iterator[Any]:
    """Yields full batches without end, gathered from one tensor; the remainder of an epoch is left out."""
    while True:
        for index in torch.randperm(len(labels)).split(batch_size):
            if len(index) == batch_size:
                yield select(index), labels[index]


def product_handler() -> Callable[[int], dict[str, float]]:
    """Returns the handler that measures PyTorch's matrix product."""
    def handler(size):
        a, b = torch.rand(size, size), torch.rand(size, size)
        return {"gflops": measure_product(lambda: torch.mm(a, b), size)}
    return handler
