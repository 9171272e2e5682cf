"""A light U-Net in object space."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TILE = 512
"""Side [px] of the tiles in which a large canvas goes through a network when no gradient is wanted."""


class UNet(nn.Module):
    """Image to image, real `[1, channels_in, H, W]` → `[1, channels_out, H, W]`; H, W multiples of 2^(levels−1).

    Each level is two 3 × 3 convolutions; width doubles as the image halves (average pooling down, nearest up, skips
    added). No normalisation over space, so a tile with a margin of `reach` pixels gives the result of the whole image.
    The last convolution starts at zero: before training the output is zero. Source: Ronneberger et al. 2015.
    """

    def __init__(self, channels_in: int, channels_out: int, *, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.levels = levels
        self.down = nn.ModuleList(
            _Block(channels_in if level == 0 else widths[level - 1], widths[level]) for level in range(levels)
        )
        self.narrow = nn.ModuleList(nn.Conv2d(widths[level], widths[level - 1], 1) for level in range(1, levels))
        self.up = nn.ModuleList(_Block(widths[level - 1], widths[level - 1]) for level in range(1, levels))
        self.last = nn.Conv2d(width, channels_out, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)

    @property
    def reach(self) -> int:
        """How far [px] an input pixel can act on the output, rounded up to the coarsest grid."""
        coarsest = 2 ** (self.levels - 1)
        radius = 1 + sum(4 * 2**level for level in range(self.levels - 1)) + 2 * coarsest + coarsest
        return -(-radius // coarsest) * coarsest

    def forward(self, image: Tensor) -> Tensor:
        skips = []
        for level, block in enumerate(self.down):
            image = block(image if level == 0 else F.avg_pool2d(image, 2))
            skips.append(image)
        for level in range(self.levels - 1, 0, -1):
            coarse = self.narrow[level - 1](image)
            image = self.up[level - 1](skips[level - 1] + F.interpolate(coarse, scale_factor=2, mode="nearest"))
        return self.last(image)


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(image), inplace=True)), inplace=True)


class ImageToImage(Protocol):
    """A network whose output depends on its input up to `reach` pixels away."""

    @property
    def reach(self) -> int:
        """Pixels, a multiple of the coarsest grid."""

    def __call__(self, image: Tensor) -> Tensor:
        """`[1, channels, H, W]` to the same with other channels."""


def in_tiles(network: ImageToImage, seen: Tensor) -> Tensor:
    """What a network makes of a whole image `[channels, H, W]`; a large one goes through it tile by tile."""
    if torch.is_grad_enabled() or max(seen.shape[-2:]) <= TILE:
        return _apply(network, seen)
    margin, (height, width) = network.reach, seen.shape[-2:]
    rows = []
    for top in range(0, height, TILE):
        row = []
        for left in range(0, width, TILE):
            y, x = max(top - margin, 0), max(left - margin, 0)
            part = _apply(network, seen[:, y : top + TILE + margin, x : left + TILE + margin])
            row.append(part[:, top - y : top - y + TILE, left - x : left - x + TILE])
        rows.append(torch.cat(row, dim=-1))
    return torch.cat(rows, dim=-2)


def _apply(network: ImageToImage, seen: Tensor) -> Tensor:
    return network(seen.unsqueeze(0).contiguous(memory_format=torch.channels_last))[0].float()
