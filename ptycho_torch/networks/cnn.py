"""The encoder–decoder of the PtychoPINN family: diffraction amplitudes in, object patches out."""

from __future__ import annotations

import itertools
import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptycho_torch.data.canvas import Canvas, synchronise_phases
from ptycho_torch.data.region import Region
from ptycho_torch.physics.probe import illumination

BORDER_CHANNELS = 4
"""Decoder channels for the coarse border; the others are for the detailed centre."""


class Cnn(nn.Module):
    """Groups of `group_size` neighbouring patterns to as many patches, merged on the region's canvas.

    Encoder: two 3 × 3 convolutions and a pooling per level, down to about 8 × 8. Two decoders, for amplitude (SiLU) and
    phase (π·tanh), stop at half size; a head fills the central N/2 pixels in detail and the border coarsely. A pattern
    does not determine the global phase of its patch, so patches are brought to one phase before they are merged over
    the whole batch. Source: Hoidn et al. 2023 (PtychoPINN); the layer sizes are that family's.
    """

    def __init__(self, n: int, *, group_size: int = 1) -> None:
        super().__init__()
        self.n, self.group_size = n, group_size
        widths = _widths(n)
        self.step = 2 ** len(widths)
        self.encoder = nn.Sequential(*_stack([group_size, *widths], nn.MaxPool2d(2)))
        self.amplitude = _Decoder(widths, group_size)
        self.phase = _Decoder(widths, group_size)
        self.amplitude.start_at(1.2785)  # SiLU of it is one: training starts at a transparent object

    def forward(self, region: Region) -> Tensor:
        """The object canvas `[H, W]`, transmission; the region's patterns come in groups of `group_size` neighbours."""
        unit = (self.n / 2) / math.sqrt(region.photons)
        light = illumination(region.probe)
        weight = light + 1e-3 * light.max()
        canvas = Canvas.empty((0, 0), region.shape, device=region.device)
        for batch in region.batches():
            patches = self.patches(unit * batch.amplitude)
            phases = synchronise_phases(patches.detach(), batch.positions, weight, canvas)
            canvas = canvas.add(patches * phases.conj()[:, None, None], batch.positions, weight)
        found = torch.where(canvas.weight > 0, canvas.resolve(), torch.ones_like(canvas.summed))
        return region.uniform_transmission * found

    def patches(self, amplitude: Tensor) -> Tensor:
        """Complex patches `[b, N, N]` from network-unit amplitudes `[b, N, N]`, b a multiple of the group size."""
        side = -(-self.n // self.step) * self.step
        before = (side - self.n) // 2
        after = side - self.n - before
        groups = amplitude.reshape(-1, self.group_size, self.n, self.n)
        code = self.encoder(F.pad(groups, (before, after, before, after)))
        inner = slice(before, before + self.n)
        modulus = F.silu(self.amplitude(code).float())[..., inner, inner]
        phase = math.pi * torch.tanh(self.phase(code).float())[..., inner, inner]
        return torch.polar(modulus, phase).reshape(-1, self.n, self.n)


class _Decoder(nn.Module):
    def __init__(self, widths: list[int], group_size: int) -> None:
        super().__init__()
        self.up = nn.Sequential(*_stack(widths[::-1], nn.Upsample(scale_factor=2, mode="nearest"), before=True))
        last = widths[0]
        self.centre = nn.Conv2d(last - BORDER_CHANNELS, group_size, 3, padding=1)
        self.border = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(BORDER_CHANNELS, last, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(last, last, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(last, group_size, 3, padding=1),
        )

    def start_at(self, value: float) -> None:
        """Draw this value everywhere, but for what random weights add."""
        for head in (self.centre, self.border[-1]):
            nn.init.constant_(cast(Tensor, head.bias), value)

    def forward(self, code: Tensor) -> Tensor:
        half = self.up(code)
        quarter = half.shape[-1] // 2
        centre = F.pad(self.centre(half[:, BORDER_CHANNELS:]), (quarter,) * 4)
        inside = F.pad(half.new_ones(half.shape[-2:]), (quarter,) * 4)
        return centre + (1 - inside) * self.border(half[:, :BORDER_CHANNELS])


def _widths(n: int) -> list[int]:
    """Channels of the encoder levels: 64…256 below N = 128, 32…256 below 256, 16…256 from there."""
    return [256 >> level for level in range(3 if n < 128 else 4 if n < 256 else 5)][::-1]


def _stack(widths: list[int], resize: nn.Module, *, before: bool = False) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for wide_in, wide_out in itertools.pairwise(widths):
        block = [nn.Conv2d(wide_in, wide_out, 3, padding=1), nn.ReLU()]
        block += [nn.Conv2d(wide_out, wide_out, 3, padding=1), nn.ReLU()]
        layers += [resize, *block] if before else [*block, resize]
    return layers
