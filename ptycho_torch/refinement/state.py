"""The unknowns of a refinement, their momenta, and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ptycho_torch.data.region import Batch, Region
from ptycho_torch.forward import Exposure
from ptycho_torch.physics.likelihood import Likelihood

Initial = Literal["flat", "network", "refined"]
"""Origin of an initial object: flat; a network that is not trained on such scans, such as the pretrained one; or
refined, from a trained bundle or an earlier refinement. Then the slow phase is not read from shifts."""


@dataclass(frozen=True)
class Unknowns:
    """The unknowns beside the object."""

    probe: bool = False
    positions: Literal["none", "free", "affine"] = "none"  # affine: one affine map of the whole scan
    intensities: Literal["none", "free", "drift"] = (
        "none"  # a factor on the counts of each pattern; drift: a smooth one
    )

    @property
    def has_positions(self) -> bool:
        """Whether positions are refined, each or all by one map."""
        return self.positions != "none"

    @property
    def has_intensities(self) -> bool:
        """Whether intensities are refined, each or all by one smooth function of time."""
        return self.intensities != "none"

    @property
    def has_free_gauge(self) -> bool:
        """Whether a shift and a phase ramp of the object are undetermined: where probe or positions are unknown."""
        return self.probe or self.has_positions


OBJECT_ONLY = Unknowns()


@dataclass(frozen=True, eq=False)
class Estimate:
    """Values of all unknowns."""

    object: Tensor  # complex64 [H, W] on the region's canvas
    probe: Tensor  # complex64 [mode, N, N], in the unit of the region's probe
    positions: Tensor  # float64 [n, 2] on the canvas, in the region's order
    intensities: Tensor  # float32 [n], factor on the expected counts of each pattern, beside the batch's

    def exposure(self, batch: Batch, unknowns: Unknowns) -> Exposure:
        """The probe of each pattern of a batch, at its position and with its intensity, as far as they are free."""
        if unknowns.has_free_gauge:
            intensities = self.intensities[batch.index] if unknowns.has_intensities else 1.0
            at = self.positions[batch.index]
            return Exposure.of(self.probe, at, intensities=batch.intensities * intensities)
        probe = batch.probe * self.amplitude_factors(batch) if unknowns.has_intensities else batch.probe
        return Exposure(probe, batch.corners)

    def amplitude_factors(self, batch: Batch) -> Tensor:
        """√intensity of each pattern, `[b, 1, 1, 1]`."""
        return self.intensities[batch.index, None, None, None].sqrt()


@dataclass(frozen=True, eq=False)
class State(Estimate):
    """The unknowns after the last update, their momenta, and the means over the updates of the last sweep."""

    object_velocity: Tensor
    probe_velocity: Tensor
    position_velocity: Tensor
    mean_object: Tensor
    mean_probe: Tensor

    @classmethod
    def initial(cls, region: Region, obj: Tensor) -> State:
        """At rest, from an object on the canvas of a region, with the region's probe and positions."""
        obj, probe, positions = obj.clone(), region.probe.clone(), region.positions.clone()
        return cls(
            obj,
            probe,
            positions,
            intensities=torch.ones(len(region), device=region.device),
            object_velocity=torch.zeros_like(obj),
            probe_velocity=torch.zeros_like(probe),
            position_velocity=torch.zeros_like(positions),
            mean_object=obj,
            mean_probe=probe,
        )

    @property
    def mean(self) -> Estimate:
        """The means of object and probe over the updates of the last sweep, at the present positions."""
        return Estimate(self.mean_object, self.mean_probe, self.positions, self.intensities)

    def with_objects(self, change: Callable[[Tensor], Tensor]) -> State:
        """The object, its velocity and its mean, changed alike."""
        objects = (change(each) for each in (self.object, self.object_velocity, self.mean_object))
        return replace(self, **dict(zip(("object", "object_velocity", "mean_object"), objects, strict=True)))

    def at_rest(self) -> State:
        """Without the momenta of object and probe."""
        return replace(
            self,
            object_velocity=torch.zeros_like(self.object_velocity),
            probe_velocity=torch.zeros_like(self.probe_velocity),
        )


def copied(estimate: Estimate) -> Estimate:
    """A copy of an estimate that later updates do not change (they change positions and intensities in place)."""
    return Estimate(estimate.object, estimate.probe, estimate.positions.clone(), estimate.intensities.clone())


@dataclass(frozen=True, eq=False)
class Refined(Estimate):
    """The best estimate by the held-out patterns, and the history of the refinement."""

    initial: Tensor | None = None  # the initial object
    last: Estimate | None = None  # after the last complete sweep
    held_out: Tensor = field(default_factory=lambda: torch.zeros(0))  # misfit of each held-out pattern, scan's order
    best_sweep: int = 0  # the sweep whose result this is, 0 for the initial object
    is_combined: bool = False  # low frequencies of the last sweep, high ones of the initial or the best object
    is_interrupted: bool = False  # by Ctrl-C or by `on_sweep`
    misfits: list[float] = field(default_factory=list)  # held out, per pixel, after 0, 1, 2 … sweeps
    subsets: list[int] = field(default_factory=list)  # number of updates of each sweep
    unknowns: Unknowns = OBJECT_ONLY
    likelihood: str | Likelihood = "poisson"
    start: Initial = "flat"
