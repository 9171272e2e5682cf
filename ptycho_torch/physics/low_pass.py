"""The low spatial frequencies of an object, and objects that share them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

DETAIL_PX = 2.0
"""Standard deviation of the Gaussian that separates low spatial frequencies from details."""

DARK_POWER = 1e-3
"""Power, of the largest, below which the low-frequency factor becomes that of all pixels."""


def low_pass(images: Complex[Tensor, "*batch H W"]) -> Complex[Tensor, "*batch H W"]:
    """Complex images `[…, H, W]` on a periodic canvas, blurred by a Gaussian with a standard deviation of 2 px.

    Photon noise limits the high spatial frequencies of an object long before the low ones.
    """
    y, x = (torch.fft.fftfreq(side, device=images.device) for side in images.shape[-2:])
    blur = torch.exp(-2 * (math.pi * DETAIL_PX) ** 2 * (y[:, None].square() + x.square()))
    return torch.fft.ifft2(torch.fft.fft2(images) * blur)


def combine_frequencies(
    details: Complex[Tensor, "H W"], slow: Complex[Tensor, "H W"], light: Float[Tensor, "H W"]
) -> Complex[Tensor, "H W"]:
    """The details of the object `details`, the low frequencies of the object `slow`: complex64 `[H, W]`.

    O₁ = `details` times the low-pass factor that brings it nearest to O₂ = `slow`,

        O = O₁ · G∗(w O₂ O₁*) / G∗(w |O₁|²), G∗ the `low_pass`, w the illumination `light` `[H, W]`; the factor is its
    mean where there is no light.
    """
    products = torch.stack([light * slow * details.conj(), light * details.abs().square().to(details.dtype)])
    along, power = low_pass(products)
    least = DARK_POWER * power.real.max()
    return details * (along + least * along.sum() / power.sum()) / (power.real.clamp_min(0) + least)
