"""What a maximum-likelihood object is to be taken for, once its photon noise is counted in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ptycho_torch.networks.unet import UNet

SEEN = ("Re O − 1", "Im O", "Re d", "Im d", "σ", "0.1 ln σ", "√brightness")
"""What it looks at, channel by channel: object O, the next step d of its likelihood, photon noise σ, illumination."""
NOISELESS = 1e-5
"""Less photon noise than this is none."""


class PosteriorMean(nn.Module):
    """E[object | maximum-likelihood object Ô] − Ô, learned by least squares: `[b, 7, H, W]` → `[b, 2, H, W]`.

    A U-Net looks at `SEEN`, at d in units of σ, and answers in units of σ: it changes little where there is little
    noise. The mean over objects like those of the training that could have given Ô has the least
    expected square error of all pictures of it; it is smoother than any one of them. Source: Robbins 1956; Zhang et
    al. 2017 (denoising by a network).
    """

    def __init__(self, *, width: int = 24, levels: int = 4) -> None:
        super().__init__()
        self.unet = UNet(len(SEEN), 2, width=width, levels=levels)

    @property
    def reach(self) -> int:
        """How far [px] an input pixel can act on the output."""
        return self.unet.reach

    def forward(self, seen: Tensor) -> Tensor:
        obj, step, noise, rest = seen.split([2, 2, 1, 2], dim=1)
        noise = noise.clamp_min(NOISELESS)
        return noise * self.unet(torch.cat([obj, step / noise, noise, rest], dim=1))
