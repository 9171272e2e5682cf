"""Broken and ambiguous files: each is refused in a line of its own, with what was found and the way out."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import layouts
import numpy as np
import pytest
from layouts import N, Truth

import ptycho_torch as pt
from ptycho_torch.data.formats import read_scan

Spoil = Callable[[Path, Truth], Path]


@pytest.fixture(scope="module")
def truth() -> Truth:
    return layouts.a_scan()


def ptylab(change: Callable[[h5py.File, Truth], Any]) -> Spoil:
    """A file of PtyLab, changed."""

    def spoil(folder: Path, truth: Truth) -> Path:
        path = layouts.ptylab(folder, truth)
        with h5py.File(path, "a") as file:
            change(file, truth)
        return path

    return spoil


def holding(key: str, values: Any) -> Spoil:
    """A file of PtyLab with other values; a function makes them of the counts."""

    def change(file: h5py.File, truth: Truth) -> None:
        if key in file:
            del file[key]
        file[key] = values(truth.counts) if callable(values) else values

    return ptylab(change)


def npz(**changes: Any) -> Spoil:
    """Our NPZ with other arrays; None leaves one out."""

    def spoil(folder: Path, truth: Truth) -> Path:
        y, x = truth.positions.T
        arrays = {"diff3d": np.sqrt(truth.counts), "xcoords": x, "ycoords": y, "probeGuess": truth.probe} | changes
        np.savez(folder / "scan.npz", **{key: values for key, values in arrays.items() if values is not None})
        return folder / "scan.npz"

    return spoil


def written(name: str, data: bytes) -> Spoil:
    def spoil(folder: Path, _: Truth) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return spoil


def cut(write: Spoil, size: int) -> Spoil:
    def spoil(folder: Path, truth: Truth) -> Path:
        path = write(folder, truth)
        path.write_bytes(path.read_bytes()[:size])
        return path

    return spoil


def stack(table: str | None, values: np.ndarray | None = None) -> Spoil:
    """A folder with patterns and a table of positions."""

    def spoil(folder: Path, truth: Truth) -> Path:
        np.save(folder / "patterns.npy", truth.counts if values is None else values)
        if table is not None:
            (folder / "positions.csv").write_text(table)
        return folder

    return spoil


def unknown_filter(file: h5py.File, _: Truth) -> None:
    del file["ptychogram"]
    stored = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    stored.set_chunk((1, N, N))
    stored.set_filter(32999, h5py.h5z.FLAG_OPTIONAL, ())
    h5py.h5d.create(file.id, b"ptychogram", h5py.h5t.NATIVE_UINT16, h5py.h5s.create_simple((35, N, N)), stored)


def loop(file: h5py.File, _: Truth) -> None:
    del file["ptychogram"]
    file["ptychogram"], file["other"] = h5py.SoftLink("/other"), h5py.SoftLink("/ptychogram")


def no_npz(folder: Path, _: Truth) -> Path:
    with zipfile.ZipFile(folder / "letter.npz", "w") as archive:
        archive.writestr("word/document.xml", "x")
    return folder / "letter.npz"


def two_scans(folder: Path, truth: Truth) -> Path:
    path = layouts.ptylab(folder, truth)
    (folder / "copy.hdf5").write_bytes(path.read_bytes())
    return folder


def two_products(folder: Path, truth: Truth) -> Path:
    path = layouts.ptychodus(folder, truth)
    (folder / "alpha.h5").write_bytes((folder / "product.h5").read_bytes())
    (folder / "product.h5").rename(folder / "beta.h5")
    return path


def two_tables(folder: Path, truth: Truth) -> Path:
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text("0,0\n" * len(truth.counts))
    return stack(None)(folder, truth)


def ragged(folder: Path, truth: Truth) -> Path:
    import tifffile

    tifffile.imwrite(folder / "a_0001.tif", truth.counts[0])
    tifffile.imwrite(folder / "a_0002.tif", truth.counts[1][:20])
    (folder / "positions.csv").write_text("0,0\n1,1\n")
    return folder


def objects(folder: Path, _: Truth) -> Path:
    np.save(folder / "patterns.npy", np.array([None, 1], object), allow_pickle=True)
    return folder / "patterns.npy"


def without(path: Path, *keys: str) -> Path:
    with h5py.File(path, "a") as file:
        for key in keys:
            del file[key]
    return path


def _alone(path: Path, other: str) -> Path:
    (path.parent / other).unlink()
    return path


def _lost_link(path: Path) -> Path:
    (path.parent / "scan_data_000002.h5").unlink()
    return path


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:9000])
    return path


def _near(path: Path) -> Path:
    with h5py.File(path.parent / "product.h5", "a") as file:
        file.attrs["far_field"] = False
    return path


def _ring(path: Path) -> Path:
    with h5py.File(path.parent / "product.h5", "a") as file:
        file.attrs["photon_energy_eV"] = 3e9
    return path


CASES: dict[str, tuple[Spoil, str]] = {
    "no energy": (lambda d, t: without(layouts.ptypy(d, t), "info/energy"), "no photon energy.*--photon-energy"),
    "no distance": (lambda d, t: without(layouts.ptylab(d, t), "zo"), "no distance.*--distance"),
    "no pixel": (lambda d, t: without(layouts.hxn(d, t), "ccd_pixel_um"), "no size of its pixels.*--detector-pixel"),
    "no patterns": (lambda d, t: without(layouts.hxn(d, t), "points"), "no known format.*--map"),
    "patterns only": (lambda d, t: _alone(layouts.ptychodus(d, t), "product.h5"), "patterns only.*product.h5"),
    "product only": (
        lambda d, t: _alone(layouts.ptychodus(d, t).with_name("product.h5"), "diffraction.h5"),
        "no patterns",
    ),
    "lost chunk": (lambda d, t: _lost_link(layouts.eiger(d, t)), "scan_data_000002.h5"),
    "cut short": (lambda d, t: _cut(layouts.ptypy(d, t)), "cut short"),
    "near field": (lambda d, t: _near(layouts.ptychodus(d, t)), "far_field is False"),
    "no positions": (lambda d, t: _alone(layouts.eiger(d, t), "scan_positions.csv"), "--positions"),
    "ring energy": (lambda d, t: _ring(layouts.ptychodus(d, t)), "storage ring.*--photon-energy"),
    "two axes": (holding("ptychogram", lambda counts: counts[0]), r"shape \(32, 32\), \(n, height, width\)"),
    "five axes": (holding("ptychogram", lambda counts: counts[None, None]), r"\(1, 1, 35, 32, 32\), \(n, height"),
    "no frames": (holding("ptychogram", np.zeros((0, N, N))), r"shape \(0, 32, 32\)"),
    "text for patterns": (holding("ptychogram", np.full(35, b"a")), r"type \|S1, numbers"),
    "complex patterns": (holding("ptychogram", lambda counts: counts + 0j), "complex128, real numbers"),
    "dark patterns": (holding("ptychogram", np.zeros((35, N, N), "u2")), "nothing but zeros"),
    "no numbers": (holding("ptychogram", np.full((35, N, N), np.nan, "f4")), "NaN or infinite values.*mask"),
    "negative counts": (holding("ptychogram", lambda counts: counts - 50.0), "negative values.*clip them"),
    "an unknown filter": (ptylab(unknown_filter), "filter 32999.*store it again"),
    "a link to nothing": (holding("ptychogram", h5py.SoftLink("/nothing")), "a link to /nothing, which is not there"),
    "a lost file": (
        holding("ptychogram", h5py.ExternalLink("gone.h5", "/data")),
        "link to gone.h5:/data.*copy the file",
    ),
    "links in a loop": (ptylab(loop), "too many links"),
    "positions of no number": (holding("encoder", np.full((35, 2), np.nan)), "35 of 35 positions are NaN"),
    "positions of one axis": (holding("encoder", np.zeros(35)), r"positions have shape \(35,\): \(n, 2\)"),
    "too few positions": (holding("encoder", np.zeros((20, 2))), "35 patterns but only 20 positions"),
    "one place": (holding("encoder", np.zeros((35, 2))), "all 35 positions are equal"),
    "a negative wavelength": (holding("wavelength", -1e-10), "no photon energy.*--photon-energy 8keV"),
    "a distance of zero": (holding("zo", 0.0), "no distance of the detector.*--distance 2m"),
    "another probe": (holding("probe", np.zeros((3, 7), "c8")), "probe is 3 x 7, the patterns are 32 x 32"),
    "a turned detector": (holding("orientation", 9), "orientation is 9: 0 to 7"),
    "pickled positions": (npz(xcoords=np.array([None] * 35, object)), "xcoords is a pickled object"),
    "fewer x than y": (npz(xcoords=np.zeros(5)), "xcoords holds 5 values, ycoords 35"),
    "no x": (npz(xcoords=None), "no xcoords.*the file holds diff3d, ycoords, probeGuess"),
    "one word": (npz(diff3d=np.array(["a"])), r"patterns have shape \(1,\): \(n, N, N\)"),
    "another mask": (npz(mask=np.ones((3, 3))), r"mask has shape \(3, 3\)"),
    "a probe of no number": (npz(probeGuess=np.full((N, N), np.nan + 0j)), "probe holds NaN.*leave it out"),
    "oblong patterns": (npz(diff3d=np.ones((35, N, N - 2), "f4")), "35 square patterns|n square patterns"),
    "one number, 160 MB": (npz(nphotons=np.zeros(20_000_000)), "nphotons takes 160 MB, at most 67.1 MB"),
    "a cut NPZ": (cut(npz(), 5000), "archive is cut short or damaged: copy it again"),
    "a zip that is no NPZ": (no_npz, "the file holds no arrays"),
    "an empty file": (written("scan.npz", b""), "not an NPZ"),
    "text named HDF5": (written("scan.h5", b"hello"), "not a scan file of a known format"),
    "a cut HDF5": (cut(layouts.nexus, 3000), "the file is cut short or damaged: copy it again"),
    "a cut Matlab file": (written("a.mat", b"MATLAB 5.0 MAT-file" + b"\0" * 200), "a.mat: it is cut short or damaged"),
    "a cut TIFF": (written("a.tif", b"II*\0" + b"\0" * 20), "a.tif: it is cut short or damaged"),
    "a pickled NPY": (objects, "patterns.npy: .*store numbers"),
    "an empty folder": (lambda folder, _: folder, "an empty folder"),
    "no file": (lambda folder, _: folder / "nothing.h5", "no such file"),
    "two scans": (two_scans, "scans may be in copy.hdf5, ptylab.hdf5: give one of them"),
    "two products": (two_products, "positions may be in alpha.h5, beta.h5"),
    "two tables": (two_tables, "positions may be in a.csv, b.csv: give one with --positions"),
    "no table": (stack(None), "holds no positions, no photon energy.*--positions FILE"),
    "a short table": (stack("0,0\n1,1\n"), r"no positions \(positions.csv has 2 rows for 35 patterns\)"),
    "a table of words": (stack("a b\nc d\n"), "positions.csv is no table of numbers"),
    "positions in metres": (stack("0,0\n1e-6,0\n" * 17 + "0,1e-6\n"), "positions are lengths.*--pixel-size"),
    "images of two sizes": (ragged, "different shapes: those of one scan need one shape"),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_a_line_with_what_was_found(name: str, truth: Truth, tmp_path: Path) -> None:
    spoil, words = CASES[name]
    with pytest.raises(pt.DataError, match=words) as refused:
        read_scan(spoil(tmp_path, truth))
    assert "\n" not in str(refused.value)
