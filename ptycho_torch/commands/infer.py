"""`infer`: from a bundle and a scan to an object, pictures, numbers and a report."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.commands import command_line
from ptycho_torch.config import InferenceConfig
from ptycho_torch.data.formats import read_scan
from ptycho_torch.data.grouping import central_groups, central_region, group_neighbours
from ptycho_torch.data.region import Region, on_canvas
from ptycho_torch.data.scan import Scan
from ptycho_torch.devices import deterministic, resolve_device, seconds_on, use_available_threads
from ptycho_torch.errors import DataError, UsageError
from ptycho_torch.evaluation import Picture, shared_region
from ptycho_torch.files import atomic_path, write_json
from ptycho_torch.metrics import compare
from ptycho_torch.physics.likelihood import misfit, poisson_nll
from ptycho_torch.physics.patches import extract_whole, split_positions
from ptycho_torch.physics.probe import masked_probe
from ptycho_torch.predictors import Start, find_start
from ptycho_torch.refinement import Unknowns
from ptycho_torch.refinement.initial_probe import with_probe_from_patterns
from ptycho_torch.refinement.rounds import refined_scan, validation_set_of
from ptycho_torch.report import write_course, write_pictures, write_removed, write_report
from ptycho_torch.report.patch_statistics import StatisticsRecorder, illuminated_pixels, write_debug_dump
from ptycho_torch.types import Reconstruction, check_finite

DUMPED_PATCHES = 1024
REFERENCE_INSET = 8
LIT = 0.05
"""A canvas pixel counts as seen when its illumination is at least this fraction of the largest."""


def infer(config: InferenceConfig) -> Reconstruction:
    """Reconstruct as the settings say and write the results into the output folder."""
    device = resolve_device(config.accelerator, config.device)
    with deterministic(device):
        return _infer(config, device)


def _infer(config: InferenceConfig, device: torch.device) -> Reconstruction:
    use_available_threads()
    scan = read_scan(config.test_data, domain=config.measurement_domain)
    say = (lambda *_: None) if config.quiet else print
    _check_writable(config.output_dir)
    if config.probe_from == "patterns":
        scan = with_probe_from_patterns(scan, device=device, say=say)
    start = find_start(config.model_path, scan)
    scan = start.in_photons(_matched(scan, start, config))
    for note in (*scan.describe(), *start.notes):
        say(note)
    print(f"intensity_scale: {start.scale.describe()[:-1]}; {start.name})")
    start.model.to(device)
    chosen, unknowns = _chosen(start, scan, config), _unknowns(config)
    holds_out = start.group_size == 1 and (config.refine is not None or start.is_general)
    validation = validation_set_of(scan, np.unique(chosen), unknowns) if holds_out else None
    region = start.region(scan, chosen, batch_size=config.inference_batch_size, validation=validation, device=device)
    begin = seconds_on(device)
    with torch.inference_mode(), _precision(config.precision, device):
        obj = start.model(region)
    seconds = seconds_on(device) - begin
    intensities, given, refining_s = np.ones(len(scan), np.float32), scan.positions, 0.0
    scores: dict[str, Any] = {}
    undenoised = None
    if config.refine:
        begin = seconds_on(device)
        with torch.inference_mode():
            refinement = refined_scan(
                obj,
                region,
                start,
                scan,
                chosen,
                sweeps=config.refine,
                unknowns=unknowns,
                likelihood=config.likelihood,
                modes=config.modes or 1,
                denoising=config.denoise,
                batch_size=config.inference_batch_size,
                say=say,
            )
        obj, scan, intensities = refinement.obj, refinement.scan, refinement.intensities
        region = start.region(scan, chosen, batch_size=config.inference_batch_size, device=device)
        obj = on_canvas(obj, refinement.origin, region)
        if refinement.undenoised is not None:
            height, width = region.extent
            undenoised = on_canvas(refinement.undenoised, refinement.origin, region)[:height, :width].cpu().numpy()
        scores["refinement"] = refinement.scores
        refining_s = seconds_on(device) - begin
    elif validation is not None:
        region = start.region(scan, chosen, batch_size=config.inference_batch_size, device=device)
    fit = _Fit(start, region, config, intensities)
    with torch.inference_mode():
        scores |= fit.of(obj)
    scores["timing"] = {"reconstruction_s": seconds, "patterns_per_s": len(region) / (seconds + refining_s)}
    if config.refine:
        scores["timing"]["refinement_s"] = refining_s
    reconstruction = _as_reconstruction(obj, region, start, scan)
    if config.refine:
        reconstruction = replace(
            reconstruction,
            given_positions=given[region.indices],
            intensities=intensities[region.indices],
            undenoised=undenoised,
        )
    check_finite(reconstruction)
    scores |= _coverage(reconstruction) | _against_reference(reconstruction, scan)
    reconstruction = replace(reconstruction, scores=scores)
    _write(reconstruction, start, scan, fit, config)
    say(_summary(reconstruction, config))
    return reconstruction


def _matched(scan: Scan, start: Start, config: InferenceConfig) -> Scan:
    start.check_fits(scan)
    if scan.probe_is_guess and start.probe is not None:
        scan = replace(scan, probe=start.probe, probe_origin="from the bundle", probe_is_guess=False)
    if config.probe_mask:
        diameter = config.probe_mask_diameter or scan.n / 2
        probe = masked_probe(torch.as_tensor(scan.probe), diameter=diameter, sigma=config.probe_mask_sigma)
        scan = replace(scan, probe=probe.numpy(), probe_origin=f"{scan.probe_origin}, cut to a disk of {diameter:g} px")
    return scan


def _check_writable(folder: Path) -> None:
    try:
        with atomic_path(folder / "metrics.json") as probe:
            probe.touch()
            raise FileExistsError  # written and removed: nothing is left behind
    except FileExistsError as error:
        if error.errno is not None:
            raise UsageError(f"--output_dir {folder}: it is a file, a folder is needed") from None
    except OSError as error:
        raise UsageError(f"--output_dir {folder}: it can't be written ({error.strerror}); choose another") from None


def _chosen(start: Start, scan: Scan, config: InferenceConfig) -> np.ndarray:
    """Indices of the patterns that are used, in groups where the network wants groups."""
    chosen = np.arange(len(scan))
    if config.n_images is not None and config.n_images < len(scan):
        chosen = np.sort(central_region(scan.positions, config.n_images))
    if len(chosen) < start.group_size:
        raise DataError(
            f"{config.test_data}: {len(chosen)} patterns, a group of this bundle's network needs {start.group_size}; "
            "raise --n_images or take a larger scan"
        )
    if start.group_size > 1:
        chosen = chosen[group_neighbours(scan.positions[chosen], start.group_size).reshape(-1)]
    return chosen


def _unknowns(config: InferenceConfig) -> Unknowns:
    return Unknowns(
        probe=config.probe_update,
        positions=config.position_correction,
        intensities=config.intensity_fluctuation,
    )


def _precision(precision: str, device: torch.device) -> Any:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16-mixed")


class _Fit:
    """How well the object explains the patterns, gathered in one pass; keeps some patches for people to look at."""

    def __init__(self, start: Start, region: Region, config: InferenceConfig, intensities: np.ndarray) -> None:
        self.model, self.region, self.config = start.model, region, config
        self.intensities = torch.as_tensor(intensities[region.indices], device=region.device)
        self.per_pattern = np.empty(0)
        self.dumped: list[np.ndarray] = []

    def of(self, obj: Tensor) -> dict[str, Any]:
        differences, photons, deviance = [], [], 0.0
        for batch in self.region.batches():
            patches = self.model.patches(obj, batch)
            predicted = self.model.counts(patches, batch, self.region) * self.intensities[batch.index, None, None]
            counts = batch.amplitude.square()
            difference, total = misfit(predicted, counts, self.region.valid)
            differences.append(difference.cpu().double())
            photons.append(total.cpu().double())
            deviance += 2 * float(poisson_nll(predicted, counts, self.region.valid)) * len(counts)
            self._keep(patches.cpu().numpy())
        error, power = torch.cat(differences).numpy(), torch.cat(photons).numpy()
        self.per_pattern = np.sqrt(error / power)
        return {
            "misfit_R": math.sqrt(error.sum() / power.sum()),
            "misfit_R_per_pattern": self.per_pattern,
            "poisson_deviance_per_pixel": deviance / len(error),
            "mean_photons_per_pattern": power.mean(),
            "n_patterns": len(np.unique(self.region.indices)),
        }

    def _keep(self, patches: np.ndarray) -> None:
        if self.config.debug_dump is not None:
            room = DUMPED_PATCHES - sum(map(len, self.dumped))
            self.dumped.append(patches[:room])


def _log_patch_statistics(reconstruction: Reconstruction, start: Start, scan: Scan, config: InferenceConfig) -> None:
    """Statistics of the predicted patches, over the groups of patterns that training looks at in the same scan."""
    recorder = StatisticsRecorder("inference", illuminated_pixels(scan.probe), limit=config.patch_stats_limit)
    obj, origin = torch.as_tensor(reconstruction.object), torch.tensor(reconstruction.origin)
    for group in central_groups(scan.positions, reconstruction.pattern_indices, start.statistics_size):
        if recorder.full:
            break
        whole, _ = split_positions(torch.as_tensor(scan.positions[group]))
        print(recorder.add(extract_whole(obj, whole - origin - scan.n // 2, scan.n).numpy()))
    recorder.write(config.output_dir)


def _as_reconstruction(obj: Tensor, region: Region, start: Start, scan: Scan) -> Reconstruction:
    height, width = region.extent
    weight = region.illumination()
    return Reconstruction(
        object=obj[:height, :width].cpu().numpy(),
        weight=weight[:height, :width].cpu().numpy(),
        origin=region.origin,
        positions=scan.positions[region.indices],
        pattern_indices=region.indices,
        intensity_scale=start.scale.value,
        pixel_size_m=scan.pixel_size_m,
        probe=region.probe.cpu().numpy(),
    )


def _coverage(reconstruction: Reconstruction) -> dict[str, Any]:
    lit = reconstruction.weight >= LIT * reconstruction.weight.max()
    return {
        "coverage": {
            "illuminated_pixels": int(lit.sum()),
            "illuminated_fraction_of_canvas": float(lit.mean()),
            "photons_per_illuminated_pixel": float(reconstruction.weight[lit].mean()),
        },
        "object_mean_amplitude": float(np.abs(reconstruction.object[lit]).mean()),
    }


def _against_reference(reconstruction: Reconstruction, scan: Scan) -> dict[str, Any]:
    """Scores against the file's own object, where it has one: the truth of a simulation, else a reference."""
    if scan.obj is None:
        return {}
    picture = Picture(Path("reconstruction"), reconstruction.object, reconstruction.origin, reconstruction.positions)
    reference = Picture(scan.source, scan.obj, (0, 0), scan.positions)
    try:
        rows, columns = shared_region(picture, reference, inset=REFERENCE_INSET)
    except DataError as error:
        return {"reference": {"skipped": str(error)}}
    lit = Picture(picture.path, reconstruction.weight, reconstruction.origin, None).cut(rows, columns)
    mask = lit >= LIT * lit.max()
    ramp = scan.nphotons is None  # a reference that was reconstructed has a gauge of its own
    return {"reference": compare(picture.cut(rows, columns), reference.cut(rows, columns), ramp=ramp, mask=mask)}


def _write(reconstruction: Reconstruction, start: Start, scan: Scan, fit: _Fit, config: InferenceConfig) -> None:
    folder, scores = config.output_dir, reconstruction.scores
    with atomic_path(folder / "reconstruction.npz") as temporary:
        np.savez(
            temporary,
            object=reconstruction.object,
            weight=reconstruction.weight,
            positions=reconstruction.positions,
            pattern_indices=reconstruction.pattern_indices,
            intensity_scale=np.float64(reconstruction.intensity_scale),
            origin=np.asarray(reconstruction.origin, dtype=np.int64),
            pixel_size_m=np.float64(reconstruction.pixel_size_m or np.nan),
            **{
                name: getattr(reconstruction, name)
                for name in ("probe", "given_positions", "intensities", "undenoised")
                if getattr(reconstruction, name) is not None
            },
        )
    write_json(folder / "metrics.json", {**scores, "intensity_scale": start.scale.as_dict()})
    write_pictures(folder, reconstruction)
    if config.log_patch_stats:
        _log_patch_statistics(reconstruction, start, scan, config)
    if config.debug_dump is not None:
        patches = np.concatenate(fit.dumped)
        positions = reconstruction.positions[: len(patches)]
        write_debug_dump(
            config.debug_dump,
            patches=patches,
            positions=positions,
            reconstruction=reconstruction,
            illuminated=illuminated_pixels(scan.probe),
        )
    course = write_course(folder, reconstruction) if "refinement" in scores else None
    removed = write_removed(folder, reconstruction) if reconstruction.undenoised is not None else None
    write_report(
        folder,
        reconstruction,
        title=f"Reconstruction of {config.test_data.name}",
        scan_facts=scan.facts(),
        bundle_facts={**start.facts, "intensity scale": start.scale.describe()},
        per_pattern_misfit=fit.per_pattern,
        course=course,
        removed=removed,
        command=command_line(),
    )


def _summary(reconstruction: Reconstruction, config: InferenceConfig) -> str:
    scores = reconstruction.scores
    speed = scores["timing"]["patterns_per_s"]
    text = f"{scores['n_patterns']} patterns, {speed:.0f}/s, misfit R {scores['misfit_R']:.4f}"
    reference = scores.get("reference", {})
    if "amplitude_psnr_db" in reference:
        text += (
            f"; against the file's object: amplitude {reference['amplitude_psnr_db']:.1f} dB, "
            f"phase {reference['phase_psnr_db']:.1f} dB"
        )
    return (
        f"{text}\npicture: {config.output_dir / 'reconstructed_phase.png'}, report: {config.output_dir / 'report.html'}"
    )
