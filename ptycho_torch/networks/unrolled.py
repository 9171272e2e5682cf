"""The default network: a few stages of sweeps and a U-Net on the object canvas."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptycho_torch.data.region import Batch, Region
from ptycho_torch.networks.door import from_channels, to_channels
from ptycho_torch.networks.unet import UNet, in_tiles
from ptycho_torch.physics.likelihood import poisson_nll_each
from ptycho_torch.physics.object_step import damped_illumination, object_step
from ptycho_torch.physics.optics import detector_intensity
from ptycho_torch.physics.phase_gradient import slow_phase, unexplained
from ptycho_torch.physics.preconditioner import slow_phase_acceleration

INITIAL_STEPS = ((1.0, 0.5), (0.5, 0.8), (0.5, 0.85), (0.5, 0.7))
"""Step η and momentum μ of the sweeps of the first, the second … and all later stages, before any training."""
POISSON_FROM, BACKGROUND_OVER_R2 = 3, 0.12
"""The first stage, from 0, that follows the Poisson likelihood, and its background over what is left unexplained."""
EQUAL_WEIGHT_R2, LARGEST_FACTOR = 0.005, 2.0
"""Unexplained R² at which the held-out patterns have half the weight in the factor of the last correction; the largest
factor. At low dose, the held-out patterns are insensitive to the noise that the correction removes."""
UPDATE_BLUR_PX = 9
"""Side of the square over which the squared updates of the object are averaged."""
LEAST_UPDATE = 1e-5
"""Least value of the root-mean-square update s that the input is divided by."""
CHANNELS = ("Re O − 1", "Im O", "Re d", "Im d", "Re v", "Im v", "Re Ō − O", "Im Ō − O", "√brightness", "0.1 ln R²", "s")
"""Input channels: object, last update, velocity, mean object of the last sweep, …, root-mean-square update s."""


class Unrolled(nn.Module):
    """A learned, unrolled reconstruction of a region: object canvas `[H, W]`, complex transmission, from a flat object.

    A stage is `sweeps` physics sweeps. A sweep visits the patterns in interleaved subsets, each spread evenly over the
    scan, and moves the object after each of them, with momentum,

        v ← μ v + η d,   d = accelerate( g_s(O) / (I_s + 0.1 max I_s) ),   O ← O + v,

    (`object_step`) with the likelihood gradient g_s and the illumination I_s of subset s. The likelihood is the
    amplitude likelihood, from the fourth stage on the Poisson likelihood, with a background proportional to the misfit
    R² that the previous stage left. After the last sweep of a stage, in the far field, the slow phase that follows from
    the shifts of the patterns is added; then a `Correction`: its input is O, d, v, the mean Ō of the objects of the
    last sweep, √illumination, ln R² and the local root-mean-square update s. The last stage continues from Ō, which has
    less of the noise of single subsets. If patterns are held out of the region and the dose is high, its correction is
    multiplied by the factor that makes them most likely (`held_out_factor`). Step sizes η and momenta μ are learned for
    every sweep, from `INITIAL_STEPS`. The probe acts through the physics only, so the network generalises to probes
    outside its training set. Source of the idea: learned iterative reconstruction (Adler & Öktem 2018); of the step:
    ePIE and rPIE (Maiden et al. 2009, 2017); of the subsets: Hudson & Larkin 1994; of the mean: Polyak & Juditsky 1992.
    """

    def __init__(self, *, stages: int = 3, sweeps: int = 3, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        initial = torch.tensor([INITIAL_STEPS[min(stage, len(INITIAL_STEPS) - 1)] for stage in range(stages)])
        self.step = nn.Parameter(initial[:, :1].repeat(1, sweeps))
        self.momentum = nn.Parameter(initial[:, 1:].repeat(1, sweeps))
        self.denoisers = nn.ModuleList(Correction(width=width, levels=levels) for _ in range(stages))

    def forward(self, region: Region) -> Tensor:
        *_, (_, obj) = self.stages(region)
        return obj

    def stages(self, region: Region) -> Iterator[tuple[Tensor, Tensor]]:
        """The input of the `Correction` of each stage, `[11, H, W]`, and the object after it, `[H, W]`."""
        lights = [region.illumination(subset) for subset in range(region.subsets)]
        preconditions = [1 / damped_illumination(light) for light in lights]
        illumination = torch.stack(lights).sum(0)
        brightness = (illumination / illumination.max()).sqrt()
        obj, unit = region.uniform_object(), region.uniform_transmission
        acceleration = slow_phase_acceleration(
            region.probe, region.shape, unit=unit, propagator=region.forward.propagator
        )
        velocity = direction = torch.zeros_like(obj)
        left = torch.ones((), device=region.device)
        for stage, (steps, momenta, denoiser) in enumerate(zip(self.step, self.momentum, self.denoisers, strict=True)):
            shifts: list[Tensor] = []
            mean, power = torch.zeros_like(obj), torch.zeros_like(brightness)
            background = BACKGROUND_OVER_R2 * left if stage >= POISSON_FROM else None
            for sweep, (step, momentum) in enumerate(zip(steps, momenta, strict=True), start=1):
                is_last = sweep == len(steps)
                for subset, precondition in enumerate(preconditions):
                    gradient = gradient_of(
                        obj, region, subset, background=background, shifts=shifts if is_last else None
                    )
                    obj, velocity, direction = object_step(
                        obj,
                        velocity,
                        precondition * gradient,
                        acceleration=acceleration,
                        step=step,
                        momentum=momentum,
                    )
                    if is_last:
                        mean = mean + obj / region.subsets
                        power = power + (direction.detach() / unit).abs().square() / region.subsets
            sums = torch.cat(shifts)
            left = unexplained(sums).detach()
            if region.forward.propagator.shifts_with_phase_ramps:
                phase = slow_phase(sums, region.positions[: len(sums)], region.probe, region.shape)
                turn = torch.polar(torch.ones_like(phase), phase)
                obj, velocity, direction, mean = (turn * each for each in (obj, velocity, direction, mean))
            obj = mean if denoiser is self.denoisers[-1] else obj
            noise = torch.full_like(brightness, 0.1) * (left + 1e-12).log()
            channels = to_channels((obj - unit, direction, velocity, mean - obj), unit)
            seen = torch.stack([*channels, brightness, noise, _local_update(power)])
            assert isinstance(denoiser, Correction)
            correction = from_channels(in_tiles(denoiser, seen), unit)
            move = _without_global_phase(correction, obj, illumination)
            if denoiser is self.denoisers[-1] and region.validation_patterns and not torch.is_grad_enabled():
                bright = 1 / (1 + left / EQUAL_WEIGHT_R2)
                move = (1 + bright * (held_out_factor(region, obj, move) - 1)) * move
            obj = obj + move
            yield seen, obj


class Correction(nn.Module):
    """The correction of an object by a U-Net, `[b, 11, H, W]` → `[b, 2, H, W]`, in units of the local update s.

    The updates are divided by s and the output is multiplied by s: the correction is small where the object has
    converged.
    """

    def __init__(self, *, width: int, levels: int) -> None:
        super().__init__()
        self.unet = UNet(len(CHANNELS), 2, width=width, levels=levels)

    @property
    def reach(self) -> int:
        """Largest distance [px] over which an input pixel affects the output."""
        return self.unet.reach

    def forward(self, seen: Tensor) -> Tensor:
        obj, moves, light, update = seen.split([2, 6, 2, 1], dim=1)
        update = update.clamp_min(LEAST_UPDATE)
        return update * self.unet(torch.cat([obj, moves / update, light, 0.2 * update.log()], dim=1))


def _local_update(power: Tensor) -> Tensor:
    """Root-mean-square step around each pixel, from the mean square step of each pixel `[H, W]`."""
    blurred = F.avg_pool2d(power[None, None], UPDATE_BLUR_PX, 1, UPDATE_BLUR_PX // 2, count_include_pad=False)[0, 0]
    return blurred.sqrt()


def gradient_of(
    obj: Tensor,
    region: Region,
    subset: int,
    *,
    background: Tensor | None = None,
    shifts: list[Tensor] | None = None,
) -> Tensor:
    """The likelihood gradient of one subset of a region's patterns; see `likelihood_gradient` for the others."""

    def of_batch(batch: Batch) -> Tensor:
        return region.forward.gradient(obj, batch, batch.amplitude, batch.valid, background=background, shifts=shifts)

    return region.total(of_batch, subset)


def held_out_factor(region: Region, obj: Tensor, move: Tensor) -> Tensor:
    """The w in [0, 2] for which O + w·move has the highest likelihood on the held-out data, float32 scalar.

    The vertex of the parabola through the Poisson likelihood at w = 0, 1 and 2; 1 where it has none.
    """
    values = torch.zeros(3, dtype=torch.float64, device=region.device)
    for batch in region.validation_batches():
        here, there = (region.forward.waves(each, batch) for each in (obj, move))
        counts = batch.amplitude.square()
        for w in range(3):
            values[w] += poisson_nll_each(detector_intensity(here + w * there), counts, batch.valid).double().sum()
    bend = values[0] - 2 * values[1] + values[2]
    share = 1 + (values[0] - values[2]) / (2 * bend)
    return torch.where(bend > 0, share, torch.ones_like(share)).clamp(0, LARGEST_FACTOR).float()


def _without_global_phase(correction: Tensor, obj: Tensor, illumination: Tensor) -> Tensor:
    """The correction without its part along i·O, the turn of the global phase, which the data do not determine."""
    turn = (illumination * (obj.conj() * correction).imag).sum() / (illumination * obj.abs().square()).sum()
    return correction - 1j * turn * obj
