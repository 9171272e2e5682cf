"""`check`: what a file holds and declares, what is to be looked at, and what a short trial makes of it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ptycho_torch.commands.run import orientation_of
from ptycho_torch.config import CheckConfig
from ptycho_torch.data.formats import Stated, open_source, prepared
from ptycho_torch.data.geometry import in_pixels, neighbour_distance, probe_width, remarks, turned
from ptycho_torch.data.grouping import central_region
from ptycho_torch.data.scan import Scan
from ptycho_torch.devices import available_bytes, resolve_device, use_available_threads
from ptycho_torch.errors import VerdictError
from ptycho_torch.files import as_json
from ptycho_torch.progress import ProgressLine, duration
from ptycho_torch.reconstruction import reconstruct
from ptycho_torch.report.page import length

TRIAL_PATTERNS, TRIAL_SWEEPS = 144, 20
"""Of the trial: as many patterns as the verdict's thresholds were measured with."""
FEWEST_PATTERNS, TRIAL_VALUES = 49, 2**21
"""Fewer of large ones, up to that many pixels in all: a trial takes seconds."""
FULL_SWEEPS = 60
BASE_BYTES, BYTES_OF_A_VALUE, BYTES_OF_A_PIXEL = 350e6, 36.0, 160.0
"""Peak memory of `run`: of the program, for each value of the patterns, and for each pixel of the object. Six scans of
300 to 4000 patterns of 64² to 256² took 0.93 to 1.1 times that."""
LOOKED_AT = 1024
"""Frames of a larger scan that are read."""
SPARSE, DENSE = 0.6, 0.03
"""Step over the width of the probe beyond which the object is undetermined, and below which patterns repeat."""
SCARCE = 300.0
"""Photons in the mean pattern below which an object is mostly noise."""


def run(config: CheckConfig) -> dict[str, Any]:
    """Print the table, or JSON; exit code 5 with `--strict` where the trial's verdict is bad."""
    use_available_threads()
    stated = Stated(**config.stated())
    source = open_source(config.test_data, mapping_text=stated.mapping)
    whole = prepared(source, stated, domain=config.measurement_domain)
    scan = whole.part(LOOKED_AT).scan(trust_detector=config.trust_detector)
    frames = min(len(whole.positions), len(whole.frames))
    if frames > LOOKED_AT:
        scan = replace(scan, notes=(*scan.notes, f"the detector is looked at in {LOOKED_AT} frames of the middle"))
    scan = in_pixels(turned(scan, **config.geometry()))
    span = np.ptp(whole.positions, axis=0) if frames > LOOKED_AT else np.ptp(scan.positions, axis=0)
    count = frames if frames > LOOKED_AT else len(scan)
    memory = _memory(count, scan.n, span)
    found: dict[str, Any] = {
        "format": source.form,
        "files": str(source.path),
        "declares": str(source.declares),
        **_facts(scan, count, span),
        "notes": list(scan.notes),
        "remarks": [*remarks(scan), *_warnings(scan), *_too_large(memory)],
        "memory_bytes": float(f"{memory:.3g}"),
    }
    if config.trial:
        device = resolve_device(config.accelerator, config.device)
        with ProgressLine(quiet=config.quiet or config.json_output) as progress:
            told = {"told_by_format": scan.orientation_is_told}
            found["orientation"] = told | orientation_of(scan, device).as_dict()
            found["trial"] = _trial(scan, frames, device, progress)
    print(as_json(found) if config.json_output else _as_text(found))
    if config.strict and found.get("trial", {}).get("verdict") == "bad":
        raise VerdictError("the verdict of the trial is bad")
    return found


def _facts(scan: Scan, frames: int, span: np.ndarray) -> dict[str, Any]:
    """Numbers about the scan, of so many frames and this span [px]."""
    step, width = neighbour_distance(scan.positions), probe_width(scan)
    pixel = scan.pixel_size_m
    power = float(np.square(np.abs(scan.probe)).sum())
    return {
        "frames": {
            "number": frames,
            "pixels": scan.n,
            "type": str(scan.patterns.dtype),
            "domain": f"{scan.domain} ({scan.domain_reason})",
        },
        "positions": {
            "span_px": [round(float(side), 2) for side in span],
            "span_m": None if pixel is None else [float(side * pixel) for side in span],
            "step_px": round(step, 3),
            "overlap": round(1 - step / width, 3) if width else None,
        },
        "light": {"photons_per_pattern": float(f"{scan.mean_photons():.4g}")},
        "probe": {
            "origin": scan.probe_origin,
            "modes": len(scan.probe),
            "width_px": round(width, 2),
            "photons": None if scan.probe_is_guess else float(f"{power:.4g}"),
        },
        "optics": {
            "wavelength_m": scan.wavelength_m,
            "object_pixel_m": pixel,
            "propagation": scan.propagation,
        },
        "detector": {
            "pixels_not_measured": int((~scan.valid).sum()),
            "values_not_measured": 0.0
            if scan.valid_values is None
            else float((~scan.valid_values)[:, scan.valid].mean()),
        },
        "object_in_file": None if scan.obj is None else list(scan.obj.shape),
    }


def _memory(frames: int, n: int, span: np.ndarray) -> float:
    """About how many bytes `run` will take at its peak."""
    return BASE_BYTES + BYTES_OF_A_VALUE * frames * n**2 + BYTES_OF_A_PIXEL * float(np.prod(np.asarray(span) + n))


def _too_large(memory: float) -> list[str]:
    free = available_bytes()
    if memory <= free:
        return []
    ways = "a part of it needs less: --n_images, --frames, --bin or --crop"
    return [f"a reconstruction will take about {memory / 1e9:.3g} GB of memory, {free / 1e9:.3g} GB are free: {ways}"]


def _warnings(scan: Scan) -> list[str]:
    """What is unusual, each with the way out."""
    found = list[str]()
    step, width, photons = neighbour_distance(scan.positions), probe_width(scan), scan.mean_photons()
    if step > SPARSE * width:
        found.append(
            f"neighbours are {step / width:.2g} widths of the probe apart: is the unit of the positions right "
            "(--position-unit), and the object's pixel (--distance, --pixel-size)?"
        )
    elif 0 < step < DENSE * width:
        found.append(
            f"neighbours are {step / width:.2g} widths of the probe apart: is the unit of the positions right "
            "(--position-unit)?"
        )
    if photons < SCARCE:
        found.append(f"{photons:.3g} photons in a pattern: the object will be mostly noise; more light is needed")
    if scan.probe_is_guess:
        found.append("no probe: `run` finds one from the patterns; a measured one settles which twin is right")
    if scan.wavelength_m is None and scan.propagation == "far":
        found.append("no wavelength: lengths are in pixels; add --photon-energy or --electron-voltage")
    return found


def _trial(scan: Scan, frames: int, device: torch.device, progress: ProgressLine) -> dict[str, Any]:
    """A short reconstruction of the middle of the scan: its verdict with reasons, and the time that all would take."""
    count = min(TRIAL_PATTERNS, max(FEWEST_PATTERNS, TRIAL_VALUES // scan.n**2), len(scan))
    chosen = np.sort(central_region(scan.positions, count))
    part = replace(scan.subset(chosen), obj=None, notes=())
    is_guess = scan.probe_is_guess and scan.propagation == "far"
    begin = time.perf_counter()
    result = reconstruct(
        part,
        refine=FULL_SWEEPS if is_guess else TRIAL_SWEEPS,
        probe_from="patterns" if is_guess else "file",
        diagnose=not is_guess,  # a probe that was found is no ground for a diagnosis
        device=device,
        on_step=progress.step,
        say=lambda text: None,
    )
    assert result.verdict is not None
    speed = float(result.scores["timing"]["patterns_per_s"])
    return {
        "patterns": len(part),
        "verdict": result.verdict.status,
        "reasons": [str(reason) for reason in result.verdict.reasons],
        "seconds": round(time.perf_counter() - begin, 2),
        "seconds_for_all": float(f"{frames / speed * (1 if is_guess else FULL_SWEEPS / TRIAL_SWEEPS):.3g}"),
    }


def _as_text(found: dict[str, Any]) -> str:
    """The table: a line for each group of facts, then what is to be looked at, then the trial."""
    positions, light, probe, optics = found["positions"], found["light"], found["probe"], found["optics"]
    span = " x ".join(f"{side:.4g}" for side in positions["span_px"]) + " px"
    if positions["span_m"] is not None:
        span += ", " + " x ".join(length(side) for side in positions["span_m"])
    detector = found["detector"]
    lost = f"{detector['pixels_not_measured']} pixels not measured"
    if detector["values_not_measured"]:
        lost += f", and {detector['values_not_measured']:.2g} of the values of the others"
    overlap = "" if positions["overlap"] is None else f", overlap {max(0.0, positions['overlap']):.0%}"
    frames, size = found["frames"], found["frames"]["pixels"]
    power = "" if probe["photons"] is None else f", {probe['photons']:.3g} photons"
    rows = [
        ("file", f"{found['files']} ({found['format']})"),
        ("declares", found["declares"]),
        (
            "frames",
            f"{frames['number']} of {size} x {size}, {frames['type']}; {frames['domain']}",
        ),
        ("positions", f"span {span}; step {positions['step_px']:.3g} px{overlap}"),
        ("light", f"{light['photons_per_pattern']:.4g} photons in a pattern"),
        ("probe", f"{probe['origin']}; {probe['modes']} mode(s), {probe['width_px']:.3g} px wide{power}"),
        ("optics", _optics(optics)),
        ("detector", lost),
    ]
    lines = [f"{name:<10} {text}" for name, text in rows]
    lines += [f"{'note':<10} {text}" for text in found["notes"]]
    lines += [f"{'look at':<10} {text}" for text in found["remarks"]]
    if "orientation" in found:
        lines.append(f"{'lies':<10} {found['orientation']['text']}")
    lines.append(f"{'memory':<10} about {found['memory_bytes'] / 1e9:.2g} GB for a reconstruction")
    trial = found.get("trial")
    if trial:
        lines.append(
            f"{'trial':<10} {trial['verdict']}, by {trial['patterns']} patterns of the middle; all will take about "
            f"{duration(trial['seconds_for_all'])}"
        )
        lines += [f"{'':<10} - {reason}" for reason in trial["reasons"]]
    return "\n".join(lines)


def _optics(optics: dict[str, Any]) -> str:
    wavelength, pixel = optics["wavelength_m"], optics["object_pixel_m"]
    parts = [f"{optics['propagation']} field"]
    parts.append("wavelength not known" if wavelength is None else f"wavelength {length(wavelength)}")
    parts.append("object pixel not known" if pixel is None else f"object pixel {length(pixel)}")
    return ", ".join(parts)
