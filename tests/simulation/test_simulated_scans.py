"""Simulated scans: physical objects and probes, honoured positions, the requested dose, reproducible files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import run

from ptycho_torch.data.formats import read_scan
from ptycho_torch.errors import UsageError
from ptycho_torch.files import sha256_of
from ptycho_torch.simulation import (
    OBJECTS,
    PROBES,
    SCAN_PATHS,
    NearFieldGeometry,
    SimulatedScan,
    acquire,
    make_probe,
    simulate_scan,
)
from ptycho_torch.simulation.probes import FULL_FIELD

SMALL = {"n": 32, "positions": 30, "step_px": 4.0}
NEAR = NearFieldGeometry(1.3e-3)
RIMMED = [kind for kind in PROBES if kind not in FULL_FIELD]


def diffracted(scan: SimulatedScan) -> np.ndarray:
    """Expected counts by numpy alone: the object cut at whole pixels, the probe moved by a phase ramp."""
    n = scan.probe.shape[-1]
    f = np.fft.fftfreq(n)
    counts = []
    for y, x in scan.positions:
        row, column = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
        window = scan.obj[row - n // 2 : row + n // 2, column - n // 2 : column + n // 2].astype(complex)
        rows, columns = np.exp(-2j * np.pi * f * (y - row)), np.exp(-2j * np.pi * f * (x - column))
        rows[n // 2], columns[n // 2] = rows[n // 2].real, columns[n // 2].real
        light = np.fft.ifft2(np.fft.fft2(scan.probe.astype(complex)) * rows[:, None] * columns)
        spectrum = np.fft.fft2(np.fft.ifftshift(light * window, axes=(-2, -1)), norm="ortho")
        if scan.near is None:
            counts.append((np.abs(np.fft.fftshift(spectrum, axes=(-2, -1))) ** 2).sum(axis=0))
            continue
        f_per_m = np.fft.fftfreq(n, scan.near.pixel_size_m)
        chirp = np.exp(
            -1j * np.pi * scan.near.wavelength_m * scan.near.distance_m * (f_per_m[:, None] ** 2 + f_per_m**2)
        )
        image = np.fft.ifft2(spectrum * chirp, norm="ortho")
        counts.append((np.abs(np.fft.fftshift(image, axes=(-2, -1))) ** 2).sum(axis=0))
    return np.stack(counts)


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("shape", [(60, 90), (101, 47)])
def test_objects_fill_any_rectangle_with_a_physical_transmission(kind: str, shape: tuple[int, int]) -> None:
    obj = OBJECTS[kind](shape, rng=np.random.default_rng(1))
    assert obj.shape == shape
    assert np.isfinite(obj).all()
    assert np.abs(obj).min() >= 0.5 - 1e-12
    assert np.abs(obj).max() <= 1 + 1e-12
    assert np.abs(np.angle(obj)).max() <= 1 + 1e-12
    assert np.abs(obj).std() > 0.02
    assert np.angle(obj).std() > 0.1


def test_a_natural_object_shows_two_different_images() -> None:
    for seed in range(5):
        obj = OBJECTS["natural"]((64, 64), rng=np.random.default_rng(seed))
        assert abs(np.corrcoef(np.abs(obj).ravel(), np.angle(obj).ravel())[0, 1]) < 0.9


@pytest.mark.parametrize("kind", RIMMED)
@pytest.mark.parametrize("n", [48, 64, 100])
def test_probes_have_unit_power_sit_in_the_centre_and_scale_with_n(kind: str, n: int) -> None:
    probe = make_probe(kind, n=n)
    power = np.abs(probe[0]) ** 2
    y, x = np.indices((n, n)) - n // 2
    assert probe.shape == (1, n, n)
    assert power.sum() == pytest.approx(1)
    assert abs((y * power).sum()) < 0.05
    assert abs((x * power).sum()) < 0.05
    spread = np.sqrt(((y**2 + x**2) * power).sum()) / n
    y, x = np.indices((64, 64)) - 32
    same = np.sqrt(((y**2 + x**2) * np.abs(make_probe(kind, n=64)[0]) ** 2).sum()) / 64
    assert spread == pytest.approx(same, rel=0.08)


def test_the_defocused_probe_is_35_pixels_wide_at_64() -> None:
    power = np.abs(make_probe("defocus", n=64)[0]) ** 2
    y, x = np.indices(power.shape) - 32
    within = power[np.hypot(y, x) <= 17.5].sum()
    assert 0.85 < within < 0.95


def test_modes_are_orthogonal_with_falling_powers_and_the_first_looks_like_the_probe() -> None:
    probe = make_probe("defocus", n=32, modes=4)
    flat = probe.reshape(4, -1)
    gram = flat @ flat.conj().T
    powers = np.diagonal(gram).real
    assert np.abs(gram - np.diag(powers)).max() < 1e-12
    assert powers.sum() == pytest.approx(1)
    assert (np.diff(powers) < 0).all()
    np.testing.assert_allclose(flat[0] / np.sqrt(powers[0]), make_probe("defocus", n=32)[0].ravel(), atol=1e-12)


@pytest.mark.parametrize("path", SCAN_PATHS)
def test_paths_cover_the_area_and_aspect_that_was_asked(path: str) -> None:
    stops = SCAN_PATHS[path](400, step_px=5.0, aspect=4.0, rng=np.random.default_rng(0))
    height, width = np.ptp(stops, axis=0)
    assert stops.shape == (400, 2)
    assert stops.dtype == np.float64
    assert height / width == pytest.approx(4, rel=0.15)
    ellipse = 4 / np.pi if path == "spiral" else 1
    assert height * width == pytest.approx(400 * 25 * ellipse, rel=0.2)
    assert len(np.unique(stops, axis=0)) == 400


@pytest.mark.parametrize(
    "kinds", [(o, "defocus", "raster") for o in OBJECTS] + [("grf", p, s) for p in RIMMED for s in SCAN_PATHS]
)
def test_every_kind_gives_a_sane_scan_inside_its_object(kinds: tuple[str, str, str]) -> None:
    obj, probe, path = kinds
    scan = simulate_scan(object_kind=obj, probe_kind=probe, scan_path=path, aspect=2.0, **SMALL)
    first, behind = np.floor(scan.positions + 0.5) - 16, np.floor(scan.positions + 0.5) + 16
    assert first.min() >= 4
    assert (behind <= np.array(scan.obj.shape) - 4).all()
    assert scan.amplitude.shape == (30, 32, 32)
    assert scan.amplitude.dtype == np.float32
    assert np.isfinite(scan.amplitude).all()
    assert scan.realised_photons == pytest.approx(1e5, rel=0.01)
    counts = scan.amplitude.astype(float) ** 2
    np.testing.assert_allclose(counts, np.rint(counts), rtol=3e-7, atol=1e-6)


@pytest.mark.parametrize("photons", [20.0, 1e4, 1e8])
def test_the_mean_pattern_has_the_requested_photons(photons: float) -> None:
    scan = simulate_scan(object_kind="grf", photons=photons, seed=3, **SMALL)
    counted = (scan.amplitude.astype(float) ** 2).sum(axis=(1, 2)).mean()
    assert scan.realised_photons == pytest.approx(counted, rel=1e-6)
    assert abs(scan.realised_photons - photons) < 5 * np.sqrt(photons / len(scan))
    assert simulate_scan(object_kind="grf", photons=photons, noise=False, **SMALL).realised_photons == pytest.approx(
        photons, rel=1e-6
    )


@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("near", [None, NEAR])
def test_noise_free_counts_are_what_probe_and_object_in_the_file_predict(
    modes: int, near: NearFieldGeometry | None
) -> None:
    scan = simulate_scan(object_kind="lines", modes=modes, noise=False, aspect=0.5, near=near, **SMALL)
    counts = scan.amplitude.astype(float) ** 2
    expected = diffracted(scan)
    assert np.abs(counts - expected).max() < 1e-5 * expected.max()
    assert np.linalg.norm(counts - expected) < 1e-6 * np.linalg.norm(expected)


def test_modes_add_incoherently() -> None:
    rng = np.random.default_rng(0)
    obj, positions = OBJECTS["grf"]((50, 60), rng=rng), np.array([[20.3, 30.0], [25.0, 24.7]])
    probe = make_probe("gaussian", n=32, modes=2)
    both = acquire(obj, probe, positions=positions, photons=1e6, noise=False, rng=rng)
    light = [diffracted(replace(both, probe=both.probe[i : i + 1])) for i in (0, 1)]
    np.testing.assert_allclose(both.amplitude.astype(float) ** 2, light[0] + light[1], rtol=1e-4, atol=1e-3)
    assert light[1].sum() == pytest.approx(0.4 * light[0].sum(), rel=0.1)


@pytest.mark.parametrize("move", [(1, 0), (0, 1), (-2, 3)])
def test_positions_are_y_x_and_move_the_window_the_right_way(move: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    obj, probe = OBJECTS["dead-leaves"]((70, 80), rng=rng), make_probe("defocus", n=32)
    start = np.array([[30.25, 41.5], [33.0, 36.75]])
    still = acquire(obj, probe, positions=start, photons=1e5, noise=False, rng=rng)
    moved_both = acquire(
        np.roll(obj, move, axis=(0, 1)), probe, positions=start + move, photons=1e5, noise=False, rng=rng
    )
    moved_scan = acquire(obj, probe, positions=start + move, photons=1e5, noise=False, rng=rng)
    np.testing.assert_allclose(moved_both.amplitude, still.amplitude, rtol=1e-5, atol=1e-4)
    assert np.linalg.norm(moved_scan.amplitude - still.amplitude) > 0.05 * np.linalg.norm(still.amplitude)


def test_positions_between_pixels_count() -> None:
    """Moving a smooth object by interpolation and moving the probe by the same fraction see the same light."""
    y, x = np.indices((80, 80))
    pi = 2 * np.pi / 80

    def smooth(dy: float, dx: float) -> np.ndarray:
        return 0.8 + 0.1 * np.cos(9 * pi * (y - dy)) + 0.1j * np.sin(7 * pi * (x - dx) + 3 * pi * (y - dy))

    probe, rng = make_probe("gaussian", n=32), np.random.default_rng(0)
    between = acquire(
        smooth(0, 0), probe, positions=np.array([[40.4, 41.3]]), photons=1e5, noise=False, rng=rng
    ).amplitude
    whole = acquire(
        smooth(-0.4, -0.3), probe, positions=np.array([[40.0, 41.0]]), photons=1e5, noise=False, rng=rng
    ).amplitude
    rounded = acquire(
        smooth(0, 0), probe, positions=np.array([[40.0, 41.0]]), photons=1e5, noise=False, rng=rng
    ).amplitude
    assert np.linalg.norm(rounded - whole) > 1e-3 * np.linalg.norm(whole)
    assert np.linalg.norm(between - whole) < 0.05 * np.linalg.norm(rounded - whole)


def test_windows_that_leave_the_object_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match="windows of 32 px"):
        acquire(
            np.ones((50, 50)),
            make_probe("disk", n=32),
            positions=np.array([[20.0, 40.0]]),
            photons=1.0,
            noise=False,
            rng=rng,
        )


def test_dose_and_noise_leave_sample_and_path_alone() -> None:
    one = simulate_scan(object_kind="grf", seed=7, photons=1e3, **SMALL)
    other = simulate_scan(object_kind="grf", seed=7, photons=1e6, noise=False, **SMALL)
    np.testing.assert_array_equal(one.obj, other.obj)
    np.testing.assert_array_equal(one.positions, other.positions)
    assert not np.array_equal(one.nominal_positions, one.positions)
    assert np.abs(one.positions - one.nominal_positions).max() <= 1 + 1e-12


def test_equal_seeds_give_equal_files_and_different_seeds_do_not(tmp_path: Path) -> None:
    for name, seed in (("a", 11), ("b", 11), ("c", 12)):
        simulate_scan(object_kind="natural", seed=seed, modes=2, **SMALL).save(tmp_path / f"{name}.npz")
    a, b, c = (sha256_of(tmp_path / f"{name}.npz") for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("modes", [1, 2])
def test_the_file_reads_back_as_the_same_scan(tmp_path: Path, modes: int) -> None:
    made = simulate_scan(object_kind="siemens", aspect=1.7, modes=modes, **SMALL)
    made.save(tmp_path / "scan.npz")
    with np.load(tmp_path / "scan.npz", allow_pickle=False) as file:
        assert file["probeGuess"].ndim == (2 if modes == 1 else 3)
        assert file["scan_index"].dtype == np.int64
        assert file["realised_photons"] == made.realised_photons
        assert str(file["measurement_domain"]) == "amplitude"
    scan = read_scan(tmp_path / "scan.npz")
    assert scan.domain == "amplitude"
    assert scan.nphotons == 1e5
    assert scan.mean_photons() == pytest.approx(made.realised_photons, rel=1e-5)
    np.testing.assert_array_equal(scan.positions, made.positions)
    np.testing.assert_array_equal(scan.nominal_positions, made.nominal_positions)
    np.testing.assert_array_equal(scan.probe, made.probe)
    np.testing.assert_array_equal(scan.obj, made.obj)
    np.testing.assert_array_equal(scan.valid, made.valid)
    np.testing.assert_array_equal(scan.patterns, made.amplitude)


def test_a_near_field_file_reads_back_with_its_geometry_and_truth(tmp_path: Path) -> None:
    made = simulate_scan(object_kind="siemens", near=NEAR, **SMALL)
    made.save(tmp_path / "near.npz")
    scan = read_scan(tmp_path / "near.npz")
    assert scan.propagator == NEAR.propagator
    assert (scan.propagation, scan.propagation_distance_m, scan.wavelength_m, scan.pixel_size_m) == (
        "near",
        NEAR.distance_m,
        NEAR.wavelength_m,
        NEAR.pixel_size_m,
    )
    np.testing.assert_array_equal(scan.obj, made.obj)
    np.testing.assert_array_equal(scan.probe, made.probe)
    np.testing.assert_array_equal(scan.patterns, made.amplitude)
    with np.load(tmp_path / "near.npz") as file:
        assert "propagation" in file.files
    assert "propagation" not in simulate_scan(**SMALL).as_npz()


def test_the_near_field_takes_its_own_probe_and_path_unless_others_are_named() -> None:
    own, named = (simulate_scan(near=NEAR, seed=2, **more, **SMALL) for more in ({}, {"scan_path": "spiral"}))
    np.testing.assert_array_equal(own.positions, named.positions)
    np.testing.assert_allclose(own.probe / abs(own.probe).max(), _scaled(make_probe("full-field", n=32)), atol=1e-6)
    disk = simulate_scan(near=NEAR, probe_kind="disk", **SMALL)
    np.testing.assert_allclose(disk.probe / abs(disk.probe).max(), _scaled(make_probe("disk", n=32)), atol=1e-6)
    far = simulate_scan(seed=2, **SMALL)
    np.testing.assert_allclose(far.probe / abs(far.probe).max(), _scaled(make_probe("defocus", n=32)), atol=1e-6)


def _scaled(probe: np.ndarray) -> np.ndarray:
    return probe / abs(probe).max()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--distance", "1e-3"], "--distance without --propagation near"),
        (["--wavelength", "1e-10", "--pixel-size", "1e-7"], "--wavelength, --pixel-size without --propagation near"),
        (["--propagation", "near"], "needs --distance"),
        (["--propagation", "near", "--distance", "-1"], "--distance"),
        (["--propagation", "near", "--distance", "1"], "reaches to"),
        (["--propagation", "middle"], "--propagation middle"),
        (["--probe", "full-field"], "--probe full-field needs --propagation near"),
    ],
)
def test_flags_that_contradict_the_propagation_are_refused_in_a_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("simulate", "--output", tmp_path / "scan.npz", "-N", 32, *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error, error
    assert not (tmp_path / "scan.npz").exists()


def test_the_command_writes_the_geometry_it_was_given(tmp_path: Path) -> None:
    words = ["--propagation", "near", "--distance", 2e-3, "--wavelength", 2e-10, "--pixel-size", 3e-7]
    assert run("simulate", "--output", tmp_path / "scan.npz", "-N", 32, "--positions", 9, "--quiet", *words) == 0
    assert read_scan(tmp_path / "scan.npz").propagator == NearFieldGeometry(2e-3, 2e-10, 3e-7).propagator


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"object_kind": "cat"}, "no object is called 'cat'"),
        ({"probe_kind": "laser"}, "choose one of disk"),
        ({"scan_path": "zigzag"}, "scan path"),
        ({"n": 33}, "even number"),
        ({"n": 8}, "even number"),
        ({"modes": 0}, "modes is 0"),
        ({"positions": 0}, "positions is 0"),
        ({"photons": 0.0}, "photons is 0"),
        ({"photons": float("nan")}, "photons is nan"),
        ({"step_px": -1.0}, "step_px"),
        ({"jitter_px": -1.0}, "jitter_px"),
        ({"aspect": 0.0}, "aspect"),
        ({"seed": -1}, "seed"),
        ({"probe_kind": "full-field"}, "dark rim"),
        ({"near": NearFieldGeometry(0.0)}, "distance is 0"),
        ({"near": NearFieldGeometry(1e-3, wavelength_m=float("nan"))}, "wavelength is nan"),
        ({"near": NearFieldGeometry(1e-3, pixel_size_m=-1e-7)}, "pixel size"),
        ({"near": NearFieldGeometry(7e-3)}, "reaches to .* 0.0064 m"),
    ],
)
def test_impossible_requests_get_one_sentence(wrong: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        simulate_scan(**wrong)
    assert "\n" not in str(caught.value)
