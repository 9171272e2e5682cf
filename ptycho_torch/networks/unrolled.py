"""The default network: a few stages of measure, correct, denoise on the object canvas."""

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

FIRST_STEPS = ((1.0, 0.5), (0.5, 0.8), (0.5, 0.85), (0.5, 0.7))
"""Step η and momentum μ of the sweeps of the first, the second … and all later stages, before any training."""
POISSON_FROM, DARKNESS = 3, 0.12
"""The first stage, from 0, that follows the Poisson likelihood, and its background over what is left unexplained."""
NOISY, FARTHEST = 0.005, 2.0
"""Unexplained R² at which what is held out has half a say in how far the last correction goes; how far it goes at most.
Where photons are few, what is held out does not see the noise that the correction takes out."""
RESTLESS_PX = 9
"""Side of the square over which the unrest of the object is averaged."""
STILL = 1e-5
"""An object that moves less than this rests."""
SEEN = ("Re O − 1", "Im O", "Re d", "Im d", "Re v", "Im v", "Re Ō − O", "Im Ō − O", "√brightness", "0.1 ln R²", "s")
"""What a stage looks at, channel by channel: object, last step, velocity, its mean in the last sweep, … and unrest."""


class Unrolled(nn.Module):
    """A learned, unrolled reconstruction of a region: object canvas `[H, W]`, complex transmission, from a flat start.

    A stage is `sweeps` physics sweeps. A sweep visits the patterns in interleaved subsets, each spread evenly over the
    scan, and moves the object after each of them, with momentum,

        v ← μ v + η d,   d = accelerate( g_s(O) / (I_s + 0.1 max I_s) ),   O ← O + v,

    (`object_step`) with the likelihood gradient g_s and the illumination I_s of subset s. The
    likelihood is that of the amplitudes, from the fourth stage on that of Poisson, with a background in the measure of
    what the stage before left unexplained, be it photon noise or what the model does not know. In the far field the
    phase that the patterns' shifts in the last sweep tell of is added then, and always a `Correction`: a U-Net sees O,
    d, v, the mean Ō of the last sweep's objects, √illumination and ln R², what the sweep left unexplained (photon
    noise, in the end). The last stage goes on from Ō, which has less of the noise of single subsets; where patterns are
    held out of the region and light is bright, its correction goes as far as those find it likely (`likeliest_share`).
    Steps η and momenta μ are learned for every sweep; before, the first stage takes long steps, later ones short ones
    (`FIRST_STEPS`). The probe acts through the physics only, so that the network carries over to probes that it has not
    seen. Source of the idea: learned iterative reconstruction (Adler & Öktem 2018); of the step: ePIE and rPIE (Maiden
    et al. 2009, 2017); of the subsets: Hudson & Larkin 1994; of the mean: Polyak & Juditsky 1992.
    """

    def __init__(self, *, stages: int = 3, sweeps: int = 3, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        first = torch.tensor([FIRST_STEPS[min(stage, len(FIRST_STEPS) - 1)] for stage in range(stages)])
        self.step = nn.Parameter(first[:, :1].repeat(1, sweeps))
        self.momentum = nn.Parameter(first[:, 1:].repeat(1, sweeps))
        self.denoisers = nn.ModuleList(Correction(width=width, levels=levels) for _ in range(stages))

    def forward(self, region: Region) -> Tensor:
        *_, (_, obj) = self.stages(region)
        return obj

    def stages(self, region: Region) -> Iterator[tuple[Tensor, Tensor]]:
        """What the `Correction` of each stage sees `[11, H, W]`, and the object `[H, W]` that it leaves."""
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
            background = DARKNESS * left if stage >= POISSON_FROM else None
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
            pictures = to_channels((obj - unit, direction, velocity, mean - obj), unit)
            seen = torch.stack([*pictures, brightness, noise, _unrest(power)])
            assert isinstance(denoiser, Correction)
            correction = from_channels(in_tiles(denoiser, seen), unit)
            move = _without_global_phase(correction, obj, illumination)
            if denoiser is self.denoisers[-1] and region.validation_patterns and not torch.is_grad_enabled():
                bright = 1 / (1 + left / NOISY)
                move = (1 + bright * (likeliest_share(region, obj, move) - 1)) * move
            obj = obj + move
            yield seen, obj


class Correction(nn.Module):
    """What a U-Net adds to an object `[b, 2, H, W]`, seen `[b, 11, H, W]`, in units of the object's unrest s.

    It sees the steps of the sweeps over s and answers in s, so that it is as careful as the object is settled.
    """

    def __init__(self, *, width: int, levels: int) -> None:
        super().__init__()
        self.unet = UNet(len(SEEN), 2, width=width, levels=levels)

    @property
    def reach(self) -> int:
        """How far [px] an input pixel can act on the output."""
        return self.unet.reach

    def forward(self, seen: Tensor) -> Tensor:
        obj, moves, light, unrest = seen.split([2, 6, 2, 1], dim=1)
        unrest = unrest.clamp_min(STILL)
        return unrest * self.unet(torch.cat([obj, moves / unrest, light, 0.2 * unrest.log()], dim=1))


def _unrest(power: Tensor) -> Tensor:
    """Root-mean-square step around each pixel, from the mean square step of each pixel `[H, W]`."""
    blurred = F.avg_pool2d(power[None, None], RESTLESS_PX, 1, RESTLESS_PX // 2, count_include_pad=False)[0, 0]
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


def likeliest_share(region: Region, obj: Tensor, move: Tensor) -> Tensor:
    """The w in [0, 2] for which O + w·move makes what is held out of a region likeliest, float32 scalar.

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
    return torch.where(bend > 0, share, torch.ones_like(share)).clamp(0, FARTHEST).float()


def _without_global_phase(correction: Tensor, obj: Tensor, illumination: Tensor) -> Tensor:
    """The correction without its part along i·O, the turn of the global phase, which no pattern can judge."""
    turn = (illumination * (obj.conj() * correction).imag).sum() / (illumination * obj.abs().square()).sum()
    return correction - 1j * turn * obj
