"""Denoising: a network removes the photon noise that maximum likelihood leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ptycho_torch.data.canvas import Canvas
from ptycho_torch.data.region import Region
from ptycho_torch.networks.door import from_channels, to_channels
from ptycho_torch.networks.posterior import PosteriorMean
from ptycho_torch.networks.unet import in_tiles
from ptycho_torch.physics.likelihood import poisson_nll_each
from ptycho_torch.physics.low_pass import combine_frequencies
from ptycho_torch.physics.object_step import damped_illumination
from ptycho_torch.physics.probe import illumination
from ptycho_torch.refinement.schedule import SCHEDULE
from ptycho_torch.refinement.state import Refined
from ptycho_torch.refinement.validation import gain_in_standard_errors


@dataclass(frozen=True)
class Denoising:
    """The constants of denoising; the first and the last are measured on the dose rows of the benchmark (+ 20,
    denoised), the others are not."""

    clean: float = 0.02
    """Photon noise [relative to a transmission of one] below which the correction is faded out."""
    dark_photons: float = 1e-3
    """Least number of photons per pixel in the estimate of the noise."""
    amplitude_variance: float = 0.25
    """Variance of √counts: what photon noise leaves of (√I − √n)² where there are some photons."""
    blur_px: int = 5
    """Side [detector px] of the square over which stray light is averaged."""
    significant_loss: float = 3.0
    """A denoised object is discarded if its held-out misfit is higher by this many standard errors."""


DENOISING = Denoising()


@dataclass(frozen=True, eq=False)
class Denoised:
    """The result of denoising, and its held-out misfit."""

    refined: Refined  # the denoised object if it is kept, else the given one
    before: float  # misfit per held-out pixel
    after: float
    gain: float  # mean decrease of a pattern's misfit, in standard errors
    excess: float  # mean square error of the modulus, relative to that of photon noise
    is_kept: bool

    def scores(self) -> dict[str, Any]:
        """For metrics.json."""
        return {
            "is_kept": self.is_kept,
            "likelihood_per_pixel": [self.before, self.after],
            "gain_in_standard_errors": self.gain,
            "excess_noise": self.excess,
        }


@torch.no_grad()
def denoise(region: Region, refined: Refined, network: PosteriorMean, *, rules: Denoising = DENOISING) -> Denoised:
    """The refined object without its photon noise; discarded if the held-out pixels contradict it.

    If a refinement of the object alone began from a network, there are two candidates: the refined object, and the
    network's object with the low frequencies of the last sweep (`combine_frequencies`). Each is corrected by the
    posterior mean times min(1, σ / 0.02), for the photon noise σ; the second is taken unless the first has a lower
    held-out misfit.
    A smooth object scatters less light to large angles than the true one, whose details are lost in noise. Each object
    is therefore evaluated with a background from the fitted patterns, the same for all: I + b, b = max(0, mean of
    n − I). Where nothing is held out, the object is not changed.
    """
    before = _held_out_misfits(region, refined, rules)
    candidate, excess = _without_noise(region, refined, network, rules)
    after = _held_out_misfits(region, candidate, rules)
    has_details = refined.start != "flat" and not refined.unknowns.has_free_gauge
    if has_details and refined.initial is not None and refined.last is not None:
        combined = combine_frequencies(refined.initial, refined.last.object, region.illumination())
        other, other_excess = _without_noise(region, replace(refined, object=combined), network, rules)
        values = _held_out_misfits(region, other, rules)
        if gain_in_standard_errors(values, after) < SCHEDULE.equivalent_gain:
            candidate, after, excess = other, values, other_excess
    gain = gain_in_standard_errors(before, after) if region.validation_patterns else -math.inf
    is_kept = gain > -rules.significant_loss
    kept = candidate if is_kept else refined
    return Denoised(kept, float(before.mean()), float(after.mean()), gain, excess, is_kept)


def _without_noise(region: Region, refined: Refined, network: PosteriorMean, rules: Denoising) -> tuple[Refined, float]:
    """The object with the correction of the posterior mean, and the excess of the misfit over photon noise before
    it."""
    seen, excess = network_input(region, refined, rules=rules)
    correction = in_tiles(network, seen) * (seen[4] / rules.clean).clamp(max=1)
    move = from_channels(correction, region.uniform_transmission)
    return replace(refined, object=refined.object + move), excess


def _held_out_misfits(region: Region, refined: Refined, rules: Denoising) -> Tensor:
    """Poisson misfit per held-out pixel of each pattern, with stray light: float64 `[n]`."""
    stray = stray_light(region, refined, blur_px=rules.blur_px)
    values = []
    for batch in region.validation_batches():
        predicted = region.forward.counts(refined.object, refined.exposure(batch, refined.unknowns))
        values.append(poisson_nll_each(predicted + stray, batch.amplitude.square(), batch.valid))
    return torch.cat(values).double()


def stray_light(region: Region, refined: Refined, *, blur_px: int) -> Tensor:
    """max(0, mean over patterns of n − I), averaged over a square of `blur_px`: photons per detector pixel `[N, N]`."""
    missing = torch.zeros((region.n, region.n), device=region.device)
    times = torch.zeros_like(missing)
    for batch in region.batches():
        predicted = region.forward.counts(refined.object, refined.exposure(batch, refined.unknowns))
        missing += ((batch.amplitude.square() - predicted) * batch.valid).sum(0)
        times += batch.valid.expand(batch.amplitude.shape).sum(0)
    mean = (missing / times.clamp_min(1)).clamp_min(0)[None, None]
    return F.avg_pool2d(F.pad(mean, (blur_px // 2,) * 4, mode="circular"), blur_px, 1)[0, 0]


def network_input(region: Region, refined: Refined, *, rules: Denoising = DENOISING) -> tuple[Tensor, float]:
    """The input of a `PosteriorMean`, `[7, H, W]`, and the excess of the misfit over photon noise.

    The relative noise of a pixel is √(excess / n), for n photons through that pixel of the uniform object.
    """
    canvas = Canvas.empty(region.origin, region.shape, device=region.device)
    error = expected = 0.0
    for batch in region.batches():
        at = refined.exposure(batch, refined.unknowns)
        patches = region.forward.patches(refined.object, at)
        correction, _ = region.forward.correction(
            patches, at.probe, batch.amplitude, batch.valid, likelihood=refined.likelihood, least=batch.least
        )
        canvas = canvas.lay((at.probe.conj() * correction).sum(1), at.corners, illumination(at.probe))
        predicted = region.forward.counts(refined.object, at)
        error += float(((predicted.sqrt() - batch.amplitude).square() * batch.valid).sum())
        expected += float((predicted.clamp(max=rules.amplitude_variance) * batch.valid).sum())
    excess = error / max(expected, 1e-30)
    unit, light = region.uniform_transmission, canvas.weight
    noise = (excess / (unit**2 * light).clamp_min(rules.dark_photons)).sqrt().clamp(max=1)
    step = canvas.summed / damped_illumination(light)
    brightness = (light / light.max()).sqrt()
    channels = to_channels((refined.object - unit, step), unit)
    return torch.stack([*channels, noise, 0.1 * noise.log(), brightness]), excess


def in_words(found: Denoised) -> str:
    """One line of text."""
    if not math.isfinite(found.gain):
        return "denoising: discarded, no pattern is held out to check it"
    change = f"held-out misfit {found.before:.5g} -> {found.after:.5g} per pixel, {found.gain:+.1f} standard errors"
    return f"denoising: {change}" + ("" if found.is_kept else "; discarded, the maximum-likelihood object is kept")
