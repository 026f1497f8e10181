"""Convolutional units."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from intff_lightning.errors import ConfigurationError, check_choice
from intff_lightning.units.hidden import HiddenUnit, Initialization, activation_layer, initialize

Norm = Literal["none", "batch", "group"]


def _norm(kind: Norm, channels: int, groups: int) -> list[nn.Module]:
    if kind == "none":
        return []
    return [nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(groups, channels)]


class ResidualBlock(nn.Module):
    """A layer beside a shortcut: ``activation(layer(x) + shortcut(x))``. The shortcut projects if sizes change.

    Args:
        layer: Convolution and normalization.
        shortcut: Identity, or a 1x1 convolution.
        activation: Activation function of the sum.
    """

    def __init__(self, layer: nn.Module, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.layer, self.shortcut, self.activation = layer, shortcut, activation

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.activation(self.layer(x) + self.shortcut(x))
        return h


class ConvUnit(HiddenUnit):
    """A unit of convolutions: ``[Conv -> norm -> activation]`` per entry of ``channels``, then pooling.

    A last ReLU follows the pooling at the end, which gives the same output. Inputs are images or maps ``(C, H, W)``.
    Batch normalization computes its statistics over positive and negative data together.

    Args:
        channels: Number of output channels of each layer.
        kernel_size: Kernel size of all layers, odd; padding keeps height and width.
        stride: Stride of the first layer.
        pool: Size of the max-pooling at the end, 1 for none; or one size per layer, to pool right after its
            convolution, so that normalization and activation have less to do.
        norm: Normalization after each convolution: ``none``, ``batch`` or ``group``.
        groups: Number of groups of the group normalization; no other ``norm`` has any.
        residual: Add each layer's input to its output (He et al. 2016).
        activation: Activation function after each layer, by the name of its class in :mod:`torch.nn`.
        initialization: Initialization of the weights, see :class:`~intff_lightning.units.DenseUnit`.
        channels_last: Keep weights and activations in torch's ``channels_last`` memory format, in which convolutions
            are faster on many devices. Results differ by rounding.
        **options: Arguments of :class:`~intff_lightning.units.HiddenUnit`.
    """

    def __init__(
        self,
        channels: list[int],
        kernel_size: int = 3,
        stride: int = 1,
        pool: int | list[int] = 2,
        norm: Norm = "none",
        groups: int = 8,
        residual: bool = False,
        activation: str = "ReLU",
        initialization: Initialization = "kaiming_normal",
        channels_last: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(nn.Identity(), **options)
        if not channels or min(channels) < 1:
            raise ConfigurationError(f"channels={list(channels)}: one or more layers are needed, each of 1 or more.")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigurationError(f"kernel_size={kernel_size}: an odd number is needed.")
        sizes = [pool] if isinstance(pool, int) else list(pool)
        if stride < 1 or min(sizes, default=0) < 1:
            raise ConfigurationError(f"stride={stride} and pool={pool} must be 1 or more.")
        if not isinstance(pool, int) and (residual or len(sizes) != len(channels)):
            raise ConfigurationError(
                f"pool={sizes}: a list needs one size per layer, here {len(channels)}, and no residual layers."
            )
        check_choice("norm", norm, Norm)
        if norm == "group" and any(width % groups for width in channels):
            raise ConfigurationError(f"groups={groups} does not divide channels={list(channels)}.")
        if norm != "group" and groups != 8:  # configs give the default too
            raise ConfigurationError(f"groups={groups} has no effect with norm={norm}: leave groups out.")
        check_choice("initialization", initialization, Initialization)
        activation_layer(activation)  # refuses unknown names now, not when the body is built
        self.channels, self.kernel_size, self.stride = list(channels), kernel_size, stride
        self.pool = pool if isinstance(pool, int) else sizes
        self.norm, self.groups, self.residual = norm, groups, residual
        self.activation, self.initialization, self.channels_last = activation, initialization, channels_last

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        if len(input_shape) != 3:
            raise ConfigurationError(
                f"is convolutional and needs maps (C, H, W), not an input of shape {input_shape}: put it first, or "
                "after units whose output is maps."
            )
        layers: list[nn.Module] = []
        before = input_shape[0]
        for number, width in enumerate(self.channels):
            stride = self.stride if number == 0 else 1
            conv: list[nn.Module] = [self._conv(before, width, self.kernel_size, stride)]
            if isinstance(self.pool, list) and self.pool[number] > 1:
                conv.append(nn.MaxPool2d(self.pool[number]))
            layer = nn.Sequential(*conv, *_norm(self.norm, width, self.groups))
            activation = activation_layer(self.activation)
            if self.residual:
                same = before == width and stride == 1
                layers.append(
                    ResidualBlock(layer, nn.Identity() if same else self._conv(before, width, 1, stride), activation)
                )
            else:
                layers.append(layer.append(activation))
            before = width
        if isinstance(self.pool, int) and self.pool > 1:
            pool, last = nn.MaxPool2d(self.pool), layers[-1]
            if isinstance(last, nn.Sequential) and isinstance(last[-1], nn.ReLU):
                last.insert(len(last) - 1, pool)  # the same bits, and ReLU has less to do
            else:
                layers.append(pool)
        return nn.Sequential(*layers)

    def _conv(self, before: int, width: int, kernel_size: int, stride: int) -> nn.Conv2d:
        # the normalization has its own bias
        conv = nn.Conv2d(before, width, kernel_size, stride, kernel_size // 2, bias=self.norm == "none")
        initialize(conv, self.initialization)
        # convolutions give their outputs the format of their weights
        return conv.to(memory_format=torch.channels_last) if self.channels_last else conv

    def describe(self) -> str:
        parts = [f"conv {'-'.join(map(str, self.channels))}", f"{self.kernel_size}x{self.kernel_size}"]
        parts += ["residual"] if self.residual else []
        parts += [f"{self.norm} norm"] if self.norm != "none" else []
        sizes = [self.pool] if isinstance(self.pool, int) else self.pool
        parts += [f"pool {'-'.join(map(str, sizes))}"] if max(sizes) > 1 else []
        return " ".join([*parts, self.activation])
