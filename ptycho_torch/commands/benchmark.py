"""`benchmark`: methods compared with an oracle, over dose, overlap, size, probe and object."""

from __future__ import annotations

import csv
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.config import BenchmarkConfig
from ptycho_torch.data.formats import read_scan
from ptycho_torch.data.held_out import pick_validation_set
from ptycho_torch.data.region import Region, on_canvas
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.subsets import refinement_subsets
from ptycho_torch.devices import use_available_threads
from ptycho_torch.errors import DataError, UsageError
from ptycho_torch.evaluation import PlacedObject, shared_region
from ptycho_torch.files import atomic_path, write_json
from ptycho_torch.forward import Exposure
from ptycho_torch.metrics import INSET_PX, compare, scored_region
from ptycho_torch.networks.pretrained import posterior_mean
from ptycho_torch.physics.likelihood import misfit
from ptycho_torch.predictors import find_predictor
from ptycho_torch.refinement import Initial, Refined, Unknowns, refine
from ptycho_torch.refinement.denoising import denoise
from ptycho_torch.simulation.unseen import defocused, simulated

COLD_SWEEPS, WARM_SWEEPS, DENOISED_SWEEPS, ORACLE_SWEEPS = 60, 10, 20, 200
COLUMNS = (
    "pretrained",
    f"pretrained + {WARM_SWEEPS}",
    f"pretrained + {DENOISED_SWEEPS}, denoised",
    "cold",
    "oracle",
    "limit",
)


@dataclass(frozen=True, eq=False)
class Row:
    """One experiment: how to simulate or read its scan, and its unknowns."""

    group: str
    name: str
    make: Callable[[], Scan]
    unknowns: Unknowns = field(default_factory=Unknowns)
    first_probe: Callable[[Scan], np.ndarray] | None = None  # initial probe, if not the scan's own


def rows(config: BenchmarkConfig) -> Iterator[Row]:
    """The experiments of these settings."""
    chosen = config.rows.split(",")
    for group in chosen:
        if group not in GROUPS:
            raise UsageError(f"--rows {group}: one or more of {','.join(GROUPS)} are needed")
        yield from GROUPS[group](config)


def _doses(_: BenchmarkConfig) -> Iterator[Row]:
    for exponent in (2, 3, 4, 5, 6, 9):
        yield Row("dose", f"1e{exponent} photons", lambda e=exponent: simulated(photons=10.0**e))  # type: ignore[misc]
    for photons, exponent, seed in (
        (1e3, 3, 8),
        (1e3, 3, 9),
        (1e6, 6, 8),
        (1e6, 6, 9),
    ):  # other realisations of the noise

        def make(photons: float = photons, seed: int = seed) -> Scan:
            return simulated(photons=photons, seed=seed)

        yield Row("dose", f"1e{exponent} photons, noise {seed}", make)


def _overlaps(_: BenchmarkConfig) -> Iterator[Row]:
    for overlap in (0.85, 0.6, 0.4, 0.2, 0.0):
        name = f"{overlap:.0%} overlap"
        yield Row("overlap", name, lambda o=overlap: simulated(overlap=o, positions=256))  # type: ignore[misc]
    for overlap in (0.2, 0.0):

        def make(overlap: float = overlap) -> Scan:
            return simulated(overlap=overlap, positions=256, probe="diffuser")

        yield Row("overlap", f"{overlap:.0%} overlap, diffuser", make)


def _sizes(_: BenchmarkConfig) -> Iterator[Row]:
    for n, positions in ((32, 400), (128, 196), (256, 64)):
        photons = 1e5 * (n / 64) ** 2

        def make(n: int = n, positions: int = positions, photons: float = photons) -> Scan:
            return simulated(n=n, positions=positions, photons=photons)

        yield Row("size", f"N = {n}", make)


def _probes(_: BenchmarkConfig) -> Iterator[Row]:
    for probe in ("disk", "gaussian", "zone-plate"):
        yield Row("probe", probe, lambda p=probe: simulated(probe=p))  # type: ignore[misc]
    yield Row("probe", "three modes", lambda: simulated(modes=3))
    yield Row("probe", "out of focus", simulated, Unknowns(probe=True), defocused)


def _objects(_: BenchmarkConfig) -> Iterator[Row]:
    for kind in ("lines", "dead-leaves", "grf", "siemens"):
        yield Row("object", kind, lambda k=kind: simulated(kind=k))  # type: ignore[misc]


def _lines(config: BenchmarkConfig) -> Iterator[Row]:
    """Lines at high dose under measured probes, like published tests of networks."""
    for path in _files(config):

        def make(path: Path = path) -> Scan:
            return simulated(photons=1e9, overlap=0.6, positions=196, probe=read_scan(path).probe, kind="lines")

        yield Row("lines", f"probe of {path.stem}", make)


def _measured(config: BenchmarkConfig) -> Iterator[Row]:
    for path in _files(config):
        yield Row("measured", path.stem, lambda p=path: read_scan(p), Unknowns(probe=True))  # type: ignore[misc]


def _files(config: BenchmarkConfig) -> list[Path]:
    return sorted(config.data.glob("*.npz")) if config.data is not None else []


GROUPS: dict[str, Callable[[BenchmarkConfig], Iterator[Row]]] = {
    "dose": _doses,
    "overlap": _overlaps,
    "size": _sizes,
    "probe": _probes,
    "object": _objects,
    "lines": _lines,
    "measured": _measured,
}


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Run the rows and write benchmark.json, benchmark.csv and benchmark.png into the output folder."""
    use_available_threads()
    results: dict[str, Any] = {}
    try:
        config.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output_dir {config.output_dir}: it can't be written ({error.strerror})") from None
    for row in rows(config):
        try:
            figures = run_row(row)
        except DataError as error:
            print(f"{row.group}, {row.name}: left out, {error}", flush=True)
            continue
        results[f"{row.group}, {row.name}"] = figures
        if not config.quiet:
            print(_line(row, figures), flush=True)
        _write(results, config.output_dir)
    return results


@torch.inference_mode()
def run_row(row: Row) -> dict[str, Any]:
    """All columns of a row: scores, seconds of CPU, sweeps; the oracle uses the true probe."""
    scan = row.make()
    start_scan = replace(scan, probe=row.first_probe(scan)) if row.first_probe is not None else scan
    predictor = find_predictor(Path("pretrained"), start_scan)
    start_scan = predictor.in_photons(start_scan)
    probe = torch.as_tensor(start_scan.probe)
    table: dict[str, Any] = {}
    indices, validation = np.arange(len(scan)), pick_validation_set(scan.positions, torch.as_tensor(scan.probe))
    options: dict[str, Any] = {"subsets": refinement_subsets(scan, indices, probe), "validation": validation}
    region = Region(start_scan, indices, probe, **options).loaded()
    flat = region.uniform_object()
    begin = time.process_time()
    network_region = predictor.region(start_scan, indices, validation=validation).loaded()
    obj = on_canvas(predictor.model(network_region), network_region.origin, region)
    table["pretrained"] = _scores(obj, region.probe, region, scan) | {"cpu_s": time.process_time() - begin}
    warm = _refined(region, obj, WARM_SWEEPS, row.unknowns, start="network")
    table[COLUMNS[1]] = _scores_of(warm, region, scan)
    table[COLUMNS[1]]["cpu_s"] += table["pretrained"]["cpu_s"]
    begin = time.process_time()
    longer, _ = _refined(region, obj, DENOISED_SWEEPS, row.unknowns, start="network")
    denoised = denoise(region, longer, posterior_mean())
    table[COLUMNS[2]] = _scores_of((denoised.refined, time.process_time() - begin), region, scan)
    table[COLUMNS[2]]["cpu_s"] += table["pretrained"]["cpu_s"]
    table[COLUMNS[2]]["is_kept"] = denoised.is_kept
    cold = _refined(region, flat, COLD_SWEEPS, row.unknowns)
    table["cold"] = _scores_of(cold, region, scan)
    true_region = region
    if row.first_probe is not None:
        true_region = Region(scan, indices, torch.as_tensor(predictor.in_photons(scan).probe), **options).loaded()
        cold = _refined(true_region, flat, COLD_SWEEPS, Unknowns())
    oracle = _refined(true_region, cold[0].object, ORACLE_SWEEPS, replace(row.unknowns, probe=False), start="refined")
    table["oracle"] = _scores_of(oracle, true_region, scan)
    table["limit"] = _limit(scan, true_region)
    table["sweeps_to_the_cold_likelihood"] = _sweeps_to(longer, min(cold[0].misfits)), cold[0].best_sweep
    return table


def _refined(
    region: Region, obj: Tensor, sweeps: int, unknowns: Unknowns, *, start: Initial = "flat"
) -> tuple[Refined, float]:
    begin = time.process_time()
    result = refine(region, obj, sweeps=sweeps, unknowns=unknowns, start=start)
    return result, time.process_time() - begin


def _sweeps_to(result: Refined, likelihood: float) -> int | None:
    reached = [sweep for sweep, value in enumerate(result.misfits) if value <= likelihood * (1 + 1e-3)]
    return reached[0] if reached else None


def _scores_of(found: tuple[Refined, float], region: Region, scan: Scan) -> dict[str, Any]:
    result, seconds = found
    free = not torch.equal(result.probe, region.probe)
    return _scores(result.object, result.probe, region, scan, free=free) | {
        "cpu_s": seconds,
        "sweeps": len(result.misfits) - 1,
        "best_sweep": result.best_sweep,
        "likelihood": min(result.misfits),
    }


def _scores(obj: Tensor, probe: Tensor, region: Region, scan: Scan, *, free: bool = False) -> dict[str, Any]:
    """Against the truth (or the file's reference): global phase removed, and with a free probe scale and ramp, too."""
    found: dict[str, Any] = {"misfit_R": _misfit(obj, probe, region)}
    if scan.obj is None:
        return found
    height, width = region.extent
    seen = (obj[:height, :width] * _gain(scan, region)).numpy()
    mine = PlacedObject(Path("benchmark"), seen, region.origin, scan.positions)
    rectangle = shared_region(mine, PlacedObject(scan.source, scan.obj, (0, 0), scan.positions), inset=INSET_PX)
    truth = PlacedObject(scan.source, scan.obj, (0, 0), None).cut(*rectangle)
    gauge = free or scan.nphotons is None
    scores = compare(mine.cut(*rectangle), truth, ramp=gauge, scale="amplitude" if gauge else "none")
    names = ("amplitude_psnr_db", "phase_psnr_db", "amplitude_ssim", "phase_ssim", "phase_pearson")
    frc = np.asarray(scores["frc"]["curve"])
    found |= {name: float(scores[name]) for name in (*names, "band_passed_phase_pearson")}
    return found | {"frc_area": float(frc[1:].mean())}


def _misfit(obj: Tensor, probe: Tensor, region: Region) -> float:
    """R of all patterns, at their positions and with this probe."""
    error = power = 0.0
    for batch in itertools.chain(region.batches(), region.validation_batches()):
        predicted = region.forward.counts(obj, Exposure.of(probe, batch.positions))
        left, total = misfit(predicted, batch.amplitude.square(), batch.valid)
        error, power = error + float(left.sum()), power + float(total.sum())
    return math.sqrt(error / power)


def _limit(scan: Scan, region: Region) -> dict[str, Any]:
    """The limit of unbiased estimates, over the truth's range: mean square error of the phase 1/(2n), of the
    amplitude |O|²/(2n), for n photons through a pixel, from all patterns; at most the variance of the truth, the
    error of a constant."""
    if scan.obj is None or scan.nphotons is None:
        return {}
    rectangle = scored_region(scan.positions, INSET_PX)
    truth = scan.obj[rectangle]
    light = region.illumination() / _gain(scan, region) ** 2
    incident = PlacedObject(scan.source, light.numpy(), region.origin, None).cut(*rectangle)
    return {
        "amplitude_psnr_db": _best_psnr(np.abs(truth), incident),
        "phase_psnr_db": _best_psnr(np.angle(truth), incident * np.square(np.abs(truth))),
    }


def _best_psnr(value: np.ndarray, photons: np.ndarray) -> float:
    error = np.minimum(1 / (2 * np.maximum(photons, 1e-9)), value.var())
    return 10 * math.log10(float(np.ptp(value)) ** 2 / float(error.mean()))


def _gain(scan: Scan, region: Region) -> float:
    """‖probe of the region‖ / ‖probe of the scan‖: transmission over the region's object."""
    return float(torch.linalg.vector_norm(region.probe) / np.linalg.norm(scan.probe))


def _line(row: Row, figures: dict[str, Any]) -> str:
    parts = []
    for column in COLUMNS:
        scores = figures[column]
        if "amplitude_psnr_db" in scores:
            quality = f"{scores['amplitude_psnr_db']:.1f}/{scores['phase_psnr_db']:.1f} dB"
            parts.append(f"{column} {quality}" + (f" R {scores['misfit_R']:.4f}" if "misfit_R" in scores else ""))
    reached, cold = figures["sweeps_to_the_cold_likelihood"]
    return (
        f"{row.group}, {row.name}: {'; '.join(parts)}; the held-out misfit of {cold} sweeps from a flat object is "
        f"reached after {reached}"
    )


def _write(results: dict[str, Any], folder: Path) -> None:
    write_json(folder / "benchmark.json", results)
    names = sorted({name for figures in results.values() for column in COLUMNS for name in figures[column]})
    with atomic_path(folder / "benchmark.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "column", *names])
        for row, figures in results.items():
            for column in COLUMNS:
                writer.writerow([row, column, *(figures[column].get(name, "") for name in names)])
    _draw(results, folder / "benchmark.png")


MARKERS: dict[str, tuple[str, str]] = dict(
    zip(
        COLUMNS,
        (("o", "#1f6fb4"), ("s", "#e08214"), ("*", "#1b9e4b"), ("x", "#c0392b"), ("|", "#7b3fa0"), ("D", "#555555")),
        strict=True,
    )
)
ROW_INCHES, HEAD_INCHES = 0.44, 0.75


def _draw(results: dict[str, Any], path: Path) -> None:
    """Small panels, a group of experiments each, in two blocks side by side: amplitude and phase PSNR."""
    from matplotlib.figure import Figure

    from ptycho_torch.report.images import save

    groups: dict[str, dict[str, Any]] = {}
    for key, figures in results.items():
        group, name = key.split(", ", 1)
        groups.setdefault(group, {})[name] = figures
    blocks = [block for block in _two_blocks(groups) if block]
    inches = max(sum(HEAD_INCHES + ROW_INCHES * len(groups[group]) for group in block) for block in blocks)
    figure = Figure(figsize=(9 * len(blocks), inches + (0.6 if len(blocks) > 1 else 0.9)), layout="constrained")
    parts = figure.subfigures(1, len(blocks), squeeze=False)[0]
    for part, block in zip(parts, blocks, strict=True):
        heights = [HEAD_INCHES + ROW_INCHES * len(groups[group]) for group in block]
        filler = inches - sum(heights)  # so that a row is equally high in both blocks
        ratios = [*heights, filler] if filler > 0.1 else heights
        grid = part.add_gridspec(len(ratios), 2, height_ratios=ratios)
        for row, group in enumerate(block):
            axes = [part.add_subplot(grid[row, column]) for column in range(2)]
            _draw_group(axes, group, groups[group])
    handles, labels = figure.subfigs[0].axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3 * len(blocks), frameon=False, fontsize=12)
    save(figure, path)


def _two_blocks(groups: dict[str, dict[str, Any]]) -> tuple[list[str], list[str]]:
    """The groups, in their order, in two blocks with about as many rows each."""
    names, sizes = list(groups), [len(rows) + HEAD_INCHES / ROW_INCHES for rows in groups.values()]
    cut = min(range(1, len(names) + 1), key=lambda cut: max(sum(sizes[:cut]), sum(sizes[cut:])))
    return names[:cut], names[cut:]


def _draw_group(axes: list[Any], group: str, rows: dict[str, Any]) -> None:
    """One group: a line for each experiment, its columns a little below each other so that none hides another."""
    for axis, part in zip(axes, ("amplitude", "phase"), strict=True):
        for row in range(len(rows)):
            if row % 2 == 0:
                axis.axhspan(row - 0.5, row + 0.5, color="0.955", zorder=0)
        for column, (name, (marker, colour)) in enumerate(MARKERS.items()):
            values = [figures[name].get(f"{part}_psnr_db", math.nan) for figures in rows.values()]
            places = [row + 0.64 * (column / (len(MARKERS) - 1) - 0.5) for row in range(len(rows))]
            size = 9 if marker == "*" else 6.5
            axis.plot(
                values, places, marker, color=colour, label=name, fillstyle="none", markersize=size, markeredgewidth=1.6
            )
        axis.set_title(f"{group}: {part} PSNR [dB]", fontsize=12, loc="left", fontweight="bold")
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.margins(x=0.08)
        axis.grid(axis="x", color="0.85", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=11, length=0)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    axes[0].set_yticks(range(len(rows)), list(rows))
    axes[1].set_yticks(range(len(rows)), [""] * len(rows))
