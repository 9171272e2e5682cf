"""Blurring that tells the slow parts of an object from its details."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

DETAIL_PX = 2.0
"""Standard deviation of the Gaussian that tells slow parts from details."""


DARKEST = 1e-3
"""Power, of the largest, below which a slow factor becomes that of all pixels."""


def slow_part(pictures: Complex[Tensor, "*batch H W"]) -> Complex[Tensor, "*batch H W"]:
    """Complex pictures `[…, H, W]` on a periodic canvas, blurred by a Gaussian with a standard deviation of 2 px.

    Photon noise covers details long before it covers the slow parts of an object, which many photons have seen.
    """
    y, x = (torch.fft.fftfreq(side, device=pictures.device) for side in pictures.shape[-2:])
    blur = torch.exp(-2 * (math.pi * DETAIL_PX) ** 2 * (y[:, None].square() + x.square()))
    return torch.fft.ifft2(torch.fft.fft2(pictures) * blur)


def slowly_refined(
    first: Complex[Tensor, "H W"], last: Complex[Tensor, "H W"], light: Float[Tensor, "H W"]
) -> Complex[Tensor, "H W"]:
    """The details of the object `first`, the slow parts of `last`: complex64 `[H, W]`.

    `first` times the slow factor that brings it nearest to `last`,

        O = O₁ · G∗(w O₂ O₁*) / G∗(w |O₁|²), G∗ the `slow_part`, w the illumination `light` `[H, W]`; the factor is
    its mean where there is no light.
    """
    products = torch.stack([light * last * first.conj(), light * first.abs().square().to(first.dtype)])
    along, power = slow_part(products)
    least = DARKEST * power.real.max()
    return first * (along + least * along.sum() / power.sum()) / (power.real.clamp_min(0) + least)
