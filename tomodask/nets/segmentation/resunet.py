"""3D-ResUNet: the segmentation network of DeepETPicker [1]_, each of its additions switchable.

Tensors are ``(batch, channel, z, y, x)``, float; edges are multiples of `Architecture.multiple`.

.. [1] Liu et al., "DeepETPicker", Nat. Commun. 15, 2090 (2024), doi:10.1038/s41467-024-46041-0.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from tomodask.nets.segmentation.architecture import Architecture, coordinate_line

__all__ = ["ResUNet3D"]

_PRIOR = 4.0  # logit of the background before training: 98 %


class ResUNet3D(nn.Module):
    """The network; gives logits of shape (batch, `Architecture.outputs`, z, y, x).

    Parameters
    ----------
    architecture : Architecture
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        a, channels = architecture, architecture.channels
        extra = 0 if a.coordinates == "none" else 3
        block = _ResidualBlock if a.residual else _PlainBlock
        self.encoder = nn.ModuleList()
        self.decoder = nn.ModuleList()
        self.up = nn.ModuleList()
        before = 0
        for level, width in enumerate(channels):
            joined = 1 if a.pyramid or level == 0 else 0
            self.encoder.append(block(before + joined + extra, width, a.activation))
            before = width
        for fine, coarse in pairwise(channels):
            self.up.append(
                nn.ConvTranspose3d(coarse, fine, 3, stride=2, padding=1, output_padding=1)
            )
            self.decoder.append(block(fine + extra, fine, a.activation))
        self.head = nn.Conv3d(channels[0], a.outputs, 1)
        with torch.no_grad():
            # Particles fill few voxels: a network that begins by knowing so learns several times
            # as fast (Lin et al., "Focal loss", ICCV 2017, §4.1).
            self.head.bias[0] += -_PRIOR if a.outputs == 1 else _PRIOR

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of normalised tiles, shape (batch, 1, z, y, x)."""
        raw, features = x, x
        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.encoder):
            if level:
                features = self._pool(skips[-1])
                if self.architecture.pyramid:
                    raw = _average(raw)
                    features = torch.cat([features, raw.to(features.dtype)], 1)
            skips.append(block(self._located(features, level)))
        features = skips.pop()
        for level in reversed(range(len(self.up))):
            features = self.up[level](features) + skips.pop()
            features = self.decoder[level](self._located(features, level))
        return torch.as_tensor(self.head(features))

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        return (
            _average(x) if self.architecture.pooling == "average" else functional.max_pool3d(x, 2)
        )

    def _located(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Features with the channels of coordinates, where there are any."""
        a = self.architecture
        if a.coordinates == "none":
            return x
        channels = []
        for axis in range(3):
            n = x.shape[2 + axis]
            line = torch.from_numpy(coordinate_line(n, a.coordinates, a.border / 2**level))
            shape = [1, 1, 1, 1, 1]
            shape[2 + axis] = n
            line = line.to(device=x.device, dtype=x.dtype).reshape(shape)
            channels.append(line.expand(x.shape[0], 1, *x.shape[2:]))
        return torch.cat([x, *channels], 1)


def _average(x: torch.Tensor) -> torch.Tensor:
    """Means of 2³ voxels, in float32: PyTorch has no such kernel for bfloat16 on CPUs."""
    return functional.avg_pool3d(x.float(), 2).to(x.dtype)


def _activation(name: str) -> nn.Module:
    return nn.ELU(inplace=True) if name == "elu" else nn.ReLU(inplace=True)


def _convolution(before: int, width: int) -> list[nn.Module]:
    # The normalisation that follows has the bias.
    return [nn.Conv3d(before, width, 3, padding=1, bias=False), nn.BatchNorm3d(width)]


class _ResidualBlock(nn.Module):
    """Convolution, whose result is the skip; two more; sum; activation (the paper's)."""

    def __init__(self, before: int, width: int, activation: str) -> None:
        super().__init__()
        self.first = nn.Sequential(*_convolution(before, width), nn.ReLU(inplace=True))
        self.rest = nn.Sequential(
            *_convolution(width, width), nn.ReLU(inplace=True), *_convolution(width, width)
        )
        self.activation = _activation(activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.first(x)
        return torch.as_tensor(self.activation(self.rest(skip) + skip))


class _PlainBlock(nn.Sequential):
    """Two convolutions, as in a U-Net without residual connections."""

    def __init__(self, before: int, width: int, activation: str) -> None:
        super().__init__(
            *_convolution(before, width),
            _activation(activation),
            *_convolution(width, width),
            _activation(activation),
        )
