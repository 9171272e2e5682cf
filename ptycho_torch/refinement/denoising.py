"""The photon noise that maximum likelihood leaves, taken out by networks that have seen many objects."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ptycho_torch.data.region import Batch, Region
from ptycho_torch.forward import Exposure
from ptycho_torch.networks.door import from_channels, to_channels
from ptycho_torch.networks.posterior import PosteriorMean
from ptycho_torch.networks.unet import in_tiles
from ptycho_torch.physics.likelihood import poisson_nll_each
from ptycho_torch.physics.low_pass import slowly_refined
from ptycho_torch.physics.patches import extract_whole, place_whole
from ptycho_torch.physics.probe import illumination
from ptycho_torch.refinement.course import AS_LIKELY, FLOOR, Course, Freedom, Refined, standard_gain

CLEAN = 0.02
"""Photon noise [relative to a transmission of one] below which the object is trusted as it is, more and more."""
DARK = 1e-3
"""Photons a pixel below which there is nothing but noise."""
QUARTER = 0.25
"""Variance of √counts: what photon noise leaves of (√I − √n)² where there are some photons."""
BLUR = 5
"""Side [detector px] of the square over which stray light is averaged."""
SIGNIFICANT = 3.0
"""A denoised object is left out when the pixels held out are less likely by this many standard errors; they are few."""


@dataclass(frozen=True, eq=False)
class Denoised:
    """What came out, and what the pixels held out say of it."""

    refined: Refined  # the denoised one where it is kept, else the one that was given
    before: float  # likelihood a pixel of the pixels held out
    after: float
    gain: float  # mean gain of a pattern, in standard errors
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
def denoise(region: Region, refined: Refined, freedom: Freedom, network: PosteriorMean) -> Denoised:
    """The refined object less its photon noise, left out where the pixels held out contradict it.

    Where a refinement of the object alone began from a network, there are two candidates: the refined object, and what
    the sweeps have made of the slow parts of the network's object (`slowly_refined`). Each is corrected by the
    posterior mean, which fades by min(1, σ / 0.02) where the photon noise σ is small; the second is taken unless the
    first is likelier.
    A smooth object scatters less light to large angles than the true one, where its details are lost in noise. So each
    object is judged with the stray light that the fitted patterns ask for beside it, the same in all patterns: I + b,
    b = max(0, mean of n − I). Where no pattern judges, the object stays as it is.
    """
    before = _likelihoods(region, refined, freedom)
    candidate, excess = _without_noise(region, refined, freedom, network)
    after = _likelihoods(region, candidate, freedom)
    may_be_slow = freedom.start != "flat" and not freedom.is_moving
    if may_be_slow and refined.first is not None and refined.last is not None:
        slow = slowly_refined(refined.first, refined.last, region.illumination())
        other, other_excess = _without_noise(region, replace(refined, object=slow), freedom, network)
        values = _likelihoods(region, other, freedom)
        if standard_gain(values, after) < AS_LIKELY:
            candidate, after, excess = other, values, other_excess
    gain = standard_gain(before, after) if region.judges else -math.inf
    is_kept = gain > -SIGNIFICANT
    kept = candidate if is_kept else refined
    return Denoised(kept, float(before.mean()), float(after.mean()), gain, excess, is_kept)


def _without_noise(region: Region, refined: Refined, freedom: Freedom, network: PosteriorMean) -> tuple[Refined, float]:
    """With the posterior mean's correction, and the excess of the misfit over photon noise before it."""
    seen, excess = look(region, refined, freedom)
    correction = in_tiles(network, seen) * (seen[4] / CLEAN).clamp(max=1)
    move = from_channels(correction, region.uniform_transmission)
    return replace(refined, object=refined.object + move), excess


def _likelihoods(region: Region, refined: Refined, freedom: Freedom) -> Tensor:
    """Poisson likelihood a pixel of the pixels held out in each pattern, with stray light: float64 `[n]`."""
    course = Course.at(region, refined, freedom)
    missing, times = torch.zeros_like(course.board), torch.zeros_like(course.board)
    for batch in region.batches():
        missing += ((batch.amplitude.square() - _predicted(course, batch)) * batch.valid).sum(0)
        times += batch.valid.expand(batch.amplitude.shape).sum(0)
    mean = (missing / times.clamp_min(1)).clamp_min(0)[None, None]
    stray = F.avg_pool2d(F.pad(mean, (BLUR // 2,) * 4, mode="circular"), BLUR, 1)[0, 0]
    values = [
        poisson_nll_each(_predicted(course, batch) + stray, batch.amplitude.square(), batch.valid)
        for batch in region.judging()
    ]
    return torch.cat(values).double()


def _predicted(course: Course, batch: Batch) -> Tensor:
    probe, corners, _ = course.probe_of(batch)
    return course.region.forward.counts(course.obj, Exposure(probe, corners))


def look(region: Region, refined: Refined, freedom: Freedom) -> tuple[Tensor, float]:
    """What a `PosteriorMean` looks at, `[7, H, W]`, and the excess of the misfit over photon noise.

    The noise of a pixel that n photons have passed, on their way to the uniform object, is √(excess / n) of it.
    """
    course = Course.at(region, refined, freedom)
    gradient = torch.zeros_like(refined.object)
    light = torch.zeros(region.shape, device=region.device)
    error = expected = 0.0
    for batch in region.batches():
        probe, corners, _ = course.probe_of(batch)
        patches = extract_whole(refined.object, corners, region.n)
        correction, _ = course.correction(batch, probe, patches)
        gradient += place_whole((probe.conj() * correction).sum(1), corners, region.shape)
        light += place_whole(illumination(probe), corners, region.shape)
        predicted = region.forward.counts(refined.object, Exposure(probe, corners))
        error += float(((predicted.sqrt() - batch.amplitude).square() * batch.valid).sum())
        expected += float((predicted.clamp(max=QUARTER) * batch.valid).sum())
    excess = error / max(expected, 1e-30)
    unit = region.uniform_transmission
    noise = (excess / (unit**2 * light).clamp_min(DARK)).sqrt().clamp(max=1)
    step = gradient / (light + FLOOR * light.max())
    brightness = (light / light.max()).sqrt()
    pictures = to_channels((refined.object - unit, step), unit)
    return torch.stack([*pictures, noise, 0.1 * noise.log(), brightness]), excess


def in_words(found: Denoised) -> str:
    """For people."""
    if not math.isfinite(found.gain):
        return "denoising: left out, no pattern judges it"
    judged = f"likelihood of the pixels held out {found.before:.5g} -> {found.after:.5g}, {found.gain:+.1f} σ"
    return f"denoising: {judged}" + ("" if found.is_kept else ": left out, the maximum-likelihood object stands")
