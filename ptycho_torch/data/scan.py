"""A scan: patterns, positions, probe, detector mask and, where known, the object."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
from numpy.typing import ArrayLike

from ptycho_torch.data import detector
from ptycho_torch.data.checks import Survey, are_patterns, problems_of, propagation_problems
from ptycho_torch.data.frames import FrameStack
from ptycho_torch.data.patterns import chunks
from ptycho_torch.errors import DataError, UsageError
from ptycho_torch.types import Domain, Propagation

if TYPE_CHECKING:
    from ptycho_torch.physics.propagation import Propagator


FRESNEL_LENGTHS = ("propagation_distance_m", "wavelength_m", "pixel_size_m")
"""What Fresnel propagation is computed from."""


LIGHT = (1e-12, 1e15)
"""Counts of a pattern that single precision can hold, with their squares."""
PROBE_UNITS = ("sqrt(photons)", "arbitrary")
"""What a file may declare as the unit of its probe."""


@dataclass(frozen=True, eq=False)
class Scan:
    """Diffraction patterns with positions, probe and detector mask; made by `read_scan` or `Scan.from_arrays`."""

    patterns: np.ndarray  # [n, N, N] in the stored type, zero frequency at N//2, in `domain`
    positions: np.ndarray  # float64 [n, 2] (y, x), object pixels: the object index that meets index N//2 of the probe
    nominal_positions: np.ndarray  # float64 [n, 2] (y, x), object pixels, as requested from the stage
    probe: np.ndarray  # complex64 [mode, N, N]
    valid: np.ndarray  # bool [N, N], True = measured
    domain: Domain  # what `patterns` holds: counts, or amplitude = √counts
    domain_reason: str = "given by the caller"  # the source of that
    probe_origin: str = "given by the caller"
    probe_is_guess: bool = False
    probe_unit: str = ""  # one of PROBE_UNITS, as declared; or nothing
    obj: np.ndarray | None = None  # complex64 [H, W], the truth of a simulation, or a reference
    pixel_size_m: float | None = None  # of the object; near field: the detector pixel over the magnification
    wavelength_m: float | None = None
    propagation: Propagation = "far"  # from object to detector
    propagation_distance_m: float | None = None  # effective, z₁z₂/(z₁ + z₂); near field only
    detector_distance_m: float | None = None  # far field; None: not known
    nphotons: float | None = None  # photons in the mean pattern, as declared
    source: Path = Path("arrays in memory")
    digest: str = ""  # sha256 of the file
    valid_values: np.ndarray | None = None  # bool [n, N, N], True = measured, where single values were not
    ceiling: float | None = None  # of the detector, in the unit of `patterns`: what holds it was that much at least
    intensities: np.ndarray | None = None  # float32 [n], of the beam in each pattern over its usual one; `counts` are
    # divided by those above one, the probe is weaker by those below one; None: all one
    orientation_is_told: bool = True  # whether the source says how the axes of positions and detector lie
    position_unit: str = ""  # px where the unit of the positions is known, or nothing
    drift: np.ndarray | None = None  # float32 [n], what the intensities are if a trend of the light is the beam's
    notes: tuple[str, ...] = ()

    @classmethod
    def from_arrays(
        cls,
        patterns: ArrayLike | FrameStack,
        positions: ArrayLike,
        *,
        probe: ArrayLike | None = None,
        domain: Domain | None = None,
        nominal_positions: ArrayLike | None = None,
        valid: ArrayLike | None = None,
        obj: ArrayLike | None = None,
        propagation: Propagation = "far",
        trust_detector: bool = False,
        **known: Any,
    ) -> Scan:
        """A checked scan from patterns [n, N, N] and positions [n, 2] (y, x) in object pixels.

        Without a `probe` [N, N] or [mode, N, N], it is estimated from the mean pattern; without a `domain`, a test
        decides and is reported. `valid` is `[N, N]` or, where it differs between patterns, `[n, N, N]`. Pixels, values
        and frames that hold no counts are found and left out, with a note for each kind, unless `trust_detector`.
        `propagation` "near" needs `propagation_distance_m`, `wavelength_m` and `pixel_size_m`. `known` are further
        fields of Scan. Raises DataError with all problems in one line.
        """
        if domain is not None and domain not in get_args(Domain):
            raise UsageError(f"the measurement domain is {domain!r}: counts or amplitude is needed")
        stack, modes, obj = (
            cast("np.ndarray", patterns) if isinstance(patterns, FrameStack) else np.asarray(patterns),
            as_modes(probe, np.shape(patterns)[-1:]),
            None if obj is None else np.asarray(obj),
        )
        good = np.ones(stack.shape[-2:], bool) if valid is None else np.asarray(valid, bool)
        values: np.ndarray | None = None
        if good.ndim == 3 and good.shape == stack.shape:
            values = good
            good = np.asarray(good.any(axis=0))
        places = np.asarray(positions, np.float64)
        nominal = places if nominal_positions is None else np.asarray(nominal_positions, np.float64)
        problems = problems_of(stack, places, nominal=nominal, modes=modes, valid=good, obj=obj)
        problems += propagation_problems(propagation, **{name: known.get(name) for name in FRESNEL_LENGTHS})
        lost, said = np.zeros_like(good), list[str]()
        if not trust_detector and are_patterns(stack, good):
            lost, said = detector.never_measured(stack, good)
        measured = good & ~lost if (good & ~lost).any() else good
        survey = Survey.of(stack, measured) if are_patterns(stack, measured) else None
        problems += survey.problems() if survey else []
        if domain is None and survey and not survey.problems():
            domain, known["domain_reason"] = survey.domain(modes)
            problems += [] if domain else [known["domain_reason"]]
        if problems or domain is None:
            raise DataError(f"{known.get('source', cls.source)}: {'; '.join(problems)}")
        if len(places) > len(stack):
            note = f"{len(places)} positions for {len(stack)} patterns: the first {len(stack)} are used"
            known["notes"] = (*known.get("notes", ()), note)
        scan = cls(
            patterns=stack,
            positions=places[: len(stack)].copy(),
            nominal_positions=nominal[: len(stack)].copy(),
            probe=np.zeros((0, *good.shape), np.complex64) if modes is None else modes,
            valid=good & ~lost,
            valid_values=values,
            domain=domain,
            obj=None if obj is None else obj.astype(np.complex64),
            propagation=propagation,
            **known,
        )
        scan._check_light()
        if not trust_detector:
            scan = replace(scan, notes=(*scan.notes, *said))._without_what_is_no_count()
        return scan.with_guessed_probe() if modes is None else scan

    def _check_light(self) -> None:
        """DataError where single precision can't hold what is computed from these counts."""
        some = np.unique(np.linspace(0, len(self) - 1, 64).astype(int))
        with np.errstate(over="ignore"):
            photons = self.mean_photons(some)
        low, high = LIGHT
        if not (photons == 0 or low <= photons <= high):
            raise DataError(
                f"{self.source}: the patterns hold {photons:.3g} counts on average, {low:g} to {high:g} are needed; "
                "multiply them by a constant"
            )

    def _without_what_is_no_count(self) -> Scan:
        """This scan without the pixels, values and frames that a survey of the detector finds."""
        beam = None
        if len(self.probe):
            import torch

            from ptycho_torch.forward import Forward

            beam = Forward(self.propagator).empty_beam(torch.as_tensor(self.probe).to(torch.complex128)).numpy()
        found = detector.surveyed(self.patterns, self.positions, self.valid, domain=self.domain, beam=beam)
        values = found.values
        if self.valid_values is not None:
            values = self.valid_values if values is None else values & self.valid_values
        scan = replace(
            self,
            valid=found.valid,
            valid_values=values,
            ceiling=self.ceiling if found.ceiling is None else found.ceiling,
            intensities=found.intensities,
            drift=found.drift,
            notes=(*self.notes, *found.notes),
        )
        return scan if found.kept.all() else scan.subset(np.flatnonzero(found.kept))

    def __len__(self) -> int:
        return len(self.patterns)

    @property
    def n(self) -> int:
        """N, the side of a pattern in pixels."""
        return self.patterns.shape[-1]

    @property
    def propagator(self) -> Propagator:
        """From the exit wave to the detector; DataError where a near field lacks distance, wavelength or pixel size."""
        from ptycho_torch.physics.propagation import FAR_FIELD, near_field

        if self.propagation == "far":
            return FAR_FIELD
        lengths = {name: getattr(self, name) for name in FRESNEL_LENGTHS}
        if problems := propagation_problems(self.propagation, **lengths):
            raise DataError(f"{self.source}: {'; '.join(problems)}")
        distance, wavelength, pixel = (float(value) for value in lengths.values())
        return near_field(wavelength_m=wavelength, distance_m=distance, pixel_m=pixel)

    @property
    def fresnel_number(self) -> float | None:
        """The Fresnel number of a pixel, p²/(λz), in the near field; None in the far field."""
        return getattr(self.propagator, "fresnel_number", None)

    def counts(self, index: Any) -> np.ndarray:
        """Photons on each pixel of some patterns, float32 [b, N, N]; 0 on pixels that were not measured."""
        measured = self._measured(index)
        counts = np.square(measured, out=measured) if self.domain == "amplitude" else measured
        return counts if self.intensities is None else counts / self._excess(index)

    def amplitude(self, index: Any) -> np.ndarray:
        """√counts of some patterns, float32 [b, N, N]; 0 on pixels that were not measured."""
        measured = self._measured(index)
        roots = np.sqrt(measured, out=measured) if self.domain == "counts" else measured
        return roots if self.intensities is None else roots / np.sqrt(self._excess(index))

    def least_amplitude(self, index: Any) -> np.ndarray | None:
        """√counts that saturated pixels of some patterns had at least, float32 [b, N, N], 0 elsewhere; None where no
        pixel saturates."""
        if self.ceiling is None or self.valid_values is None:
            return None
        with np.errstate(invalid="ignore"):
            full = (self.patterns[index] >= self.ceiling) & self.valid & ~self.valid_values[index]
        root = np.float32(np.sqrt(self.ceiling) if self.domain == "counts" else self.ceiling)
        least = np.where(full, root, np.float32(0))
        return least if self.intensities is None else least / np.sqrt(self._excess(index))

    def _excess(self, index: Any) -> np.ndarray:
        """By how much the beam of some patterns was brighter than usual, `[b, 1, 1]`: their counts are divided by it,
        as what makes them bright need not be more photons."""
        assert self.intensities is not None
        return np.maximum(self.intensities[index], 1)[..., None, None]

    def _measured(self, index: Any) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):  # what a dead pixel holds need not fit
            measured = self.patterns[index].astype(np.float32)
        measured[..., ~self.valid] = 0
        if self.valid_values is not None:
            measured[~self.valid_values[index]] = 0
        return measured

    def mean_counts(self, index: np.ndarray | None = None) -> np.ndarray:
        """The mean pattern, float64 [N, N], in photons: of each pixel over the patterns in which it was measured."""
        chosen = np.arange(len(self)) if index is None else np.asarray(index)
        total, times = np.zeros((self.n, self.n)), np.full((self.n, self.n), float(len(chosen)))
        for part in chunks(len(chosen), self.n**2):
            total += self.counts(chosen[part]).sum(axis=0, dtype=np.float64)
            if self.valid_values is not None:
                times -= (~self.valid_values[chosen[part]]).sum(axis=0)
        return total / np.maximum(times, 1)

    def photons(self, index: np.ndarray | None = None) -> np.ndarray:
        """Photons in each pattern, float64 `[n]`: Σ counts over measured pixels."""
        chosen = np.arange(len(self)) if index is None else np.asarray(index)
        parts = [
            self.counts(chosen[part]).sum(axis=(1, 2), dtype=np.float64) for part in chunks(len(chosen), self.n**2)
        ]
        return np.concatenate(parts)

    def mean_photons(self, index: np.ndarray | None = None) -> float:
        """Photons in the mean pattern."""
        return float(self.photons(index).mean())

    def subset(self, index: np.ndarray) -> Scan:
        """The scan of some of its patterns."""
        return replace(
            self,
            patterns=self.patterns[index],
            positions=self.positions[index],
            nominal_positions=self.nominal_positions[index],
            valid_values=None if self.valid_values is None else self.valid_values[index],
            intensities=None if self.intensities is None else self.intensities[index],
            drift=None if self.drift is None else self.drift[index],
        )

    def with_masked_probe(self, *, diameter: float | None, sigma: float) -> Scan:
        """This scan with its probe cut to a disk of `diameter` px (N/2), its edge `sigma` px soft."""
        import torch

        from ptycho_torch.physics.probe import masked_probe

        diameter = diameter or self.n / 2
        probe = masked_probe(torch.as_tensor(self.probe), diameter=diameter, sigma=sigma)
        origin = f"{self.probe_origin}, cut to a disk of {diameter:g} px"
        return replace(self, probe=probe.numpy(), probe_origin=origin)

    def with_guessed_probe(self) -> Scan:
        """This scan with a probe estimated from its mean pattern, and marked as such: see `guess_probe`."""
        import torch

        from ptycho_torch.physics.probe import guess_probe

        mean = self.mean_counts()
        if self.propagation == "near":  # a dark pixel would look like an edge in the beam
            mean[~self.valid] = mean[self.valid].mean()
        counts = torch.from_numpy(mean.astype(np.float32))
        probe = guess_probe(counts, propagator=self.propagator).numpy().astype(np.complex64)
        what = "the probe" if len(self.probe) else "no probe is given; it"
        note = f"{what} is estimated from the mean pattern; a measured probe gives a better reconstruction"
        origin = "estimated from the mean pattern"
        return replace(self, probe=probe, probe_origin=origin, probe_is_guess=True, notes=(*self.notes, note))

    def facts(self) -> dict[str, str]:
        """Facts about the scan for the report, in words."""
        modes = f"{len(self.probe)} mode{'s' if len(self.probe) > 1 else ''}"
        facts = {
            "scan": str(self.source),
            "patterns": f"{len(self)} of {self.n} x {self.n} pixels",
            "measurement domain": f"{self.domain} ({self.domain_reason})",
            "probe": f"{modes}, {self.probe_origin}",
        }
        if self.propagation == "near" and self.propagation_distance_m is not None:
            facts["propagation"] = (
                f"near field over {self.propagation_distance_m * 1e3:.4g} mm, "
                f"Fresnel number of a pixel {self.fresnel_number:.4g}"
            )
        if not self.valid.all():
            facts["pixels not measured"] = str(int((~self.valid).sum()))
        if self.valid_values is not None:
            lost = float((~self.valid_values)[:, self.valid].mean())
            facts["values not measured"] = f"{lost:.2g} of those of the other pixels"
        if self.obj is not None:
            facts["object in the file"] = f"{self.obj.shape[0]} x {self.obj.shape[1]} pixels, for comparison only"
        if self.pixel_size_m is not None:
            facts["object pixel"] = f"{self.pixel_size_m * 1e9:.4g} nm"
        if self.wavelength_m is not None:
            facts["wavelength"] = f"{self.wavelength_m * 1e9:.4g} nm"
        return facts

    def describe(self) -> tuple[str, ...]:
        """The facts in one line, then the notes: what is printed before a run."""
        name, *facts = self.facts().items()
        return (f"{name[1]}: " + "; ".join(f"{what}: {value}" for what, value in facts), *self.notes)


def as_modes(probe: ArrayLike | None, side: tuple[int, ...] = ()) -> np.ndarray | None:
    """A probe as complex64 [mode, N, N], real or complex: [N, N], [mode, N, N], [N, N, mode] with N the `side` of the
    patterns, and [k, mode, N, N], of which the first k is taken."""
    if probe is None:
        return None
    modes = np.asarray(probe)
    while modes.ndim > 3:
        modes = modes[0]
    if modes.ndim == 3 and (modes.shape[-1] == 1 or modes.shape[:2] == side * 2 != modes.shape[1:]):
        modes = np.moveaxis(modes, -1, 0)
    return (modes[None] if modes.ndim == 2 else modes).astype(np.complex64)
