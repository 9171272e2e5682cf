"""Files of other programs are the same scan: positions, lengths, masks, probe and object in our terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import layouts
import numpy as np
import pytest
from layouts import DETECTOR_M, DISTANCE_M, DK, ENERGY_EV, PIXEL_M, STEP_M, VOLTAGE, WAVELENGTH_M, N, Truth

import ptycho_torch as pt
from ptycho_torch.data.formats import Stated, read_scan
from ptycho_torch.data.geometry import turned
from ptycho_torch.data.scan import Scan

STATED = Stated(photon_energy_ev=ENERGY_EV, distance_m=DISTANCE_M, detector_pixel_m=DETECTOR_M)
LAYOUTS: dict[str, tuple[Callable[[Path, Truth], Path], set[str]]] = {
    "ptychodus": (layouts.ptychodus, {"mask", "probe", "object", "wavelength"}),
    "ptychodus training": (layouts.ptychodus_training, {"mask", "probe", "object", "no pixel"}),
    "cdtools": (layouts.cdtools, {"mask", "wavelength"}),
    "CXI": (layouts.cxi, {"mask", "wavelength"}),
    "ptychodus CXI": (layouts.ptychodus_cxi, {"mask", "probe", "object", "wavelength"}),
    "NeXus": (layouts.nexus, {"mask", "wavelength"}),
    "ptypy": (layouts.ptypy, {"mask", "wavelength"}),
    "pty-chi": (layouts.pty_chi, {"probe", "object"}),
    "fold_slice pair": (layouts.fold_slice, {"wavelength"}),
    "Matlab 5": (layouts.matlab_5, {"probe", "object", "wavelength"}),
    "Matlab 7.3": (layouts.matlab_73, {"probe", "object", "wavelength"}),
    "PtyRAD": (layouts.ptyrad, {"probe", "object"}),
    "PtyLab": (layouts.ptylab, {"wavelength"}),
    "HXN": (layouts.hxn, {"wavelength"}),
    "Eiger": (layouts.eiger, {"mask", "wavelength", "crop"}),
    "TIFF": (layouts.tiff, {"mask", "wavelength"}),
    "NPY": (layouts.npy, {"probe", "wavelength", "stated"}),
}
"""Each with what the layout tells beside patterns and positions."""


@pytest.fixture(scope="module")
def truth() -> Truth:
    return layouts.a_scan()


def read(path: Path, tells: set[str]) -> Scan:
    stated = STATED if "stated" in tells else Stated(crop=N) if "crop" in tells else Stated()
    return read_scan(path, trust_detector=True, stated=stated)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_the_same_scan(name: str, truth: Truth, tmp_path: Path) -> None:
    write, tells = LAYOUTS[name]
    scan = read(write(tmp_path, truth), tells)
    assert scan.n == N and len(scan) == len(truth.counts)
    offset = scan.positions - truth.positions
    assert np.ptp(offset, axis=0).max() < 1e-4
    counts = truth.counts * (~truth.bad if "mask" in tells else 1)
    np.testing.assert_allclose(scan.counts(slice(None)), counts, rtol=1e-5)
    if "mask" in tells:
        assert np.array_equal(scan.valid, ~truth.bad)
    if "no pixel" not in tells:
        assert scan.pixel_size_m == pytest.approx(PIXEL_M, rel=1e-6)
    if "wavelength" in tells:
        assert scan.wavelength_m == pytest.approx(WAVELENGTH_M, rel=1e-6)
    if "probe" in tells:
        np.testing.assert_allclose(scan.probe[0], truth.probe, rtol=1e-5)
    if "object" in tells:
        assert scan.obj is not None and np.abs(offset).max() < 1e-4
        np.testing.assert_allclose(scan.obj, truth.obj, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ptychodus", "ptychodus CXI", "pty-chi", "fold_slice pair", "PtyRAD"])
def test_either_file_of_a_pair_and_its_folder_are_the_same_scan(name: str, truth: Truth, tmp_path: Path) -> None:
    write, tells = LAYOUTS[name]
    first = write(tmp_path, truth)
    one, *rest = [read(path, tells) for path in sorted(tmp_path.iterdir())]
    if name != "ptychodus CXI":
        rest.append(read(tmp_path, tells))
    assert first.parent == tmp_path and len(rest) >= 1
    for other in rest:
        assert np.array_equal(one.positions, other.positions) and np.array_equal(one.counts(3), other.counts(3))


# --- indexes ----------------------------------------------------------------------------------------------------------


def test_a_folder_with_one_scan_is_that_scan(truth: Truth, tmp_path: Path) -> None:
    layouts.eiger(tmp_path, truth)
    scan = read_scan(tmp_path, stated=Stated(crop=N), trust_detector=True)
    assert np.ptp(scan.positions - truth.positions, axis=0).max() < 1e-4
    layouts.ptylab(tmp_path, truth)
    with pytest.raises(pt.DataError, match=r"ptylab\.hdf5.*give one of them"):
        read_scan(tmp_path)


def test_positions_follow_the_indexes_of_the_patterns(truth: Truth, tmp_path: Path) -> None:
    path = layouts.ptychodus(tmp_path, truth)
    count = len(truth.counts)
    keep = np.delete(np.arange(count), [4, 11])  # two patterns without a position of their own
    order = np.random.default_rng(0).permutation(keep)
    indexes = np.concatenate([order, [7, 900]])  # a second one for pattern 7, and one of no pattern
    places = np.concatenate([truth.metres[order], [truth.metres[7] + 2 * PIXEL_M], [[0.0, 0.0]]])
    with h5py.File(tmp_path / "product.h5", "a") as file:
        for key in ("probe_position_indexes", "probe_position_y_m", "probe_position_x_m"):
            del file[key]
        file["probe_position_indexes"] = indexes
        file["probe_position_y_m"], file["probe_position_x_m"] = places.T
    scan = read_scan(path, trust_detector=True)
    wanted = truth.positions.copy()
    wanted[7] += 1
    for lost in (4, 11):
        wanted[lost] = (wanted[lost - 1] + wanted[lost + 1]) / 2
    assert np.abs(scan.positions - wanted).max() < 1e-6
    said = " ".join(scan.notes)
    assert "averaged" in said and "1 positions belong to none" in said and "2 patterns have no position" in said


def test_indexes_that_are_all_zero_mean_nothing(truth: Truth, tmp_path: Path) -> None:
    path = layouts.ptychodus(tmp_path, truth)
    with h5py.File(tmp_path / "product.h5", "a") as file:
        file["probe_position_indexes"][:] = 0
    assert np.abs(read_scan(path, trust_detector=True).positions - truth.positions).max() < 1e-6


# --- 4D-STEM ----------------------------------------------------------------------------------------------------------


def hyperspy(folder: Path, data: np.ndarray) -> Path:
    path = folder / "scan.hspy"
    with h5py.File(path, "w") as file:
        group = file.create_group("Experiments/scan")
        group["data"] = data
        for axis, (scale, unit) in enumerate([(STEP_M * 1e9, "nm")] * 2 + [(DK / 1e10, "1/angstrom")] * 2):
            group.create_group(f"axis-{axis}").attrs.update({"scale": scale, "units": unit})
        group.create_group("metadata/Acquisition_instrument/TEM").attrs["beam_energy"] = VOLTAGE / 1e3
    return path


def py4dstem(folder: Path, data: np.ndarray) -> Path:
    path = folder / "cube.h5"
    with h5py.File(path, "w") as file:
        file["root/datacube/data"], file["root/datacube/dim0"] = data, np.array([0.0, 1.0])
        told = file.create_group("root/metadatabundle/calibration")
        told["R_pixel_size"], told["R_pixel_units"] = STEP_M * 1e10, "A"
        told["Q_pixel_size"], told["Q_pixel_units"] = DK / 1e10, "A^-1"
        told["accelerating_voltage"] = VOLTAGE
    return path


@pytest.mark.parametrize("write", [hyperspy, py4dstem])
def test_a_raster_of_electron_patterns(write: Callable[[Path, np.ndarray], Path], truth: Truth, tmp_path: Path) -> None:
    data = truth.counts.reshape(5, 7, N, N)
    scan = read_scan(write(tmp_path, data), trust_detector=True)
    pixel = 1 / (N * DK)
    assert scan.pixel_size_m == pytest.approx(pixel) and scan.wavelength_m == pytest.approx(1.9687e-12, rel=1e-4)
    y, x = np.divmod(np.arange(35), 7)
    np.testing.assert_allclose(scan.positions - scan.positions[0], np.stack([y, x], 1) * STEP_M / pixel)
    np.testing.assert_array_equal(scan.counts(9), data[1, 2])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("degrees", [0.0, 30.0, -75.0])
def test_the_rotation_and_flip_of_py4dstem(flip: bool, degrees: float, truth: Truth, tmp_path: Path) -> None:
    """py4DSTEM turns centres of mass c (row, column) onto the scan: R(θ)·c, of swapped components with a flip. A
    gradient that is g on the detector is therefore R(θ)·P·g on the raster, and positions turn by the transpose."""
    path = py4dstem(tmp_path, truth.counts.reshape(5, 7, N, N))
    with h5py.File(path, "a") as file:
        told = file["root/metadatabundle/calibration"]
        told["QR_rotation_degrees"], told["QR_flip"] = degrees, flip
    scan = read_scan(path, trust_detector=True)
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    onto_raster = np.array([[cos, -sin], [sin, cos]]) @ (np.eye(2)[::-1] if flip else np.eye(2))
    steps = (scan.positions[[7, 1]] - scan.positions[0]) * (1 / (N * DK)) / STEP_M  # along slow and fast
    np.testing.assert_allclose(steps, onto_raster, atol=1e-9)  # rows: onto_rasterᵀ·(1, 0) and onto_rasterᵀ·(0, 1)
    assert scan.orientation_is_told == (flip or degrees != 0)
    assert any("QR" in note for note in scan.notes) == scan.orientation_is_told


def test_a_4d_array_needs_its_step_and_its_pixel(truth: Truth, tmp_path: Path) -> None:
    np.save(tmp_path / "cube.npy", truth.counts.reshape(5, 7, N, N))
    with pytest.raises(pt.DataError, match="--step"):
        read_scan(tmp_path / "cube.npy")
    stated = Stated(step_m=STEP_M, pixel_size_m=STEP_M / 3)
    scan = turned(read_scan(tmp_path / "cube.npy", stated=stated, trust_detector=True), rotation="90deg")
    np.testing.assert_allclose(scan.positions[1] - scan.positions[0], [3, 0], atol=1e-9)  # x turned towards y


def test_the_probe_of_an_aperture(truth: Truth, tmp_path: Path) -> None:
    """A disk of α/λ in the far field; underfocus is a phase of −πλΔf k², which spreads the light."""
    np.save(tmp_path / "cube.npy", truth.counts.reshape(5, 7, N, N))
    words = {"step_m": STEP_M, "diffraction_step": DK, "electron_voltage": VOLTAGE, "semiangle_rad": 12e-3}
    sharp = read_scan(tmp_path / "cube.npy", stated=Stated(**words), trust_detector=True)
    wide = read_scan(tmp_path / "cube.npy", stated=Stated(**words, defocus_m=2e-8), trust_detector=True)
    assert sharp.wavelength_m is not None and not sharp.probe_is_guess
    k = (np.arange(N) - N // 2) * DK
    squared = k[:, None] ** 2 + k**2
    inside = squared <= (12e-3 / sharp.wavelength_m) ** 2
    waves = [np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(scan.probe[0]))) for scan in (sharp, wide)]
    for wave in waves:
        assert np.array_equal(np.abs(wave) > 0.5 * np.abs(wave).max(), inside)
    phase = np.angle(waves[1] / waves[0])[inside]
    wanted = np.angle(np.exp(-1j * np.pi * sharp.wavelength_m * 2e-8 * squared[inside]))
    np.testing.assert_allclose(phase, wanted, atol=1e-3)
    middle = np.unravel_index(np.abs(sharp.probe[0]).argmax(), (N, N))
    assert middle == (N // 2, N // 2)


# --- a part of it -----------------------------------------------------------------------------------------------------


def test_frames_crop_and_binning(truth: Truth, tmp_path: Path) -> None:
    path = layouts.ptypy(tmp_path, truth)
    part = read_scan(path, trust_detector=True, stated=Stated(frames=slice(2, 30, 3)))
    assert len(part) == 10 and np.array_equal(part.counts(1), truth.counts[5] * ~truth.bad)
    small = read_scan(path, trust_detector=True, stated=Stated(crop=16))
    assert small.pixel_size_m == pytest.approx(2 * PIXEL_M)
    np.testing.assert_array_equal(small.counts(3), (truth.counts[3] * ~truth.bad)[8:24, 8:24])
    assert np.ptp(2 * small.positions - truth.positions, axis=0).max() < 1e-6
    binned = read_scan(path, trust_detector=True, stated=Stated(bin=2))
    assert binned.n == 16 and binned.pixel_size_m == pytest.approx(PIXEL_M)
    tiles = truth.counts[3].reshape(16, 2, 16, 2).sum((1, 3))
    good = (~truth.bad).reshape(16, 2, 16, 2).all((1, 3))
    np.testing.assert_array_equal(binned.counts(3), tiles * good)
    wide = read_scan(path, trust_detector=True, stated=Stated(crop=40))
    assert wide.n == 40 and not wide.valid[0].any() and wide.pixel_size_m == pytest.approx(PIXEL_M * N / 40)


def test_pixels_of_an_object_change_with_the_number_of_detector_pixels(truth: Truth, tmp_path: Path) -> None:
    path = layouts.ptychodus_training(tmp_path, truth)
    with np.load(path) as held:
        kept = {key: held[key] for key in held if key not in ("probeGuess", "objectGuess")}
    np.savez(tmp_path / "plain.npz", **kept)
    small = read_scan(tmp_path / "plain.npz", trust_detector=True, stated=Stated(crop=16))
    assert np.ptp(2 * small.positions - truth.positions, axis=0).max() < 1e-6


# --- any HDF5 ---------------------------------------------------------------------------------------------------------


def anything(folder: Path, t: Truth) -> Path:
    path = folder / "beamline.h5"
    with h5py.File(path, "w") as file:
        file["entry/measurement/frames"] = t.counts.swapaxes(-1, -2)
        file["entry/motors/px"], file["entry/motors/py"] = -t.metres.T[::-1] * 1e6
        file["entry/energy"], file["good"] = ENERGY_EV, (~t.bad).T.astype(np.uint8)
    return path


def test_any_hdf5_is_read_by_a_mapping(truth: Truth, tmp_path: Path) -> None:
    path = anything(tmp_path, truth)
    words = (
        "diffraction=entry/measurement/frames positions_x=entry/motors/px positions_y=entry/motors/py unit=um sign=-1 "
        "energy_eV=entry/energy distance_m=2 detector_pixel_m=75e-6 good_pixels=good transposed=true domain=counts"
    )
    table = "\n".join(
        f"{key} = {value if key in ('distance_m', 'detector_pixel_m', 'sign') else repr(value)}"
        for key, value in (word.split("=") for word in words.split())
    )
    (tmp_path / "map.toml").write_text(f'file = "beamline.h5"\n{table.replace(chr(39), chr(34))}\n')
    given = read_scan(path, trust_detector=True, stated=Stated(mapping=words))
    for scan in (given, read_scan(tmp_path / "map.toml", trust_detector=True)):
        assert np.ptp(scan.positions - truth.positions, axis=0).max() < 1e-6
        np.testing.assert_array_equal(scan.counts(4), truth.counts[4] * ~truth.bad)
        assert np.array_equal(scan.valid, ~truth.bad) and scan.pixel_size_m == pytest.approx(PIXEL_M)


@pytest.mark.parametrize(
    "words, says",
    [
        ("positions=entry/motors/px", "no diffraction"),
        ("diffraction=entry/nowhere", "no entry/nowhere"),
        ("diffraction=entry/energy", "shape"),
        ("diffraction=entry/measurement/frames unit=inch", "unit is 'inch'"),
        ("diffraction=entry/measurement/frames sign=2", "sign is 2"),
        ("diffraction=entry/measurement/frames colour=red", "colour means nothing"),
        ("diffraction=entry/measurement/frames positions_x=entry/motors/px", "positions_x and positions_y"),
        ("diffraction=entry/measurement/frames energy_eV=entry/motors", "energy_eV"),
    ],
)
def test_a_mapping_that_fits_nothing_is_refused(truth: Truth, tmp_path: Path, words: str, says: str) -> None:
    path = anything(tmp_path, truth)
    with pytest.raises(pt.DataError, match=says) as refused:
        read_scan(path, stated=Stated(mapping=words))
    assert "\n" not in str(refused.value)


# --- damaged files ----------------------------------------------------------------------------------------------------


def _with(how: str, values: np.ndarray) -> object:
    made = {
        "text": lambda: "word",
        "empty": lambda: np.zeros((0, *np.shape(values)[1:])),
        "NaN": lambda: np.full(np.shape(values), np.nan),
        "a number": lambda: 1.0,
        "other rank": lambda: np.asarray(values)[None, None],
        "huge": lambda: np.full(np.shape(values), 1e300),
        "zero": lambda: np.zeros(np.shape(values)),
        "half": lambda: np.asarray(values)[: max(1, len(values) // 2)] if np.ndim(values) else values,
        "null": lambda: h5py.Empty("f4"),
    }
    return made[how]()


def _datasets(file: Path) -> list[str]:
    found = list[str]()
    with h5py.File(file) as opened:
        opened.visititems(lambda key, node: found.append(key) if isinstance(node, h5py.Dataset) else None)
    return found


def _refusal(path: Path, tells: set[str]) -> str:
    """What is said against the scan; empty where it is read."""
    try:
        scan = read(path, tells)
    except pt.PtychoError as error:
        return str(error)
    assert np.isfinite(scan.positions).all() and np.isfinite(scan.counts(slice(None))).all()
    return ""


LINKS = {
    "gone": None,
    "loop": h5py.SoftLink("/loop"),
    "nowhere": h5py.ExternalLink("nowhere.h5", "/x"),
}
DAMAGES = ("text", "empty", "NaN", "a number", "other rank", "huge", "zero", "half", "null", *LINKS)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in ("TIFF", "NPY", "ptychodus training")])
def test_any_damage_is_refused_in_a_line_or_does_no_harm(name: str, truth: Truth, tmp_path: Path) -> None:
    """Each dataset of each file, in turn, holds something else, is gone, or is a link to nowhere."""
    write, tells = LAYOUTS[name]
    path = write(tmp_path, truth)
    refused = 0
    for file in sorted(tmp_path.iterdir()):
        if not h5py.is_hdf5(file):
            continue
        whole = file.read_bytes()
        for key in _datasets(file):
            for damage in DAMAGES:
                with h5py.File(file, "r+") as opened:
                    values = opened[key][()]
                    if damage == "half" and np.ndim(values) == 0:
                        continue
                    attributes = dict(opened[key].attrs)
                    del opened[key]
                    if damage not in LINKS:
                        opened[key] = _with(damage, values)
                        opened[key].attrs.update(attributes)
                    elif LINKS[damage] is not None:
                        opened["loop"] = h5py.SoftLink("/" + key)
                        opened[key] = LINKS[damage]
                said = _refusal(path, tells)
                assert "\n" not in said
                refused += bool(said)
                file.write_bytes(whole)
        for size in (0, 10, len(whole) // 3, len(whole) - 5):
            file.write_bytes(whole[:size])
            with pytest.raises(pt.DataError) as cut:
                read(path, tells)
            assert "\n" not in str(cut.value)
            file.write_bytes(whole)
    assert refused > 10


def test_dark_and_flat_field_are_taken_off(truth: Truth, tmp_path: Path) -> None:
    """counts = (frames − dark)/(flat/median), in stored axes; where the flat field is dead nothing is measured."""
    rng = np.random.default_rng(0)
    dark, flat = rng.integers(3, 9, (N, N)).astype(np.uint16), rng.uniform(0.8, 1.2, (N, N))
    flat[4, 7] = 0.01
    gain = flat / np.median(flat)
    frames = truth.counts * gain + dark
    folder = tmp_path / "stack"
    folder.mkdir()
    np.save(folder / "patterns.npy", frames.astype(np.float32))
    table = "x_px,y_px\n" + "\n".join(f"{x:.6f},{y:.6f}" for y, x in truth.positions)
    (folder / "positions.csv").write_text(table)
    np.save(tmp_path / "dark.npy", np.stack([dark, dark]))
    with h5py.File(tmp_path / "fields.h5", "w") as file:
        file["flat"] = flat
    stated = Stated(dark=tmp_path / "dark.npy", flat=Path(f"{tmp_path / 'fields.h5'}:flat"))
    for crop, part in ((None, np.s_[:, :]), (24, np.s_[N // 2 - 12 : N // 2 + 12, N // 2 - 12 : N // 2 + 12])):
        scan = read_scan(folder, stated=replace(stated, crop=crop, centre=(N // 2, N // 2)), trust_detector=True)
        expected = np.where(gain > 0.1, truth.counts, 0)[(slice(None), *part)]
        np.testing.assert_allclose(scan.counts(slice(None)) * scan.valid, expected, rtol=1e-4, atol=2e-3)
        if crop is None:
            assert not scan.valid[4, 7] and (~scan.valid).sum() == 1
    np.save(folder / "dark_field.npy", dark)
    beside = read_scan(folder, stated=Stated(flat=stated.flat), trust_detector=True)
    np.testing.assert_allclose(beside.counts(3) * beside.valid, np.where(gain > 0.1, truth.counts[3], 0), atol=2e-3)
    assert any("dark field: dark_field.npy" in note for note in beside.notes)


@pytest.mark.parametrize("polarity", [0, 1])
def test_a_stated_mask_has_either_polarity(polarity: int, truth: Truth, tmp_path: Path) -> None:
    path = layouts.ptylab(tmp_path, truth)
    bad = np.zeros((N, N), int)
    bad[3:5, 8] = 1
    np.save(tmp_path / "mask.npy", bad if polarity else 1 - bad)
    scan = read_scan(path, stated=Stated(mask=tmp_path / "mask.npy"), trust_detector=True)
    np.testing.assert_array_equal(scan.valid, bad == 0)


@pytest.mark.parametrize(
    "name, values, says",
    [
        ("dark", np.ones((3, 3)), "the dark field has shape"),
        ("flat", np.zeros((N, N)), "nothing of its flat field"),
        ("mask", np.array(["a"]), "an image of numbers"),
        ("dark", None, "no such file"),
    ],
)
def test_fields_that_do_not_fit_are_refused(name: str, values, says: str, truth: Truth, tmp_path: Path) -> None:
    path, field = layouts.ptylab(tmp_path, truth), tmp_path / "field.npy"
    if values is not None:
        np.save(field, values)
    with pytest.raises(pt.DataError, match=says):
        read_scan(path, stated=Stated(**{name: field}))


def blockfile(path: Path, data: np.ndarray) -> Path:
    """What RosettaSciIO writes: a raster of 8-bit patterns with the step of the scan."""
    writer = pytest.importorskip("rsciio.blockfile", reason='RosettaSciIO: pip install "ptycho-torch[electron]"')
    sides = ((5, 0.5, "nm", True), (7, 0.5, "nm", True), (N, 0.1, "cm", False), (N, 0.1, "cm", False))
    names = ("y", "x", "dy", "dx")
    axes = [
        {"name": name, "size": size, "scale": scale, "offset": 0, "units": unit, "navigate": is_scan}
        for name, (size, scale, unit, is_scan) in zip(names, sides, strict=True)
    ]
    signal = {"data": data, "axes": axes, "metadata": {}, "original_metadata": {}, "attributes": {"_lazy": False}}
    writer.file_writer(str(path), signal)
    return path


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_a_microscope(truth: Truth, tmp_path: Path) -> None:
    data = np.minimum(truth.counts, 255).astype(np.uint8).reshape(5, 7, N, N)
    path = blockfile(tmp_path / "scan.blo", data)
    with pytest.raises(pt.DataError, match="--electron-voltage 300kV"):
        read_scan(path)
    scan = read_scan(path, stated=Stated(electron_voltage=200e3, diffraction_step=DK), trust_detector=True)
    y, x = np.divmod(np.arange(35), 7)
    step = 0.5e-9 * N * DK
    np.testing.assert_allclose(scan.positions - scan.positions[0], np.stack([y, x], axis=1) * step)
    np.testing.assert_array_equal(scan.counts(np.array([9, 3, 30])), data.reshape(-1, N, N)[[9, 3, 30]])
    assert not scan.orientation_is_told
    (tmp_path / "cut.blo").write_bytes(path.read_bytes()[:300])
    with pytest.raises(pt.DataError, match="cut.blo"):
        read_scan(tmp_path / "cut.blo")


def test_a_stack_on_a_raster_is_stated(truth: Truth, tmp_path: Path) -> None:
    np.save(tmp_path / "stack.npy", truth.counts)
    words = {"step_m": STEP_M, "pixel_size_m": STEP_M / 3}
    scan = read_scan(
        tmp_path / "stack.npy", stated=Stated(**words, raster=(5, 7)), domain="counts", trust_detector=True
    )
    y, x = np.divmod(np.arange(35), 7)
    np.testing.assert_allclose(scan.positions - scan.positions[0], np.stack([y, x], axis=1) * 3.0)
    with pytest.raises(pt.DataError, match="35 patterns, no 6 x 6"):
        read_scan(tmp_path / "stack.npy", stated=Stated(**words, raster=(6, 6)))


def test_the_npz_files_of_ptychodus(truth: Truth, tmp_path: Path) -> None:
    """The same scan from the NPZ files as from the HDF5 files, from either name and from the folder."""
    (tmp_path / "h5").mkdir()
    expected = read_scan(layouts.ptychodus(tmp_path / "h5", truth), trust_detector=True)
    with h5py.File(tmp_path / "h5" / "product.h5") as file:
        product = {key: file[key][...] for key in file if isinstance(file[key], h5py.Dataset)}
        product |= {key: np.array(value) for key, value in file.attrs.items()}
        for side in ("height", "width"):
            product[f"object_pixel_{side}_m"] = np.array(file["object"].attrs[f"pixel_{side}_m"])
        for axis in "xy":
            product[f"object_center_{axis}_m"] = np.array(file["object"].attrs[f"center_{axis}_m"])
    folder = tmp_path / "npz"
    folder.mkdir()
    np.savez(folder / "product.npz", **product)
    np.savez(
        folder / "diffraction.npz", patterns=truth.counts, indexes=np.arange(len(truth.counts)), bad_pixels=truth.bad
    )
    for path in (folder, folder / "product.npz", folder / "diffraction.npz"):
        scan = read_scan(path, trust_detector=True)
        np.testing.assert_allclose(scan.positions, expected.positions, atol=1e-9)
        assert scan.pixel_size_m == pytest.approx(expected.pixel_size_m) and scan.wavelength_m == expected.wavelength_m
        assert np.array_equal(scan.valid, expected.valid) and np.allclose(scan.probe, expected.probe)
    (folder / "product.npz").unlink()
    with pytest.raises(pt.DataError, match="patterns only"):
        read_scan(folder)


@pytest.mark.parametrize("orientation", range(8))
def test_the_orientation_of_ptylab(orientation: int, truth: Truth, tmp_path: Path) -> None:
    """PtyLab transposes from 4 on, then mirrors columns (1), rows (2) or both (3); here about the beam, pixel N//2."""
    path = layouts.ptylab(tmp_path, truth)
    with h5py.File(path, "a") as file:
        stored = file["ptychogram"][...]
        file["orientation"] = orientation
    turned_there = stored.swapaxes(-1, -2) if orientation >= 4 else stored
    for axis in [each for each, which in ((-1, (1, 3)), (-2, (2, 3))) if orientation % 4 in which]:
        turned_there = np.roll(np.flip(turned_there, axis), 1, axis)
    scan = read_scan(path, trust_detector=True)
    np.testing.assert_array_equal(scan.counts(slice(None)), turned_there)


def test_what_is_stated_and_cannot_be_is_refused(truth: Truth, tmp_path: Path) -> None:
    lab, amplitudes = layouts.ptylab(tmp_path, truth), layouts.hxn(tmp_path, truth)
    np.save(tmp_path / "dark.npy", np.ones((N, N)))
    np.save(tmp_path / "nothing.npy", np.full((N, N), np.nan))
    with pytest.raises(pt.UsageError, match="the detector reaches to .* mrad"):
        read_scan(lab, stated=Stated(semiangle_rad=0.5))
    with pytest.raises(pt.DataError, match="amplitudes, from which no dark"):
        read_scan(amplitudes, stated=Stated(dark=tmp_path / "dark.npy"))
    with pytest.raises(pt.DataError, match="leave --raster out"):
        read_scan(lab, stated=Stated(raster=(5, 7), step_m=1e-7))
    with pytest.raises(pt.DataError, match="nothing but NaN"):
        read_scan(lab, stated=Stated(dark=tmp_path / "nothing.npy"))


def test_a_table_that_a_raster_replaces_is_said(truth: Truth, tmp_path: Path) -> None:
    np.save(tmp_path / "stack.npy", truth.counts)
    (tmp_path / "positions.csv").write_text("0,0\n" * 35)
    words = {"step_m": STEP_M, "pixel_size_m": STEP_M / 3}
    scan = read_scan(
        tmp_path / "stack.npy", stated=Stated(**words, raster=(5, 7)), domain="counts", trust_detector=True
    )
    assert any("not used, as a raster is stated: positions.csv" in note for note in scan.notes)


def test_a_stated_geometry_is_recorded(truth: Truth, tmp_path: Path) -> None:
    scan = turned(read_scan(layouts.ptypy(tmp_path, truth)), rotation="30deg", swap_axes=True)
    assert "stated: swap axes yes, rotation 30deg" in scan.notes
