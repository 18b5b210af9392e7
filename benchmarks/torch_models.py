"""The same architectures in PyTorch, modules in the order of Mirrorline's layers."""
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

MOMENTUM, EPSILON = 0.1, 1e-3  # PyTorch's momentum is one minus Keras's.
INCEPTION_STAGES = ((32, 32), (32, 48), 80, (112, 48), (96, 64), (80, 80), (48, 96), 96, (176, 160), (176, 160))


class TorchConvModule(nn.Module):
    """Convolution, batch normalization, ReLU; padded so that stride 1 keeps the size."""

    def __init__(self, inputs, filters, kernel_size=3, stride=1, padding=None):
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv = nn.Conv2d(inputs, filters, kernel_size, stride=stride, padding=padding)
        self.bn = nn.BatchNorm2d(filters, eps=EPSILON, momentum=MOMENTUM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn(self.conv(x)))


class TorchInceptionModule(nn.Module):
    """A 1x1 and a 3x3 TorchConvModule side by side."""

    def __init__(self, inputs, filters_1x1, filters_3x3):
        super().__init__()
        self.conv1, self.conv2 = TorchConvModule(inputs, filters_1x1, 1), TorchConvModule(inputs, filters_3x3, 3)
        self.outputs = filters_1x1 + filters_3x3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.conv1(x), self.conv2(x)], 1)


class TorchDownsampleModule(nn.Module):
    """A 3x3 TorchConvModule of stride 2, parallel to max pooling."""

    def __init__(self, inputs, filters):
        super().__init__()
        self.conv3 = TorchConvModule(inputs, filters, 3, stride=2, padding=0)
        self.pool = nn.MaxPool2d(3, stride=2)
        self.outputs = inputs + filters

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.conv3(x), self.pool(x)], 1)


class TorchResBlock(nn.Module):
    """Three TorchConvModules with a shortcut around the first two, and max pooling."""

    def __init__(self, inputs, channels):
        super().__init__()
        self.cnn1, self.cnn2 = TorchConvModule(inputs, channels[0]), TorchConvModule(channels[0], channels[1])
        self.identity_mapping = nn.Conv2d(inputs, channels[1], 1)
        self.cnn3 = TorchConvModule(channels[1], channels[2])
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.cnn3(self.cnn2(self.cnn1(x)) + self.identity_mapping(x)))


class GlobalAverage(nn.Module):
    """Mean over height and width."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def create(name: str, image_shape: tuple[int, int, int], num_classes: int = 10) -> nn.Module:
    """Returns the nn.Module of "mlp", "resnet_like" or "mini_inception", for images (height, width, channels)."""
    height, width, channels = image_shape
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(height * width * channels, 64), nn.ReLU(),
                             nn.Linear(64, num_classes))
    blocks, outputs = [], channels
    if name == "resnet_like":
        for sizes in ((32, 32, 64), (128, 128, 256), (128, 256, 512)):
            blocks.append(TorchResBlock(outputs, sizes))
            outputs = sizes[-1]
    else:
        blocks.append(TorchConvModule(outputs, 96))
        outputs = 96
        for stage in INCEPTION_STAGES:
            blocks.append(TorchInceptionModule(outputs, *stage) if isinstance(stage, tuple)
                          else TorchDownsampleModule(outputs, stage))
            outputs = blocks[-1].outputs
    return nn.Sequential(*blocks, GlobalAverage(), nn.Linear(outputs, num_classes))


def load_weights(model: nn.Module, weights: Sequence[np.ndarray]) -> None:
    """Copies Keras's list of weights into a module, by position.

    Args:
      model: what `create` returned.
      weights: list of float32 arrays in the order of Keras: kernel [h, w, in, out] and bias of a convolution; gamma,
        beta, moving mean and variance of a normalization; kernel [in, out] and bias of a dense layer.
    """
    rest = list(weights)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(torch.from_numpy(rest.pop(0)).permute(3, 2, 0, 1))
                module.bias.copy_(torch.from_numpy(rest.pop(0)))
            elif isinstance(module, nn.Linear):
                module.weight.copy_(torch.from_numpy(rest.pop(0)).T)
                module.bias.copy_(torch.from_numpy(rest.pop(0)))
            elif isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.copy_(torch.from_numpy(rest.pop(0)))
    if rest:
        raise ValueError(f"{len(rest)} arrays of weights are left over")
