"""`infer`: from a model and a scan to an object, images, scores and a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ptycho_torch.commands import command_line
from ptycho_torch.config import ConvertConfig, InferenceConfig
from ptycho_torch.data.formats import Stated, read_scan
from ptycho_torch.data.formats.writers import write_scan
from ptycho_torch.data.geometry import turned
from ptycho_torch.data.grouping import central_groups
from ptycho_torch.data.scan import Scan
from ptycho_torch.devices import resolve_device, use_available_threads
from ptycho_torch.errors import UsageError, VerdictError
from ptycho_torch.files import atomic_path, write_json
from ptycho_torch.physics.patches import extract_whole, split_positions
from ptycho_torch.predictors import FLAT, RECONSTRUCTION
from ptycho_torch.progress import ProgressLine
from ptycho_torch.reconstruction import reconstruct
from ptycho_torch.report import one_line, write_images, write_report, write_steps
from ptycho_torch.report.patch_statistics import StatisticsRecorder, illuminated_pixels, write_debug_dump
from ptycho_torch.scale import IntensityScale
from ptycho_torch.types import Reconstruction

DUMPED_PATCHES = 1024
NOT_COMPUTED = (FLAT, RECONSTRUCTION)
"""Kinds of a start that is there at once, so that a speed would mean nothing."""
FREED: dict[str, bool | Literal["auto"]] = {"yes": True, "no": False, "auto": "auto"}


def infer(config: InferenceConfig) -> Reconstruction:
    """Reconstruct with these settings and write the results into the output folder."""
    scan, device = opened(config)
    with ProgressLine(quiet=config.quiet) as progress:
        result = reconstructed(scan, config, progress, device=device)
    return delivered(result, scan, config)


def opened(config: InferenceConfig) -> tuple[Scan, torch.device]:
    """The scan, and the device; raises before any work where the results can't be written."""
    device = resolve_device(config.accelerator, config.device)
    use_available_threads()
    scan = scan_of(config)
    _check_writable(config.output_dir)
    return scan, device


def scan_of(config: InferenceConfig | ConvertConfig) -> Scan:
    """The scan that these settings name, turned as they say."""
    scan = read_scan(
        config.test_data,
        domain=config.measurement_domain,
        trust_detector=config.trust_detector,
        stated=Stated(**config.stated()),
    )
    return turned(scan, **config.geometry())


def reconstructed(
    scan: Scan, config: InferenceConfig, progress: ProgressLine, *, device: torch.device, **changes: Any
) -> Reconstruction:
    """The reconstruction with these settings, but for the `changes`."""
    settings: dict[str, Any] = {
        "model": config.model_path,
        "refine": config.refine,
        "likelihood": config.likelihood,
        "probe_update": config.probe_update,
        "probe_from": config.probe_from,
        "modes": config.modes,
        "position_correction": config.position_correction,
        "intensity_fluctuation": FREED[config.intensity_fluctuation],
        "denoise": config.denoise,
        "patterns": config.n_images,
        "batch_size": config.inference_batch_size,
        "precision": config.precision,
        "probe_mask": config.probe_mask,
        "probe_mask_diameter": config.probe_mask_diameter,
        "probe_mask_sigma": config.probe_mask_sigma,
        "diagnose": config.diagnose,
    }
    hooks: dict[str, Any] = {"on_sweep": progress.on_sweep, "on_step": progress.step, "say": progress.say}
    return reconstruct(scan, device=device, **(settings | changes), **hooks)


def delivered(result: Reconstruction, scan: Scan, config: InferenceConfig) -> Reconstruction:
    """The result, once it is written and its verdict and summary are said."""
    _write(result, scan, config)
    _write_also(result, scan, config)
    _say_verdict(result, config)
    print(_summary(result, config))
    if config.strict and result.verdict is not None and result.verdict.status == "bad":
        raise VerdictError(f"the verdict is bad, the results in {config.output_dir} are not to be trusted")
    return result


def _say_verdict(result: Reconstruction, config: InferenceConfig) -> None:
    """The verdict, its reasons a line each: a warning on stderr unless it is good."""
    assert result.verdict is not None
    if result.verdict.status != "good":
        print("warning: " + "\n  - ".join(result.verdict.in_lines()), file=sys.stderr, flush=True)
    elif not config.quiet:
        print("\n  - ".join(result.verdict.in_lines()), flush=True)


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


def _patches(result: Reconstruction, positions: np.ndarray) -> np.ndarray:
    """The patches of the object that the probe saw at these positions, complex64 `[b, N, N]`."""
    assert result.probe is not None
    n = result.probe.shape[-1]
    whole, _ = split_positions(torch.as_tensor(positions))
    corners = whole - torch.tensor(result.origin) - n // 2
    return extract_whole(torch.as_tensor(result.object), corners, n).numpy()


def _log_patch_statistics(result: Reconstruction, scan: Scan, config: InferenceConfig) -> None:
    """Statistics of the predicted patches, over the groups of patterns that training would form in the same scan."""
    assert result.probe is not None
    recorder = StatisticsRecorder("inference", illuminated_pixels(result.probe), limit=config.patch_stats_limit)
    positions = result.among(scan.positions)
    for group in central_groups(positions, result.pattern_indices, result.provenance["patterns_of_a_statistic"]):
        if recorder.full:
            break
        print(recorder.add(_patches(result, positions[group])))
    recorder.write(config.output_dir)


def _dump(result: Reconstruction, folder: Path) -> None:
    assert result.probe is not None
    positions = result.positions[:DUMPED_PATCHES]
    write_debug_dump(
        folder,
        patches=_patches(result, positions),
        positions=positions,
        reconstruction=result,
        illuminated=illuminated_pixels(result.probe),
    )


def _write(result: Reconstruction, scan: Scan, config: InferenceConfig) -> None:
    folder, scores, made_by = config.output_dir, result.scores, result.provenance
    scale = IntensityScale.from_dict(made_by["intensity_scale"])
    result.save(folder / "reconstruction.npz")
    write_json(folder / "metrics.json", {**scores, "intensity_scale": scale.as_dict(), "made_by": made_by})
    write_images(folder, result)
    write_steps(folder, result)
    if config.log_patch_stats:
        _log_patch_statistics(result, scan, config)
    if config.debug_dump is not None:
        _dump(result, config.debug_dump)
    title = f"Reconstruction of {config.test_data.name}"
    write_report(folder, result, title=title, notes=made_by["notes"], command=command_line())


def _write_also(result: Reconstruction, scan: Scan, config: InferenceConfig) -> None:
    """The result in another format, where one is asked for."""
    if config.output_format in ("h5", "tif"):
        result.save(config.output_dir / f"reconstruction.{config.output_format}")
    elif config.output_format == "cxi":
        write_scan(config.output_dir / "reconstruction.cxi", scan, result)
    elif config.output_format == "ptychodus":
        write_scan(config.output_dir / "ptychodus", scan, result)


def _summary(result: Reconstruction, config: InferenceConfig) -> str:
    """The last lines: location and misfit of the result; more unless quiet."""
    scores, made_by = result.scores, result.provenance
    scale = IntensityScale.from_dict(made_by["intensity_scale"])
    misfit = f"misfit R {scores['misfit_R']:.4f} (lower is better)"
    line = one_line(scale, made_by["model"]["name"], misfit=misfit, results=config.output_dir)
    if config.quiet:
        return line
    text = f"{scores['n_patterns']} patterns"
    if config.refine or made_by["model"]["kind"] not in NOT_COMPUTED:
        text += f", {scores['timing']['patterns_per_s']:.0f} per second"
    reference = scores.get("reference", {})
    if "amplitude_psnr_db" in reference:
        text += (
            f"; compared with the object in the file: amplitude {reference['amplitude_psnr_db']:.1f} dB, "
            f"phase {reference['phase_psnr_db']:.1f} dB"
        )
    pages = f"image: {config.output_dir / 'reconstructed_phase.png'}; report: {config.output_dir / 'report.html'}"
    return f"{text}\n{line}\n{pages}"
