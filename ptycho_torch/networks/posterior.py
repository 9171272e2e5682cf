"""The posterior mean of an object, given its noisy maximum-likelihood reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ptycho_torch.networks.unet import UNet

CHANNELS = ("Re O − 1", "Im O", "Re d", "Im d", "σ", "0.1 ln σ", "√brightness")
"""The input channels: object O, the next step d of its likelihood, photon noise σ, illumination."""
LEAST_NOISE = 1e-5
"""Least photon noise that the input is divided by."""


class PosteriorMean(nn.Module):
    """E[object | maximum-likelihood object Ô] − Ô, learned by least squares: `[b, 7, H, W]` → `[b, 2, H, W]`.

    The input of the U-Net is `CHANNELS`, with d divided by σ; its output is multiplied by σ: the correction is small
    where there is little noise. The posterior mean has the least expected square error of all estimates; it is smoother
    than any sample of the posterior. Source: Robbins 1956; Zhang et al. 2017 (denoising by a network).
    """

    def __init__(self, *, width: int = 24, levels: int = 4) -> None:
        super().__init__()
        self.unet = UNet(len(CHANNELS), 2, width=width, levels=levels)

    @property
    def reach(self) -> int:
        """Largest distance [px] over which an input pixel affects the output."""
        return self.unet.reach

    def forward(self, seen: Tensor) -> Tensor:
        obj, step, noise, rest = seen.split([2, 2, 1, 2], dim=1)
        noise = noise.clamp_min(LEAST_NOISE)
        return noise * self.unet(torch.cat([obj, step / noise, noise, rest], dim=1))
