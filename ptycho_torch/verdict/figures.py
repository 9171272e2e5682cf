"""Figures of a reconstruction: how well its object explains the patterns that it was made from.

Each compares with what is known without the truth: photon noise, a model without object, other positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.data.grouping import central_region
from ptycho_torch.data.held_out import ValidationSet, held_out_pixels
from ptycho_torch.data.region import Batch, Region
from ptycho_torch.data.subsets import overlap
from ptycho_torch.physics.photon_noise import LEAST, noise_of
from ptycho_torch.types import Examples
from ptycho_torch.verdict.own_prediction import DARK, OwnPrediction, own_prediction

COMPARED_VALUES = 2**19
"""Most detector pixels whose predictions are compared with those of other positions, in patterns from the centre."""
WORST = 0.01
"""Share of the pixels, or of the patterns, whose part in the misfit beyond noise is told."""


class Gain(NamedTuple):
    """The log-likelihood of some pixels under the predictions, less that under the mean pattern."""

    found: float
    expected: float  # if the predictions are right
    error: float  # standard deviation by photon noise

    @property
    def share(self) -> float:
        """Found over expected; NaN where the predictions are the mean pattern, or there are no such pixels."""
        return self.found / self.expected if self.expected > 0 else math.nan

    @property
    def relative_error(self) -> float:
        """The standard deviation of the share by photon noise; NaN as there."""
        return self.error / self.expected if self.expected > 0 else math.nan


@dataclass(frozen=True, eq=False)
class Figures:
    """What was measured of an object and its patterns; sums are over valid pixels."""

    misfit: np.ndarray  # float64 [n], Σ(√λ − √n)² of each pattern
    photons: np.ndarray  # float64 [n], Σ n
    predicted_photons: np.ndarray  # float64 [n], Σ λ
    floor: np.ndarray  # float64 [n], what photon noise alone leaves of the misfit, Σ E[(√n − √λ)²]
    deviance: float  # Σ 2(λ − n + n ln(n/λ))
    expected_deviance: float  # by photon noise alone
    pixels: int  # valid ones, of all patterns
    null_misfit: float  # Σ(√n̄ − √n)², every pattern being the mean pattern n̄
    pixel_misfit: np.ndarray  # float64 [N, N], Σ_j(√λ − √n)²
    pixel_floor: np.ndarray  # float64 [N, N]
    mean_measured: np.ndarray  # float64 [N, N], photons
    mean_predicted: np.ndarray  # float64 [N, N], photons
    correlation: float  # of the measured and the predicted differences from the mean pattern, in √counts
    fitted: Gain  # on the pixels that the steps used
    held_out: Gain  # on pixels that no step used
    own: OwnPrediction
    patterns_per_pixel: float  # that illuminate an object pixel, averaged over the illumination
    span_px: float  # of the positions, the longer side
    examples: Examples

    @property
    def misfit_r(self) -> float:
        """R = √(Σ(√λ − √n)² / Σ n)."""
        return math.sqrt(self.misfit.sum() / self.photons.sum())

    @property
    def r_over_floor(self) -> float:
        """R over that of photon noise alone."""
        return math.sqrt(self.misfit.sum() / max(self.floor.sum(), 1e-30))

    @property
    def r_over_null(self) -> float:
        """R over that of a model without object, every pattern being the mean pattern."""
        return math.sqrt(self.misfit.sum() / max(self.null_misfit, 1e-30))

    @property
    def deviance_per_pixel(self) -> float:
        """The Poisson deviance per valid pixel."""
        return self.deviance / self.pixels

    @property
    def deviance_over_expected(self) -> float:
        """The Poisson deviance over that of photon noise alone."""
        return self.deviance / self.expected_deviance

    @property
    def null_over_floor(self) -> float:
        """R of the model without object over that of photon noise alone."""
        return math.sqrt(max(self.null_misfit, 0.0) / max(self.floor.sum(), 1e-30))

    @property
    def explained(self) -> Gain:
        """The gain over the mean pattern on pixels that no step used; on the others where none was held out."""
        return self.fitted if math.isnan(self.held_out.share) else self.held_out

    @property
    def misfit_in_worst_pixels(self) -> float:
        """The share of the misfit beyond noise that lies in the worst hundredth of the detector's pixels."""
        return _in_the_worst(self.pixel_misfit - self.pixel_floor)

    @property
    def misfit_in_worst_patterns(self) -> float:
        """The share of the misfit beyond noise that lies in the worst hundredth of the patterns, one at least."""
        return _in_the_worst(self.misfit - self.floor)

    @property
    def unexplained(self) -> float:
        """The share of the patterns' differences, beyond photon noise, that the object leaves:
        (R² − floor²)/(R₀² − floor²)."""
        floor = self.floor.sum()
        return float(max(self.misfit.sum() - floor, 0.0) / max(self.null_misfit - floor, 1e-3 * floor))

    @property
    def unexplained_error(self) -> float:
        """The standard deviation of `unexplained` by photon noise: (√n − √λ)² has half its mean as variance, for few
        photons and for many."""
        floor = self.floor.sum()
        return float(math.sqrt(0.5 * floor) / max(self.null_misfit - floor, 1e-3 * floor))


def _in_the_worst(excess: np.ndarray) -> float:
    values = np.sort(np.maximum(excess, 0).ravel())[::-1]
    return float(values[: max(1, round(WORST * values.size))].sum() / max(values.sum(), 1e-30))


@torch.no_grad()
def figures_of(
    obj: Tensor,
    region: Region,
    *,
    intensities: Tensor | None = None,
    validation: ValidationSet | None = None,
) -> Figures:
    """The figures of an object `[H, W]` on the canvas of a region that holds all patterns.

    `intensities` `[n]` multiply the expected counts of the region's patterns; `validation` says which pixels of which
    patterns (counted in the order of the scan) no step has used.
    """
    factors = torch.ones(len(region), device=region.device) if intensities is None else intensities
    null, compared, held_out = _MeanPattern.of(region), _compared(region), _HeldOut.of(region, validation)
    per_pattern, per_pixel = list[Tensor](), torch.zeros(8, region.n, region.n, dtype=torch.float64)
    sums, kept = torch.zeros(8, dtype=torch.float64), dict[int, tuple[Tensor, ...]]()
    for batch in region.batches():
        valid = batch.valid.float()
        predicted = region.forward.counts(obj, batch) * factors[batch.index, None, None] * valid
        measured, roots = batch.amplitude * valid, predicted.sqrt()
        counts, misfit = measured.square(), (roots - measured).square()
        floor, expected = noise_of(predicted)
        each = [part.sum((-2, -1)).double() for part in (misfit, counts, predicted, floor)]
        per_pattern.append(torch.stack([*each, batch.index.double()]).cpu())
        parts = (misfit, floor, counts, predicted, measured, roots, roots * measured, valid.expand_as(counts))
        per_pixel += torch.stack([part.sum(0) for part in parts]).cpu()
        deviance = 2 * (predicted - counts + torch.xlogy(counts, counts.clamp_min(LEAST) / predicted.clamp_min(LEAST)))
        noise = torch.stack([deviance.sum(), (expected * valid).sum()])
        gains = _gains(predicted, counts, null, batch.valid, held_out.pixels(batch))
        sums += torch.cat([noise.double(), gains]).cpu()
        for place, number in enumerate(batch.index.tolist()):
            if number in compared:
                kept[number] = predicted[place], counts[place], batch.valid.expand(counts.shape)[place]
    order = sorted(kept, key=compared.__getitem__)
    predictions, measurements, masks = (torch.stack([kept[number][part] for number in order]) for part in range(3))
    own = own_prediction(
        predictions,
        measurements,
        masks,
        torch.as_tensor(region.scan.positions[region.indices[order]], device=region.device),
    )
    table = torch.cat(per_pattern, 1).numpy()
    table = table[:4, np.argsort(table[4])]
    misfits, floors, counts_, predicted_, measured_, roots_, products, times = per_pixel.numpy()
    pixels, times = times.sum(), np.maximum(times, 1)
    mean = counts_ / times
    together = (products - roots_ * measured_ / times).sum()
    apart = (predicted_ - roots_**2 / times).sum() * (counts_ - measured_**2 / times).sum()
    deviance_, expected, *gains_ = sums.tolist()
    return Figures(
        misfit=table[0],
        photons=table[1],
        predicted_photons=table[2],
        floor=table[3],
        deviance=deviance_,
        expected_deviance=expected,
        pixels=round(float(pixels)),
        null_misfit=float((2 * counts_ - 2 * np.sqrt(mean) * measured_).sum()),
        pixel_misfit=misfits,
        pixel_floor=floors,
        mean_measured=mean,
        mean_predicted=predicted_ / times,
        correlation=float(together / math.sqrt(max(apart, 1e-30))),
        fitted=Gain(gains_[0], gains_[1], math.sqrt(gains_[2])),
        held_out=Gain(gains_[3], gains_[4], math.sqrt(gains_[5])),
        own=own,
        patterns_per_pixel=overlap(region.scan.positions[region.indices], region.probe),
        span_px=float(np.ptp(region.scan.positions[region.indices], axis=0).max()),
        examples=_examples(obj, region, factors, table, (mean, predicted_ / times)),
    )


@dataclass(frozen=True, eq=False)
class _MeanPattern:
    """The model without object: every pattern is the mean pattern."""

    total: Tensor  # [N, N], photons of all patterns where a pixel is valid
    times: Tensor  # [N, N], how often that is

    @classmethod
    def of(cls, region: Region) -> _MeanPattern:
        def sums(batch: Batch) -> Tensor:
            times = batch.valid.expand(batch.amplitude.shape).sum(0)
            return torch.stack([torch.linalg.vector_norm(batch.amplitude * batch.valid, dim=0).square(), times])

        return cls(*region.total(sums))

    def for_patterns(self, counts: Tensor) -> Tensor:
        """The mean of the others for each pattern `[b, N, N]`: independent of its photon noise, so that the gain of
        right predictions over it has no bias."""
        return (self.total - counts).clamp_min(0) / (self.times - 1).clamp_min(1)

    @property
    def dark(self) -> Tensor:
        """Counts that are added wherever logarithms are compared, `[N, N]`: a pixel that never saw a photon might."""
        mean = self.total / self.times.clamp_min(1)
        return DARK * mean.mean() + 1 / self.times.clamp_min(1)


def _compared(region: Region) -> dict[int, int]:
    """Places in the region of the patterns that are compared with each other, and their order."""
    numbers, first = np.unique(region.indices, return_index=True)
    count = min(len(numbers), max(2, COMPARED_VALUES // region.n**2))
    chosen = central_region(region.scan.positions[numbers], count)
    return {int(first[place]): order for order, place in enumerate(chosen)}


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """The pixels that no step has used."""

    numbers: np.ndarray  # of the scan, for each place in the region
    is_member: np.ndarray  # bool, for each place in the region
    every: int

    @classmethod
    def of(cls, region: Region, validation: ValidationSet | None) -> _HeldOut:
        patterns, every = (np.arange(0), 1) if validation is None else validation
        return cls(region.indices, np.isin(region.indices, np.unique(region.indices)[patterns]), every)

    def pixels(self, batch: Batch) -> Tensor:
        """Those of a batch, bool `[b, N, N]`."""
        places, n = batch.index.cpu().numpy(), batch.amplitude.shape[-1]
        unused = held_out_pixels(self.numbers[places], n, every=self.every) & self.is_member[places, None, None]
        return torch.from_numpy(unused).to(batch.amplitude.device)


def _gains(predicted: Tensor, counts: Tensor, null: _MeanPattern, valid: Tensor, unused: Tensor) -> Tensor:
    """Σ n ln(λ/n̄) − λ + n̄, its expectation with n = λ, and its variance by photon noise: float64 `[6]`, over the valid
    pixels that steps have used, then over the others."""
    own, other = predicted + null.dark, null.for_patterns(counts) + null.dark
    ratio, cost = (own / other).log(), own - other
    parts = ((counts + null.dark) * ratio - cost, own * ratio - cost, predicted * ratio.square())
    pixels = torch.stack([valid & ~unused, valid & unused]).flatten(1).float()
    return torch.stack([pixels @ part.flatten() for part in parts], 1).flatten().double()


def _examples(
    obj: Tensor, region: Region, factors: Tensor, table: np.ndarray, means: tuple[np.ndarray, np.ndarray]
) -> Examples:
    """The mean pattern, and those with the median and the largest misfit relative to photon noise."""
    order = np.argsort(table[0] / np.maximum(table[3], 1e-30))
    places = np.array([order[len(order) // 2], order[-1]])
    batch = region.pick(places)
    predicted = region.forward.counts(obj, batch) * factors[batch.index, None, None]
    names = [
        f"{name} (pattern {region.indices[place]})" for name, place in zip(("median", "worst"), places, strict=True)
    ]
    valid = batch.valid.expand(predicted.shape).cpu().numpy()
    seen = region.valid.cpu().numpy()
    return Examples(
        (f"mean of {len(order)}", *names),
        np.concatenate([means[0][None], batch.amplitude.square().cpu().numpy()]).astype(np.float32),
        np.concatenate([means[1][None], predicted.cpu().numpy()]).astype(np.float32),
        np.concatenate([seen[None], valid]),
    )
