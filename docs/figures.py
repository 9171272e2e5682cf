"""Draw the figures of the README and of docs/ from simulated scans: `python docs/figures.py` (a minute on one core).

Every figure is made by commands that a user can type; only the drawing is here. Names after the command choose
figures: `python docs/figures.py reconstruction refinement`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from ptycho_torch.bundle import contents
from ptycho_torch.bundle.archive import BUNDLE_NAME
from ptycho_torch.cli import main as ptycho_torch

IMAGES = Path(__file__).parent / "images"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.linewidth": 0.6,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
    "savefig.dpi": 150,
}
ACCENT, SECOND, BRIGHT = "#d1495b", "#2a6f97", "#ffd166"
GREY, PALE = "#4a5a66", "#e8eef2"
MEASURED = "magma"


def run(*words: object) -> None:
    """Run one command of the package; SystemExit where it fails."""
    if code := ptycho_torch([str(word) for word in words]):
        raise SystemExit(code)


def simulated(folder: Path, kind: str, **options: object) -> Path:
    """A simulated scan of an object of this kind; options are flags of `simulate`."""
    path = folder / ("_".join(["scan", kind, *map(str, options.values())]) + ".npz")
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    run("simulate", "--quiet", "--output", path, "--object", kind, *flags)
    return path


def reconstructed(folder: Path, scan: Path, *flags: object, start: str = "pretrained") -> Path:
    """The folder with the results of `infer` on a scan."""
    results = folder / "_".join(["results", scan.stem, start, *map(str, flags)])
    run("infer", "--quiet", "--model_path", start, "--test_data", scan, "--output_dir", results, *flags)
    return results


def on_shared_grid(results: Path, scan: Path, key: str = "object") -> tuple[np.ndarray, np.ndarray]:
    """Reconstruction and truth `[H, W]` on the rectangle that the positions span, global phase removed."""
    with np.load(results / "reconstruction.npz") as found, np.load(scan) as given:
        obj, origin, positions = found[key], found["origin"], found["positions"]
        truth = given["objectGuess"]
    low, high = np.ceil(positions.min(0)).astype(int), np.floor(positions.max(0)).astype(int)
    (top, left), (bottom, right) = low - origin, high - origin
    obj, truth = obj[top:bottom, left:right], truth[low[0] : high[0], low[1] : high[1]]
    return obj * np.exp(1j * np.angle((obj.conj() * truth).sum())), truth


def show(axes: Axes, image: np.ndarray, title: str, **options: Any) -> None:
    """One panel without ticks."""
    axes.imshow(image, **options)
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])


def in_colour(wave: np.ndarray) -> np.ndarray:
    """A complex wave as RGB: brightness is amplitude, hue is phase."""
    amplitude = np.abs(wave) / np.abs(wave).max()
    hue = np.angle(wave) / (2 * np.pi) % 1
    return hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.85), amplitude], -1))


def log_counts(axes: Axes, counts: np.ndarray, title: str) -> None:
    """A measured pattern on a logarithmic scale; pixels without a photon are black."""
    axes.set_facecolor("black")
    norm = LogNorm(1, max(counts.max(), 10))
    show(axes, np.ma.masked_less(counts, 1), title, norm=norm, cmap=MEASURED)


def sheet(figure: Figure, width: float, height: float) -> Axes:
    """Blank axes over the left `width` inches of a figure of this height; coordinates are inches, y upwards."""
    axes = figure.add_axes((0, 0, width / figure.get_figwidth(), 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return axes


def box(
    axes: Axes, corner: tuple[float, float], size: tuple[float, float], name: str, text: str = "", colour: str = SECOND
) -> None:
    """A box with a name in the typeface of code, and text below it."""
    (x, y), (width, height) = corner, size
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc="white", ec=colour, linewidth=1.2))
    middle, line = x + width / 2, 0.145
    top = y + height / 2 + (line * (1 + text.count("\n")) / 2 + 0.02 if text else 0)
    axes.text(middle, top, name, ha="center", va="center", family="monospace", weight="bold", color=colour)
    axes.text(middle, top - 0.12, text, ha="center", va="top", fontsize=8, color=GREY, linespacing=1.3)


def arrow(
    axes: Axes, tail: tuple[float, float], head: tuple[float, float], colour: str = GREY, bend: float = 0
) -> None:
    """An arrow between two points; `bend` is the curvature of its arc."""
    shape: dict[str, Any] = {
        "arrowstyle": "-|>",
        "color": colour,
        "linewidth": 1.2,
        "shrinkA": 1,
        "shrinkB": 1,
        "mutation_scale": 10,
    }
    axes.annotate("", head, tail, arrowprops=shape | {"connectionstyle": f"arc3,rad={bend}"})


def note(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    """Small text, centred unless told otherwise."""
    usual: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "color": GREY, "linespacing": 1.3}
    axes.text(x, y, text, **usual | options)


def save(figure: Figure, name: str) -> None:
    """Write a figure into docs/images."""
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / f"{name}.png", metadata={"Software": ""})


def reconstruction(folder: Path) -> None:
    """Input and output: one pattern and the probe, reconstructed amplitude and phase, and the truth."""
    scan = simulated(folder, "dead-leaves", positions=400, photons="1e5", seed=3)
    results = reconstructed(folder, scan, "--refine", 20)
    obj, truth = on_shared_grid(results, scan)
    with np.load(scan) as given:
        probe, counts = given["probeGuess"], given["diff3d"][187] ** 2
    figure = Figure(figsize=(8.4, 5.7), layout="constrained")
    panels = figure.subplots(2, 3)
    log_counts(panels[0, 0], counts, "one of 400 patterns (log counts)")
    show(panels[1, 0], in_colour(probe), "probe (hue: phase)")
    for column, (part, name, limits) in enumerate(
        ((np.abs, "amplitude", (0.5, 1.0)), (np.angle, "phase", (-1.0, 1.0))), start=1
    ):
        for row, (image, whose) in enumerate(((obj, "reconstructed"), (truth, "true"))):
            show(panels[row, column], part(image), f"{whose} {name}", vmin=limits[0], vmax=limits[1])
        bar = figure.colorbar(
            panels[0, column].images[0], ax=panels[:, column], location="bottom", aspect=25, shrink=0.8
        )
        bar.set_label({"amplitude": "transmission", "phase": "phase [rad]"}[name])
    save(figure, "reconstruction")


def forward_model(folder: Path) -> None:
    """One pattern, step by step: probe on the object, patch, exit wave, counts."""
    scan = simulated(folder, "dead-leaves", positions=225, photons="1e5", seed=1)
    with np.load(scan) as given:
        obj, probe, amplitude = given["objectGuess"], given["probeGuess"], given["diff3d"]
        positions = np.stack([given["ycoords"], given["xcoords"]], 1)
    j, n = 64, probe.shape[-1]
    y, x = np.floor(positions[j] + 0.5).astype(int) - n // 2
    patch = obj[y : y + n, x : x + n]
    figure = Figure(figsize=(9.6, 2.6), layout="constrained")
    panels = figure.subplots(1, 5)
    show(panels[0], np.angle(obj), "object $O$ (phase), positions", vmin=-1.2, vmax=2.4)
    panels[0].plot(positions[:, 1], positions[:, 0], ".", color=BRIGHT, markersize=2.5)
    panels[0].add_patch(Rectangle((x, y), n, n, fill=False, color=BRIGHT, linewidth=1.5))
    show(panels[1], in_colour(probe), "probe $P$")
    show(panels[2], np.angle(patch), "patch $O_j$ (phase)")
    show(panels[3], in_colour(probe * patch), r"exit wave $\psi_j = P \cdot O_j$")
    log_counts(panels[4], amplitude[j] ** 2, r"counts $n_j \sim$ Poisson$(|F\psi_j|^2)$")
    save(figure, "forward-model")


def coordinates(_: Path) -> None:
    """Position, patch and canvas on the object grid."""
    n, origin, height, width = 16, (6, 9), 27, 37
    positions = [(14.0, 17.3), (17.4, 27.8), (24.6, 38.0)]
    figure = Figure(figsize=(6.2, 4.3), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.5, 50.5), ylim=(36.5, -0.5), xlabel="x, column [object px]", ylabel="y, row [object px]")
    axes.set_aspect("equal")
    axes.add_patch(Rectangle((origin[1] - 0.5, origin[0] - 0.5), width, height, color=PALE, zorder=0))
    axes.text(origin[1] + width - 1.5, origin[0] + 1, "canvas", ha="right", va="center", color=GREY)
    axes.plot(origin[1], origin[0], "s", color=GREY, markersize=5)
    axes.text(origin[1] - 0.5, origin[0] - 2, f"object[0, 0] at origin = {origin}", color=GREY, va="center")
    for number, (y, x) in enumerate(positions):
        colour = ACCENT if number == 1 else SECOND
        row, column = int(np.floor(y + 0.5)) - n // 2, int(np.floor(x + 0.5)) - n // 2
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), n, n, fill=False, color=colour, linewidth=1.3))
        axes.add_patch(Circle((x, y), 5.2, color=colour, alpha=0.15, linewidth=0))
        axes.plot(x, y, "+", color=colour, markersize=8)
    y, x = positions[1]
    axes.annotate(
        f"position (y, x) = ({y}, {x})\nmeets probe index N//2",
        (x, y),
        (30, 2),
        arrowprops={"arrowstyle": "-", "color": ACCENT, "linewidth": 0.8},
        color=ACCENT,
        va="center",
    )
    axes.text(19.7, 26.2, "patch, N × N", color=ACCENT, va="center")
    save(figure, "coordinates")


def scan_file(folder: Path) -> None:
    """The arrays of a scan: patterns, positions, probe, and the true object of a simulation."""
    scan = simulated(folder, "lines", positions=300, photons="1e5", scan="spiral", probe="zone-plate")
    with np.load(scan) as given:
        counts, probe, obj = given["diff3d"] ** 2, given["probeGuess"], given["objectGuess"]
        y, x = given["ycoords"], given["xcoords"]
    figure = Figure(figsize=(9.6, 2.75), layout="constrained")
    panels = figure.subplots(1, 4)
    log_counts(panels[0], counts[40], "diff3d: one of 300 patterns")
    panels[1].scatter(x, y, s=7, c=np.arange(len(x)), cmap="viridis", linewidths=0)
    panels[1].set(xlim=(0, obj.shape[1]), ylim=(obj.shape[0], 0), xticks=[], yticks=[])
    panels[1].set_aspect("equal")
    panels[1].set_title("xcoords, ycoords (colour: order)")
    show(panels[2], in_colour(probe), "probeGuess (hue: phase)")
    show(panels[3], np.angle(obj), "objectGuess (phase)")
    save(figure, "scan-file")


def refinement(folder: Path) -> None:
    """Held-out misfit over the sweeps from two initial objects; at low dose, the effect of sweeps and of denoising."""
    bright, dim = (simulated(folder, "dead-leaves", positions=400, photons=dose, seed=3) for dose in ("1e6", "1e3"))
    network, refined = reconstructed(folder, dim), reconstructed(folder, dim, "--refine", 20, "--denoise")
    figure = Figure(figsize=(11, 2.7), layout="constrained")
    panels = figure.subplots(1, 5, gridspec_kw={"width_ratios": [1.25, 1, 1, 1, 1]})
    for start, label, colour in (("flat", "flat", SECOND), ("pretrained", "pretrained network", ACCENT)):
        results = reconstructed(folder, bright, "--refine", 60, start=start)
        values = json.loads((results / "metrics.json").read_text())["refinement"]["likelihood_per_pixel"]
        panels[0].semilogy(values, ".-", color=colour, label=label, markersize=3, linewidth=1)
    panels[0].set(xlabel="sweep", title="held-out misfit per pixel, 1e6 photons")
    panels[0].legend(frameon=False, title="initial object")
    panels[0].grid(alpha=0.3, linewidth=0.4)
    shown = (
        (network, "object", "network, 1e3 photons"),
        (refined, "undenoised", "20 sweeps"),
        (refined, "object", "20 sweeps, denoised"),
    )
    for axes, (results, key, title) in zip(panels[1:4], shown, strict=True):
        show(axes, np.angle(on_shared_grid(results, dim, key)[0]), title, vmin=-1, vmax=1)
    show(panels[4], np.angle(on_shared_grid(network, dim)[1]), "truth", vmin=-1, vmax=1)
    bar = figure.colorbar(panels[4].images[0], ax=panels[1:], location="right", aspect=25, pad=0.01, ticks=[-1, 0, 1])
    bar.set_label("phase [rad]")
    save(figure, "refinement")


def pretrained(folder: Path) -> None:
    """The pretrained network alone on four kinds of object, beside the truth."""
    figure = Figure(figsize=(9.2, 5.0), layout="constrained")
    panels = figure.subplots(2, 4)
    for column, kind in enumerate(("dead-leaves", "lines", "siemens", "grf")):
        scan = simulated(folder, kind, positions=400, photons="1e5", seed=5)
        results = reconstructed(folder, scan)
        obj, truth = on_shared_grid(results, scan)
        scores = json.loads((results / "metrics.json").read_text())["reference"]
        show(panels[0, column], np.angle(truth), f"{kind}: truth", vmin=-1, vmax=1)
        title = f"network, {scores['phase_psnr_db']:.1f} dB"
        show(panels[1, column], np.angle(obj), title, vmin=-1, vmax=1)
    bar = figure.colorbar(panels[0, 0].images[0], ax=panels, location="right", aspect=40, pad=0.01, ticks=[-1, 0, 1])
    bar.set_label("phase [rad]")
    save(figure, "pretrained")


def scales(folder: Path) -> None:
    """The units of probe and object on their way through a reconstruction; the same object at four doses."""
    figure = Figure(figsize=(10.4, 3.3))
    axes = sheet(figure, 7.6, 3.3)
    axes.add_patch(Rectangle((2.3, 1.6), 5.2, 1.6, color=PALE))
    note(axes, 4.9, 3.02, "probe in √photons, object as transmission", fontsize=9)
    box(axes, (0.1, 1.8), (1.15, 0.95), "Scan", "probe in the\nunit of its file", GREY)
    arrow(axes, (1.25, 2.275), (2.45, 2.275), ACCENT)
    note(axes, 1.8, 2.47, "in_photons", family="monospace", color=ACCENT)
    note(axes, 1.8, 1.98, r"$\times\ s\,\dfrac{N/2}{\Vert P_\mathrm{train}\Vert}$", color=ACCENT)
    box(axes, (2.45, 1.8), (1.4, 0.95), "Region", "Σ|P|² = photons\nin an empty beam")
    arrow(axes, (3.85, 2.275), (4.15, 2.275))
    box(axes, (4.15, 1.8), (1.4, 0.95), "refine", "counts =\n|propagate(P · O)|²")
    arrow(axes, (5.55, 2.275), (5.85, 2.275))
    box(axes, (5.85, 1.8), (1.5, 0.95), "Reconstruction", "object and probe\nin these units")
    box(axes, (2.75, 0.15), (2.5, 0.6), "network", "real channels of order one", ACCENT)
    arrow(axes, (3.15, 1.8), (3.15, 0.75), ACCENT)
    arrow(axes, (4.85, 0.75), (4.85, 1.8), ACCENT)
    note(axes, 3.05, 1.18, "door: ÷ unit", ha="right", color=ACCENT)
    note(axes, 4.95, 1.18, "door: × unit", ha="left", color=ACCENT)
    note(axes, 5.4, 0.45, "unit = Region.uniform_transmission", ha="left", family="monospace", fontsize=7, color=ACCENT)

    doses, norms, means, truths = ("1e3", "1e4", "1e5", "1e6"), [], [], []
    for dose in doses:
        scan = simulated(folder, "dead-leaves", positions=225, photons=dose, seed=3)
        obj, truth = on_shared_grid(reconstructed(folder, scan, "--refine", 20), scan)
        with np.load(scan) as given:
            norms.append(np.linalg.norm(given["probeGuess"]))
        means.append(np.abs(obj).mean())
        truths.append(np.abs(truth).mean())
    photons = [float(dose) for dose in doses]
    for bottom, values, colour in ((0.62, norms, SECOND), (0.16, means, ACCENT)):
        panel = figure.add_axes((0.79, bottom, 0.195, 0.28))
        panel.semilogx(photons, values, "o", color=colour, markersize=4)
        panel.set(xlim=(600, 1.7e6))
        panel.grid(alpha=0.3, linewidth=0.4)
        if values is norms:
            panel.set_yscale("log")
            panel.set(title="‖probe‖ [√photons]", ylim=(20, 3e3), xticks=photons, xticklabels=[])
        else:
            panel.semilogx(photons, truths, "--", color=GREY, linewidth=1, label="truth")
            panel.set(ylim=(0, 1), title="mean |object|", xlabel="photons per pattern", xticks=photons)
            panel.legend(frameon=False, loc="lower right")
    save(figure, "scales")


def bundle_format(_: Path) -> None:
    """The members of a bundle, and what reads each of them."""
    rows = (
        (contents.MANIFEST, "format, version, digests", "uuu "),
        (contents.WEIGHTS, "weights", "ucc "),
        (contents.PARAMS, "parameters, intensity scale", "uuc "),
        (contents.LEGACY, "flat parameters, a pickle", "cccu"),
        (contents.PROBE, "probe [mode, N, N]", "ucc "),
        (contents.PROVENANCE, "versions, command, input digests", "cuc "),
        (contents.DIGEST_NAME, "sha256 of archive and members", "  u "),
    )
    readers = ("infer\nload_model", "bundle\ninspect", "bundle\nverify", "older\ntools")
    columns = [6.45 + 0.78 * number for number in range(len(readers))]
    heights = [2.82 - 0.38 * number for number in range(6)] + [0.43]
    figure = Figure(figsize=(9.3, 3.7))
    axes = sheet(figure, 9.3, 3.7)
    axes.add_patch(Rectangle((0.6, 0.68), 5.3, 2.8, color=PALE))
    axes.text(0.72, 3.25, BUNDLE_NAME, family="monospace", weight="bold", color=SECOND, va="center")
    for x, reader in zip(columns, readers, strict=True):
        note(axes, x, 3.25, reader, family="monospace" if reader != readers[-1] else None)
    for y, (name, content, marks) in zip(heights, rows, strict=True):
        colour = ACCENT if name in (contents.MANIFEST, contents.DIGEST_NAME) else SECOND
        axes.text(0.72, y, name, family="monospace", color=colour, va="center", fontsize=8.5)
        note(axes, 5.8, y, content, ha="right")
        axes.plot([5.95, 9.15], [y, y], color=GREY, alpha=0.25, linewidth=0.6)
        for x, mark in zip(columns, marks, strict=True):
            if mark != " ":
                axes.plot(x, y, "o", mec=SECOND, mfc=SECOND if mark == "u" else "white", markersize=7, mew=1.2)
    axes.plot([0.62, 0.42, 0.42], [heights[0], heights[0], heights[5]], color=ACCENT, linewidth=1.2)
    for y in heights[1:6]:
        arrow(axes, (0.4, y), (0.68, y), ACCENT)
    note(axes, 0.27, heights[3] + 0.2, "sha256 and size", rotation=90, color=ACCENT)
    for x, meaning, fill in ((6.45, "content used", SECOND), (7.7, "digest checked", "white")):
        axes.plot(x, 0.13, "o", mec=SECOND, mfc=fill, markersize=5)
        note(axes, x + 0.12, 0.12, meaning, ha="left")
    save(figure, "bundle-format")


def python(_: Path) -> None:
    """The values of a reconstruction from Python, and the functions between them."""
    figure = Figure(figsize=(10, 2.75))
    axes = sheet(figure, 10, 2.75)
    values = (
        ("Scan", "patterns, positions,\nprobe", SECOND),
        ("Region", "batches on a canvas,\nprobe in √photons", SECOND),
        ("State", "object, probe,\npositions, momenta", SECOND),
        ("Reconstruction", "object, probe,\nscores, provenance", SECOND),
    )
    lefts = (1.0, 3.35, 5.95, 8.25)
    for left, (name, text, colour) in zip(lefts, values, strict=True):
        box(axes, (left, 1.2), (1.6, 0.95), name, text, colour)
    note(axes, 0.42, 1.675, "read_scan\nfrom_arrays\nsimulate", family="monospace")
    for tail, head in ((0.8, 1.0), (2.6, 3.35), (4.95, 5.95), (7.55, 8.25)):
        arrow(axes, (tail, 1.675), (head, 1.675))
    note(axes, 2.97, 1.84, "model's\nscale", va="bottom")
    note(axes, 5.45, 1.84, "model(region)", family="monospace", va="bottom")
    note(axes, 7.9, 1.84, "best,\nheld out", va="bottom")
    box(axes, (4.55, 0.1), (1.8, 0.62), "Forward", "counts, gradient", ACCENT)
    arrow(axes, (4.15, 1.2), (4.75, 0.72), ACCENT)
    arrow(axes, (6.15, 0.72), (6.6, 1.2), ACCENT)
    note(axes, 4.35, 0.85, "region.forward", ha="right", family="monospace", color=ACCENT)
    note(axes, 6.5, 0.85, "refine: each step", ha="left", color=ACCENT)
    arrow(axes, (9.05, 2.15), (5.45, 2.05), bend=0.16)
    note(axes, 7.2, 2.58, "reconstruct(scan, model=result)", family="monospace")
    save(figure, "python")


FIGURES: dict[str, Callable[[Path], None]] = {
    "reconstruction": reconstruction,
    "forward-model": forward_model,
    "coordinates": coordinates,
    "scan-file": scan_file,
    "refinement": refinement,
    "pretrained": pretrained,
    "scales": scales,
    "bundle-format": bundle_format,
    "python": python,
}


def main(names: Sequence[str]) -> None:
    """Draw these figures, or all; SystemExit, in one line, for an unknown name."""
    if unknown := set(names) - set(FIGURES):
        raise SystemExit(f"no figure is called {', '.join(sorted(unknown))}: choose from {', '.join(FIGURES)}")
    with tempfile.TemporaryDirectory() as folder, mpl.rc_context(STYLE):
        for name in names or FIGURES:
            FIGURES[name](Path(folder))
            print(IMAGES / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
