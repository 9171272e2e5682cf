"""The default network: a few stages of measure, correct, denoise on the object canvas."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ptycho_torch.data.loader import Region
from ptycho_torch.networks.unet import UNet, in_tiles
from ptycho_torch.physics.preconditioner import lift_slow_phase, slow_phase_lift
from ptycho_torch.physics.sweep import modulus_gradient
from ptycho_torch.physics.tilt import slow_phase, unexplained

FLOOR = 0.1
"""Fraction of the largest illumination below which a canvas pixel's step is held back."""


class Unrolled(nn.Module):
    """A learned, unrolled reconstruction of a region: complex object canvas `[H, W]` of order one, from a flat start.

    A stage is `sweeps` physics sweeps. A sweep visits the patterns in interleaved subsets, each spread evenly over the
    scan, and moves the object after each of them, with momentum,

        v ← μ v + η · lift( g_s(O) / (I_s + 0.1 max I_s) ),   O ← O + v,

    with the modulus gradient g_s and the illumination I_s of subset s; `lift` speeds up slow phase waves. Then the
    phase that the patterns' shifts in the last sweep tell of is added, and a U-Net sees O − 1, v, the last step,
    √illumination and ln R², what the sweep left unexplained (photon noise, in the end), and adds a complex correction.
    Step sizes η and momenta μ are learned for every sweep. The probe acts through the physics only, so that the network
    carries over to probes that it has not seen. Source of the idea: learned iterative reconstruction (Adler & Öktem
    2018); of the step: ePIE and rPIE (Maiden et al. 2009, 2017); of the subsets: Hudson & Larkin 1994.
    """

    def __init__(self, *, stages: int = 3, sweeps: int = 3, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.full((stages, sweeps), 0.5))
        self.momentum = nn.Parameter(torch.full((stages, sweeps), 0.7))
        self.denoisers = nn.ModuleList(UNet(8, 2, width=width, levels=levels) for _ in range(stages))

    def forward(self, region: Region) -> Tensor:
        *_, (_, obj) = self.stages(region)
        return obj

    def stages(self, region: Region) -> Iterator[tuple[Tensor, Tensor]]:
        """What the U-Net of each stage sees `[8, H, W]`, and the object `[H, W]` that it leaves."""
        lights = [region.illumination(subset) for subset in range(region.subsets)]
        preconditions = [1 / (light + FLOOR * light.max()) for light in lights]
        illumination = torch.stack(lights).sum(0)
        brightness = (illumination / illumination.max()).sqrt()
        lift = slow_phase_lift(region.probe, region.shape)
        obj = torch.ones(region.shape, dtype=torch.complex64, device=region.device)
        velocity = direction = torch.zeros_like(obj)
        for steps, momenta, denoiser in zip(self.step, self.momentum, self.denoisers, strict=True):
            shifts: list[Tensor] = []
            for sweep, (step, momentum) in enumerate(zip(steps, momenta, strict=True), start=1):
                seen_in_passing = shifts if sweep == len(steps) else None
                for subset, precondition in enumerate(preconditions):
                    gradient = gradient_of(obj, region, subset, shifts=seen_in_passing)
                    direction = lift_slow_phase(precondition * gradient, obj, lift)
                    velocity = momentum * velocity + step * direction
                    obj = obj + velocity
            sums = torch.cat(shifts)
            phase = slow_phase(sums, region.positions[: len(sums)], region.probe, region.shape)
            turn = torch.polar(torch.ones_like(phase), phase)
            obj, velocity, direction = turn * obj, turn * velocity, turn * direction
            noise = torch.full_like(brightness, 0.1) * (unexplained(sums) + 1e-12).log()
            pictures = [part for wave in (obj - 1, velocity, direction) for part in (wave.real, wave.imag)]
            seen = torch.stack([*pictures, brightness, noise])
            assert isinstance(denoiser, UNet)
            correction = in_tiles(denoiser, seen)
            obj = obj + _without_global_phase(torch.complex(correction[0], correction[1]), obj, illumination)
            yield seen, obj


def gradient_of(obj: Tensor, region: Region, subset: int, *, shifts: list[Tensor] | None = None) -> Tensor:
    """The modulus gradient of one subset of a region's patterns, summed batch by batch; see there for `shifts`."""
    parts = (
        modulus_gradient(obj, batch.probe, batch.corners, batch.amplitude, batch.valid, shifts=shifts)
        for batch in region.batches(subset)
    )
    return functools.reduce(torch.add, parts)


def _without_global_phase(correction: Tensor, obj: Tensor, illumination: Tensor) -> Tensor:
    """The correction without its part along i·O, the turn of the global phase, which no pattern can judge."""
    turn = (illumination * (obj.conj() * correction).imag).sum() / (illumination * obj.abs().square()).sum()
    return correction - 1j * turn * obj
