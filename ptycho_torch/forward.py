"""The forward model: probe of each pattern → exit waves → propagation → counts, and the adjoint.

    counts = forward.counts(obj, exposure)

Everything that predicts counts calls it: training, refinement, denoising, position search, simulation, benchmark. Other
propagations than the far field enter here, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Complex, Float, Int64
from torch import Tensor

from ptycho_torch.physics.likelihood import Likelihood
from ptycho_torch.physics.optics import detector_intensity, exit_wave
from ptycho_torch.physics.patches import extract_whole, split_positions
from ptycho_torch.physics.probe import shift_probe
from ptycho_torch.physics.propagation import FAR_FIELD, Propagator
from ptycho_torch.physics.sweep import exit_wave_correction, likelihood_gradient


@runtime_checkable
class Exposed(Protocol):
    """The patches and probes of some patterns; a `Batch` is one."""

    @property
    def probe(self) -> Complex[Tensor, "#b mode n n"]:
        """The probe at the position of each pattern, complex `[b or 1, mode, N, N]`, √photons."""

    @property
    def corners(self) -> Int64[Tensor, "b 2"]:
        """int64 `[b, 2]`, object index of each patch's first pixel."""


@dataclass(frozen=True, eq=False)
class Exposure:
    """The probe at some positions: whole pixels cut the object, the fraction of a pixel shifts the probe."""

    probe: Complex[Tensor, "#b mode n n"]
    corners: Int64[Tensor, "b 2"]
    fraction: Float[Tensor, "b 2"] | None = None  # in [−1/2, 1/2)

    @classmethod
    def of(
        cls,
        probe: Complex[Tensor, "mode n n"],
        positions: Float[Tensor, "b 2"],
        *,
        intensities: Float[Tensor, " b"] | None = None,
    ) -> Exposure:
        """A probe `[mode, N, N]` at positions `[b, 2]`; `intensities` `[b]` multiply the counts of each pattern."""
        whole, fraction = split_positions(positions)
        shifted = shift_probe(probe, fraction)
        if intensities is not None:
            shifted = shifted * intensities[:, None, None, None].sqrt()
        return cls(shifted, whole - probe.shape[-1] // 2, fraction)


@dataclass(frozen=True)
class Forward:
    """Predicts counts, and back-propagates corrections to the object, with one propagator."""

    propagator: Propagator = FAR_FIELD

    def patches(self, obj: Complex[Tensor, "H W"], at: Exposed) -> Complex[Tensor, "b n n"]:
        """The patches of the object `[H, W]` at the patterns, `[b, N, N]`."""
        return extract_whole(obj, at.corners, at.probe.shape[-1])

    def waves(self, obj: Complex[Tensor, "H W"], at: Exposed) -> Complex[Tensor, "b mode n n"]:
        """The waves on the detector, Ψ_m = propagate(P_m · O_j), `[b, mode, N, N]`, √photons."""
        return self.propagator.forward(exit_wave(self.patches(obj, at), at.probe))

    def counts(self, obj: Complex[Tensor, "H W"], at: Exposed) -> Float[Tensor, "b n n"]:
        """The expected counts, I = Σ_m |Ψ_m|², `[b, N, N]`, photons."""
        return detector_intensity(self.waves(obj, at))

    def counts_behind(
        self, patches: Complex[Tensor, "b n n"], probe: Complex[Tensor, "#b mode n n"]
    ) -> Float[Tensor, "b n n"]:
        """The expected counts of given patches, Σ_m |propagate(P_m · O_j)|², `[b, N, N]`, photons."""
        return detector_intensity(self.propagator.forward(exit_wave(patches, probe)))

    def empty_beam(self, probe: Complex[Tensor, "*batch mode n n"]) -> Float[Tensor, "*batch n n"]:
        """The expected counts through an object of one, Σ_m |propagate(P_m)|², `[N, N]`, photons."""
        return detector_intensity(self.propagator.forward(probe))

    def gradient(
        self,
        obj: Complex[Tensor, "H W"],
        at: Exposed,
        amplitude: Float[Tensor, "b n n"],
        valid: Bool[Tensor, "... n n"],
        *,
        background: Float[Tensor, ""] | None = None,
        shifts: list[Tensor] | None = None,
    ) -> Complex[Tensor, "H W"]:
        """The steepest-descent direction of the likelihood on the object, `[H, W]`: see `likelihood_gradient`."""
        return likelihood_gradient(
            obj,
            at.probe,
            at.corners,
            amplitude,
            valid,
            propagator=self.propagator,
            background=background,
            shifts=shifts,
        )

    def correction(
        self,
        patches: Complex[Tensor, "b n n"],
        probe: Complex[Tensor, "#b mode n n"],
        amplitude: Float[Tensor, "b n n"],
        valid: Bool[Tensor, "... n n"],
        *,
        likelihood: str | Likelihood = "poisson",
        background: float = 0.0,
        shifts: list[Tensor] | None = None,
        least: Float[Tensor, "b n n"] | None = None,
    ) -> tuple[Complex[Tensor, "b mode n n"], Float[Tensor, " b"]]:
        """The correction of each exit wave, and each pattern's intensity: see `exit_wave_correction`."""
        return exit_wave_correction(
            probe,
            patches,
            amplitude,
            valid,
            propagator=self.propagator,
            likelihood=likelihood,
            background=background,
            shifts=shifts,
            least=least,
        )
