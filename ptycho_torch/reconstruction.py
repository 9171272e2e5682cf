"""`reconstruct`: from a scan to an object, as plain values; no files, no prints, no global switches."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ptycho_torch import __version__, contradictions
from ptycho_torch.data.grouping import central_region, group_neighbours
from ptycho_torch.data.patterns import chunks
from ptycho_torch.data.region import Region, on_canvas
from ptycho_torch.data.scan import Scan
from ptycho_torch.devices import own_switches, resolve_device, seconds_on
from ptycho_torch.errors import DataError, UsageError
from ptycho_torch.evaluation import PlacedObject, as_placed_object, shared_region
from ptycho_torch.metrics import INSET_PX, compare, is_lit
from ptycho_torch.physics.likelihood import LIKELIHOODS, Likelihood
from ptycho_torch.physics.regularisers import Regulariser
from ptycho_torch.predictors import Predictor, find_predictor
from ptycho_torch.refinement import OBJECT_ONLY, OnSweep, Unknowns
from ptycho_torch.refinement.initial_probe import OnStep, with_probe_from_patterns
from ptycho_torch.refinement.rounds import RefinedScan, refined_scan, validation_set_of
from ptycho_torch.types import Reconstruction, check_finite
from ptycho_torch.verdict.beam import with_settled_drift
from ptycho_torch.verdict.doctors import diagnose as diagnosis_of
from ptycho_torch.verdict.figures import Figures, figures_of
from ptycho_torch.verdict.geometry import with_settled_centre, with_settled_geometry
from ptycho_torch.verdict.judge import judged, shows_an_object

MOST_MODES = 8

PositionCorrection = Literal["none", "free", "affine"]
ProbeFrom = Literal["file", "patterns"]
Precision = Literal["32-true", "bf16-mixed"]


def reconstruct(
    scan: Scan,
    *,
    model: str | Path | Reconstruction | Predictor | nn.Module = "pretrained",
    refine: int | None = None,
    likelihood: str | Likelihood = "poisson",
    regulariser: Regulariser | None = None,
    probe_update: bool = False,
    probe_from: ProbeFrom = "file",
    modes: int | None = None,
    position_correction: PositionCorrection = "none",
    intensity_fluctuation: bool | Literal["auto"] = "auto",
    denoise: bool = False,
    patterns: int | None = None,
    batch_size: int | None = None,
    precision: Precision = "32-true",
    device: str | torch.device = "auto",
    probe_mask: bool = False,
    probe_mask_diameter: float | None = None,
    probe_mask_sigma: float = 1.0,
    diagnose: bool = True,
    on_sweep: OnSweep | None = None,
    on_step: OnStep | None = None,
    say: Callable[[str], object] | None = None,
) -> Reconstruction:
    """The object of a scan, by a network and, with `refine`, by maximum likelihood.

    Args:
        model: `"pretrained"`; `"flat"`, an object of one; a bundle or its folder; a reconstruction, as a value or a
            file; what `load_model` gives; any module from a `Region` to the object on its canvas, complex64
            `region.shape`, transmission.
        refine: largest number of sweeps. `likelihood` is `"poisson"`, `"amplitude"` or an object (see `Likelihood`),
            `regulariser` an object with a proximal step (see `Regulariser`).
        probe_update, modes, position_correction, intensity_fluctuation: unknowns of the refinement beside the object;
            by default intensities are free where the light of the frames drifts or jumps.
        probe_from: the scan's own probe (`"file"`), or one that is estimated from the patterns.
        denoise: afterwards a network removes photon noise, unless the held-out patterns contradict it.
        patterns: number of patterns to use, those nearest to the centre of the scan; all by default.
        batch_size: patterns per batch; by default what fits the processor's cache or the GPU.
        precision: of the network's convolutions.
        device: `"auto"`, `"cpu"`, `"gpu"`, `"mps"`, or a torch device.
        probe_mask: cut the probe to a disk of `probe_mask_diameter` [px] (N/2), its edge `probe_mask_sigma` [px] soft.
        diagnose: where the verdict is not good, look for the likeliest cause; takes about 10 s of CPU.
        on_sweep: called after each sweep of a refinement with its `Progress`; True, like Ctrl-C, ends the refinement
            with the best so far.
        on_step: called with `(what, done, total)` after each step of a probe search.
        say: takes lines of text; silent by default.

    No file is written, nothing is printed, and threads, determinism, random numbers and gradient mode of torch are as
    before on return, also after an error. Raises UsageError for options that contradict each other or are unknown,
    DataError for a scan that does not fit the model, BundleError for a bundle that cannot be read.
    """
    options = _Options(
        refine=refine,
        likelihood=likelihood,
        regulariser=regulariser,
        probe_update=probe_update,
        probe_from=probe_from,
        modes=modes,
        position_correction=position_correction,
        intensity_fluctuation=intensity_fluctuation,
        denoise=denoise,
        patterns=patterns,
        batch_size=batch_size,
        precision=precision,
        probe_mask=probe_mask,
        probe_mask_diameter=probe_mask_diameter,
        probe_mask_sigma=probe_mask_sigma,
        diagnose=diagnose,
    )
    options.check()
    if not isinstance(scan, Scan):
        raise UsageError(
            f"the scan is of type {type(scan).__name__}: what read_scan or Scan.from_arrays gives is needed"
        )
    for name, callback in (("on_sweep", on_sweep), ("on_step", on_step), ("say", say)):
        if callback is not None and not callable(callback):
            raise UsageError(f"{name} is of type {type(callback).__name__}: a function is needed")
    place = _place(device)
    with own_switches(place):
        return _reconstruct(scan, model, options, place, on_sweep=on_sweep, on_step=on_step, say=say or _silent)


@dataclass(frozen=True)
class _Options:
    """The options of a caller, as plain values."""

    refine: int | None
    likelihood: str | Likelihood
    regulariser: Regulariser | None
    probe_update: bool
    probe_from: str
    modes: int | None
    position_correction: PositionCorrection
    intensity_fluctuation: bool | Literal["auto"]
    denoise: bool
    patterns: int | None
    batch_size: int | None
    precision: str
    probe_mask: bool
    probe_mask_diameter: float | None
    probe_mask_sigma: float
    diagnose: bool

    def check(self) -> None:
        """UsageError, in one line, for an unknown or contradictory value."""
        for name, kind in (
            ("position_correction", PositionCorrection),
            ("probe_from", ProbeFrom),
            ("precision", Precision),
        ):
            if getattr(self, name) not in get_args(kind):
                raise UsageError(f"{name} is {getattr(self, name)!r}: one of {', '.join(get_args(kind))} is needed")
        is_name = isinstance(self.likelihood, str)
        if not (self.likelihood in LIKELIHOODS if is_name else _has(self.likelihood, Likelihood)):
            names = ", ".join(LIKELIHOODS)
            raise UsageError(
                f"likelihood is {self.likelihood!r}: {names} or an object with the methods step and value is needed"
            )
        if self.regulariser is not None and not _has(self.regulariser, Regulariser):
            raise UsageError(f"regulariser is {self.regulariser!r}: an object with the method proximal is needed")
        self._check_numbers()
        if self.modes is not None and self.modes > MOST_MODES:
            raise UsageError(f"modes is {self.modes}: at most {MOST_MODES} are supported")
        found = contradictions.of_a_refinement(
            refine=self.refine,
            probe_update=self.probe_update,
            modes=self.modes,
            position_correction=self.position_correction,
            intensity_fluctuation=self.intensity_fluctuation is True,
            denoise=self.denoise,
            regulariser=self.regulariser is not None,
        )
        if found is not None:
            raise UsageError(found)

    def _check_numbers(self) -> None:
        for name in ("refine", "modes", "patterns", "batch_size"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
                raise UsageError(f"{name} is {value!r}: a whole number is needed")
            if value < 1:
                raise UsageError(f"{name} is {value}: at least 1 is needed")
        for name in ("probe_mask_diameter", "probe_mask_sigma"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float, np.integer, np.floating)) and math.isfinite(value)
            if value is not None and not (is_number and (value > 0 or (name == "probe_mask_sigma" and value == 0))):
                raise UsageError(f"{name} is {value!r}: a positive number of pixels is needed")
        if self.intensity_fluctuation not in (True, False, "auto"):
            raise UsageError(
                f"intensity_fluctuation is {self.intensity_fluctuation!r}: True, False or 'auto' is needed"
            )
        for name in ("probe_update", "denoise", "probe_mask", "diagnose"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise UsageError(f"{name} is {getattr(self, name)!r}: True or False is needed")

    def as_record(self) -> dict[str, Any]:
        """For the provenance: plain values, objects by their names."""
        return {
            name: value if value is None or isinstance(value, (str, bool, int, float)) else _name_of(value)
            for name, value in vars(self).items()
        }


def _has(value: object, protocol: type) -> bool:
    """Whether an object has the methods of a protocol; a class whose objects would have them doesn't count."""
    return isinstance(value, protocol) and not isinstance(value, type)


def _place(device: str | torch.device) -> torch.device:
    """The device that is named; UsageError where this machine has no such device."""
    if not isinstance(device, torch.device):
        return resolve_device("auto", None if device == "auto" else device)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {device}: torch can't use it here ({reason}); use cpu or auto") from None
    return device


def _silent(_: str) -> None:
    """Ignores a line of text."""


def _name_of(value: Any) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__)


def _reconstruct(
    scan: Scan,
    model: str | Path | Reconstruction | Predictor | nn.Module,
    options: _Options,
    device: torch.device,
    *,
    on_sweep: OnSweep | None,
    on_step: OnStep | None,
    say: Callable[[str], object],
) -> Reconstruction:
    scan = with_settled_geometry(scan)
    given = scan
    if options.probe_from == "patterns":
        scan = with_probe_from_patterns(scan, device=device, say=say, on_step=on_step)
    predictor = find_predictor(model, scan)
    scan = predictor.in_photons(_matched(scan, predictor, options))
    for note in (*scan.describe(), *predictor.notes):
        say(note)
    scan = with_settled_drift(with_settled_centre(scan, device=device, say=say), device=device, say=say)
    before = scan
    chosen, unknowns = _chosen(predictor, scan, options), _unknowns(options, scan)
    holds_out = predictor.group_size == 1 and (options.refine is not None or predictor.is_general)
    validation = validation_set_of(scan, np.unique(chosen), unknowns) if holds_out else None
    with _lent(predictor.model, device):
        region = predictor.region(scan, chosen, batch_size=options.batch_size, validation=validation, device=device)
        begin = seconds_on(device)
        with torch.inference_mode(), _precision(options.precision, device):
            obj = predictor.model(region)
        seconds, refining_s, scores = seconds_on(device) - begin, 0.0, dict[str, Any]()
        intensities, undenoised = np.ones(len(scan), np.float32), None
        if options.refine:
            begin = seconds_on(device)
            refined = _refined(obj, region, predictor, scan, chosen, unknowns, options, on_sweep=on_sweep, say=say)
            scan, intensities = refined.scan, refined.intensities
            region = predictor.region(scan, chosen, batch_size=options.batch_size, device=device)
            obj = on_canvas(refined.obj, refined.origin, region)
            if refined.undenoised is not None:
                undenoised = _on_grid(on_canvas(refined.undenoised, refined.origin, region), region)
            scores["refinement"] = refined.scores
            refining_s = seconds_on(device) - begin
        elif validation is not None:
            region = predictor.region(scan, chosen, batch_size=options.batch_size, device=device)
        result = _as_reconstruction(obj, region, predictor, scan)
        if options.refine:
            result = replace(
                result,
                given_positions=given.positions[region.indices],
                intensities=(intensities * _of_the_beam(scan))[region.indices],
                undenoised=undenoised,
            )
        check_finite(result)
        factors = torch.as_tensor(intensities[region.indices], device=device)
        figures = figures_of(obj, region, intensities=factors, validation=validation)
    verdict = judged(figures)
    if options.diagnose and verdict.status != "good" and shows_an_object(figures):
        found = diagnosis_of(before, freed=unknowns if options.refine else OBJECT_ONLY, device=device, say=say)
        verdict = judged(figures, causes=found.reasons, is_confirmed=found.is_confirmed)
    scores |= {"verdict": verdict.as_dict(), "n_patterns": len(np.unique(region.indices)), **_misfits_in(figures)}
    scores["timing"] = {"reconstruction_s": seconds, "patterns_per_s": len(region) / (seconds + refining_s)}
    if options.refine:
        scores["timing"]["refinement_s"] = refining_s
    result = replace(result, verdict=verdict, examples=figures.examples)
    scores |= _coverage(result) | _against_reference(result, scan)
    return replace(result, scores=scores, provenance=_provenance(predictor, scan, options))


def _matched(scan: Scan, predictor: Predictor, options: _Options) -> Scan:
    """The scan with the probe of the model, if its own is an estimate, and cut to a disk if asked."""
    predictor.check_fits(scan)
    if scan.probe_is_guess and predictor.probe is not None:
        scan = replace(scan, probe=predictor.probe, probe_origin="from the bundle", probe_is_guess=False)
    if options.probe_mask:
        scan = scan.with_masked_probe(diameter=options.probe_mask_diameter, sigma=options.probe_mask_sigma)
    return scan


def _chosen(predictor: Predictor, scan: Scan, options: _Options) -> np.ndarray:
    """Indices of the patterns that are used, in groups where the network needs groups."""
    chosen = np.arange(len(scan))
    if options.patterns is not None and options.patterns < len(scan):
        chosen = np.sort(central_region(scan.positions, options.patterns))
    if len(chosen) < predictor.group_size:
        raise DataError(
            f"{scan.source}: {len(chosen)} patterns, a group of this bundle's network needs {predictor.group_size}; "
            "use more patterns or take a larger scan"
        )
    if predictor.group_size > 1:
        chosen = chosen[group_neighbours(scan.positions[chosen], predictor.group_size).reshape(-1)]
    return chosen


def _unknowns(options: _Options, scan: Scan) -> Unknowns:
    found: Literal["none", "free", "drift"] = (
        "drift" if scan.drift is not None else "free" if scan.intensities is not None else "none"
    )
    asked = options.intensity_fluctuation
    return Unknowns(
        probe=options.probe_update,
        positions=options.position_correction,
        intensities=found if asked == "auto" else "free" if asked else "none",
    )


def _refined(
    obj: Tensor,
    region: Region,
    predictor: Predictor,
    scan: Scan,
    chosen: np.ndarray,
    unknowns: Unknowns,
    options: _Options,
    *,
    on_sweep: OnSweep | None,
    say: Callable[[str], object],
) -> RefinedScan:
    """The one call of the refinement."""
    assert options.refine is not None
    with torch.inference_mode():
        return refined_scan(
            obj,
            region,
            predictor,
            scan,
            chosen,
            sweeps=options.refine,
            unknowns=unknowns,
            likelihood=options.likelihood,
            regulariser=options.regulariser,
            modes=options.modes or 1,
            denoising=options.denoise,
            batch_size=options.batch_size,
            on_sweep=on_sweep,
            say=say,
        )


@contextmanager
def _lent(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model on the device and in evaluation mode; its modes and device are restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    places = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    try:
        model.eval().to(device)
        yield
    finally:
        for module, training in modes:
            module.training = training
        if places != {device} and len(places) == 1:
            model.to(places.pop())


def _precision(precision: str, device: torch.device) -> Any:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16-mixed")


def _misfits_in(figures: Figures) -> dict[str, Any]:
    """Misfit and deviance of the patterns, for metrics.json."""
    photons = np.where(figures.photons > 0, figures.photons, np.nan)  # without a photon, R is not defined
    return {
        "misfit_R": figures.misfit_r,
        "misfit_R_per_pattern": np.sqrt(figures.misfit / photons),
        "poisson_deviance_per_pixel": figures.deviance_per_pixel,
        "mean_photons_per_pattern": figures.photons.mean(),
    }


def _of_the_beam(scan: Scan) -> np.ndarray:
    """The intensity of the beam in each pattern as it was read, float32 `[n]`."""
    return np.ones(len(scan), np.float32) if scan.intensities is None else scan.intensities


def _on_grid(canvas: Tensor, region: Region) -> np.ndarray:
    """The values on the canvas of a region, without its padding."""
    height, width = region.extent
    return canvas[:height, :width].cpu().numpy()


def _as_reconstruction(obj: Tensor, region: Region, predictor: Predictor, scan: Scan) -> Reconstruction:
    return Reconstruction(
        object=_on_grid(obj, region),
        weight=_on_grid(region.illumination(), region),
        origin=region.origin,
        positions=scan.positions[region.indices],
        pattern_indices=region.indices,
        intensity_scale=predictor.scale.value,
        pixel_size_m=scan.pixel_size_m,
        probe=region.probe.cpu().numpy(),
    )


def _coverage(result: Reconstruction) -> dict[str, Any]:
    seen = is_lit(result.weight)
    return {
        "coverage": {
            "illuminated_pixels": int(seen.sum()),
            "illuminated_fraction_of_canvas": float(seen.mean()),
            "photons_per_illuminated_pixel": float(result.weight[seen].mean()),
        },
        "object_mean_amplitude": float(np.abs(result.object[seen]).mean()),
    }


def _against_reference(result: Reconstruction, scan: Scan) -> dict[str, Any]:
    """Scores against the scan's own object, where it has one: the truth of a simulation, else a reference."""
    if scan.obj is None or (scan.obj == scan.obj.flat[0]).all():  # an initial guess is no reference
        return {}
    ours, reference = as_placed_object(result), as_placed_object(scan)
    try:
        rows, columns = shared_region(ours, reference, inset=INSET_PX)
    except DataError as error:
        return {"reference": {"skipped": str(error)}}
    mask = is_lit(PlacedObject(ours.path, result.weight, result.origin, None).cut(rows, columns))
    ramp = scan.nphotons is None  # a reconstructed reference has its own phase ramp
    return {"reference": compare(ours.cut(rows, columns), reference.cut(rows, columns), ramp=ramp, mask=mask)}


def _provenance(predictor: Predictor, scan: Scan, options: _Options) -> dict[str, Any]:
    """The origin of this result: versions, model, settings, input."""
    facts: Mapping[str, Any] = scan.facts()
    return {
        "ptycho_torch": __version__,
        "torch": torch.__version__,
        "model": {"name": predictor.name, "kind": predictor.kind, "facts": dict(predictor.facts)},
        "patterns_of_a_statistic": predictor.statistics_size,
        "intensity_scale": predictor.scale.as_dict(),
        "settings": options.as_record(),
        "scan": dict(facts),
        "notes": list(scan.notes),
        "input": {"source": str(scan.source), "sha256": scan.digest or _digest_of(scan)},
    }


def _digest_of(scan: Scan) -> str:
    """sha256 of the patterns and nominal positions of a scan that is no file."""
    digest = hashlib.sha256(scan.nominal_positions.tobytes())
    for part in chunks(len(scan), scan.n**2):
        digest.update(scan.patterns[part].tobytes())
    return digest.hexdigest()
