"""The front door: every form a scan NPZ comes in is read alike, and what can't be a scan is refused in one line."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.data.formats import read_scan
from ptycho_torch.data.formats.npz import write_scan_npz
from ptycho_torch.data.scan import Scan
from ptycho_torch.errors import DataError, UsageError

N = 16


def photons(n: int = 6, size: int = N, *, mean: float = 3.0, seed: int = 0) -> np.ndarray:
    counts = np.random.default_rng(seed).poisson(mean, (n, size, size))
    counts[:, 0, :3] = 1, 2, 3
    return counts


def members(counts: np.ndarray | None = None, **others) -> dict:
    counts = photons() if counts is None else counts
    n, size = counts.shape[:2]
    y, x = np.mgrid[: size * 1.0, : size * 1.0] - size / 2
    return {
        "diff3d": np.sqrt(counts).astype(np.float32),
        "xcoords": 20.25 + 5 * np.arange(n),
        "ycoords": 30.5 + np.arange(n) ** 2,
        "probeGuess": (np.exp(-(y**2 + x**2 + 1j * x) / 20) * np.sqrt(3 * size)).astype(np.complex64),
        **others,
    }


@pytest.fixture
def save(tmp_path):
    def save(arrays: dict, *, without: tuple[str, ...] = ()) -> Path:
        path = tmp_path / "scan.npz"
        np.savez_compressed(path, **{key: value for key, value in arrays.items() if key not in without})
        return path

    return save


def refusal(path: Path, **options) -> str:
    with pytest.raises(DataError) as refused:
        read_scan(path, **options)
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


# ---- what is read


def test_amplitude_and_its_coordinates(save):
    counts = photons()
    path = save(members(counts))
    scan = read_scan(path)
    assert (len(scan), scan.n, scan.domain) == (6, N, "amplitude")
    assert "squared is a whole number" in scan.domain_reason
    np.testing.assert_allclose(scan.counts(slice(None)), counts, rtol=1e-6)
    np.testing.assert_array_equal(scan.positions[:, 0], 30.5 + np.arange(6) ** 2)  # y is the row
    np.testing.assert_array_equal(scan.positions[:, 1], 20.25 + 5 * np.arange(6))
    np.testing.assert_array_equal(scan.nominal_positions, scan.positions)
    assert scan.probe.shape == (1, N, N)
    assert scan.probe_origin == "probeGuess in the file"
    assert scan.valid.all()
    assert scan.source == path
    assert len(scan.digest) == 64
    assert any("amplitude" in line for line in scan.describe())


STORED = {
    "amplitude float32": lambda counts: np.sqrt(counts).astype(np.float32),
    "amplitude float64": lambda counts: np.sqrt(counts),
    "counts float32": lambda counts: counts.astype(np.float32),
    "counts squared from amplitude": lambda counts: np.sqrt(counts).astype(np.float32) ** 2,
    "counts uint16": lambda counts: counts.astype(np.uint16),
    "counts int32": lambda counts: counts.astype(np.int32),
}
LAYOUTS = {
    "n, N, N": lambda stack: stack,
    "N, N, n": lambda stack: np.moveaxis(stack, 0, -1),
    "n, N, N, 1": lambda stack: stack[..., None],
    "N, N, n, 1": lambda stack: np.moveaxis(stack, 0, -1)[..., None],
    "Fortran order": np.asfortranarray,
}


@pytest.mark.parametrize("key", ["diff3d", "diffraction"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stored", STORED)
def test_every_stored_form_gives_the_same_photons(save, stored, layout, key):
    counts = photons(mean=300.0)
    counts[2, 3, 4] = 60_000  # its square does not fit into 16 bits
    arrays = members(counts)
    del arrays["diff3d"]
    scan = read_scan(save(arrays | {key: LAYOUTS[layout](STORED[stored](counts))}))
    assert scan.domain == stored.split()[0]
    np.testing.assert_allclose(scan.counts(np.arange(6)), counts, rtol=1e-6)
    np.testing.assert_allclose(scan.amplitude(np.arange(6)), np.sqrt(counts), rtol=1e-6)
    assert scan.mean_photons() == pytest.approx(counts.sum((1, 2)).mean(), rel=1e-6)
    assert scan.mean_photons(np.array([1, 4])) == pytest.approx(counts[[1, 4]].sum((1, 2)).mean(), rel=1e-6)


def test_as_many_patterns_as_pixels_are_read_pattern_first(save):
    counts = photons(n=N)
    np.testing.assert_allclose(read_scan(save(members(counts))).counts(3), counts[3], rtol=1e-6)


@pytest.mark.parametrize("size", [16, 18, 100])
def test_any_even_size(save, size):
    assert read_scan(save(members(photons(3, size)))).n == size


@pytest.mark.parametrize(
    "stored, modes",
    [
        (lambda p: p, 1),
        (lambda p: p[..., None], 1),
        (lambda p: np.stack([p, 0.5 * p, 0.1 * p]), 3),
        (lambda p: p.astype(np.complex128), 1),
        (lambda p: abs(p), 1),
    ],
)
def test_probes_of_every_form(save, stored, modes):
    arrays = members()
    scan = read_scan(save(arrays | {"probeGuess": stored(arrays["probeGuess"])}))
    assert scan.probe.shape == (modes, N, N)
    assert scan.probe.dtype == np.complex64
    np.testing.assert_allclose(abs(scan.probe[0]), abs(arrays["probeGuess"]), rtol=1e-6)


def test_a_missing_probe_is_estimated_and_said_so(save):
    counts = photons(mean=50.0)
    scan = read_scan(save(members(counts), without=("probeGuess",)))
    assert scan.probe_is_guess
    assert scan.probe_origin == "estimated from the mean pattern"
    assert any("estimated" in note for note in scan.notes)
    assert scan.probe.shape == (1, N, N)
    assert np.square(abs(scan.probe)).sum() == pytest.approx(counts.sum((1, 2)).mean(), rel=1e-4)


@pytest.mark.parametrize("dead", [np.nan, -1.0, 65535.0])
@pytest.mark.parametrize("marked", ["mask", "mask as bool", "bad_pixels"])
def test_what_bad_pixels_hold_does_not_matter(save, marked, dead):
    bad = np.zeros((N, N), bool)
    bad[2, 5] = bad[7, 7] = True
    arrays = members()
    arrays["diff3d"][:, bad] = dead
    mask = {
        "mask": {"mask": (~bad).astype(np.uint8)},
        "mask as bool": {"mask": ~bad},
        "bad_pixels": {"bad_pixels": bad},
    }[marked]
    scan = read_scan(save(arrays | mask))
    np.testing.assert_array_equal(scan.valid, ~bad)
    assert scan.domain == "amplitude"
    for values in (scan.counts(slice(None)), scan.amplitude(slice(None))):
        assert np.isfinite(values).all()
        assert (values[:, bad] == 0).all()
    np.testing.assert_allclose(scan.counts(0)[~bad], photons()[0][~bad], rtol=1e-6)
    assert scan.facts()["pixels not measured"] == "2"


def test_start_coordinates_object_and_numbers(save):
    obj = np.ones((1, 70, 60), np.complex64)
    start = {"xcoords_start": 20.0 + np.arange(6), "ycoords_start": 30.0 + np.arange(6)}
    numbers = {"pixel_size_m": 5e-9, "wavelength_m": np.nan, "nphotons": 768.0}
    scan = read_scan(save(members(objectGuess=obj, **start, **numbers)))
    np.testing.assert_array_equal(scan.nominal_positions, np.stack([30.0 + np.arange(6), 20.0 + np.arange(6)], axis=1))
    assert scan.positions[3].tolist() == [39.5, 35.25]
    assert scan.obj.shape == (70, 60)
    assert (scan.pixel_size_m, scan.wavelength_m, scan.nphotons) == (5e-9, None, 768.0)


def test_more_positions_than_patterns_are_tolerated_with_a_note(save):
    arrays = members()
    scan = read_scan(save(arrays | {"diff3d": arrays["diff3d"][:4]}))
    assert len(scan) == len(scan.positions) == len(scan.nominal_positions) == 4
    assert any("the first 4 are used" in note for note in scan.notes)


def test_a_subset_is_a_scan(save):
    scan = read_scan(save(members()))
    part = scan.subset(np.array([4, 1]))
    np.testing.assert_array_equal(part.counts(0), scan.counts(4))
    np.testing.assert_array_equal(part.positions, scan.positions[[4, 1]])


# ---- counts or amplitude


def test_the_caller_decides_before_the_file_and_the_file_before_a_test(save):
    whole = photons().astype(np.float32)
    path = save(members(diff3d=whole, measurement_domain="amplitude"))
    assert read_scan(path).domain == "amplitude"
    assert "declared" in read_scan(path).domain_reason
    assert read_scan(path, domain="counts").domain == "counts"
    assert "--measurement-domain" in read_scan(path, domain="counts").domain_reason
    np.testing.assert_allclose(read_scan(path).counts(0), whole[0] ** 2)
    with pytest.raises(UsageError, match="intensity"):
        read_scan(path, domain="intensity")


@pytest.mark.parametrize("kind", ["amplitude", "counts"])
def test_noise_free_patterns_are_told_by_the_photons_of_the_probe(save, kind):
    counts = np.random.default_rng(1).gamma(2.0, 100.0, (6, N, N))
    probe = np.full((N, N), np.sqrt(200.0), np.complex64)
    stored = np.sqrt(counts) if kind == "amplitude" else counts
    scan = read_scan(save(members(diff3d=stored.astype(np.float32), probeGuess=probe)))
    assert scan.domain == kind
    assert "probe" in scan.domain_reason


def test_a_probe_that_fits_both_decides_nothing(save):
    faint = np.random.default_rng(1).uniform(0.5, 1.5, (6, N, N)).astype(np.float32)
    assert "--measurement-domain" in refusal(save(members(diff3d=faint, probeGuess=np.ones((N, N)))))


def test_undecided_patterns_ask_for_the_flag(save):
    normalised = members()["diff3d"] / 7.3
    assert "--measurement-domain counts" in refusal(save(members(diff3d=normalised), without=("probeGuess",)))
    assert read_scan(save(members(diff3d=normalised)), domain="amplitude").domain == "amplitude"


@settings(max_examples=40)
@given(st.integers(0, 2**16), st.floats(0.02, 3e4), st.sampled_from([np.float32, np.float64]))
def test_rounded_square_roots_of_counts_are_known_at_any_dose(seed, mean, kind):
    counts = photons(3, mean=mean, seed=seed)
    positions = np.arange(6.0).reshape(3, 2)
    assert Scan.from_arrays(np.sqrt(counts).astype(kind), positions, probe=np.ones((N, N))).domain == "amplitude"
    assert Scan.from_arrays(counts.astype(kind), positions, probe=np.ones((N, N))).domain == "counts"


def test_zeros_and_ones_are_the_same_in_both_domains():
    single = np.random.default_rng(0).integers(0, 2, (3, N, N)).astype(np.float32)
    scan = Scan.from_arrays(single, np.arange(6.0).reshape(3, 2), probe=np.ones((N, N)))
    np.testing.assert_array_equal(scan.counts(slice(None)), scan.amplitude(slice(None)))


# ---- metadata


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_photons_are_read_from_pickled_metadata(save):
    record = np.array(json.dumps({"physics_parameters": {"nphotons": 1e5}, "source": "µ"}), dtype=object)
    assert read_scan(save(members(_metadata=record))).nphotons == 1e5
    assert read_scan(save(members(_metadata=record.astype(str)))).nphotons == 1e5
    assert read_scan(save(members(_metadata=record, nphotons=5.0))).nphotons == 5.0


def test_metadata_that_would_run_is_never_run(save, tmp_path):
    trap = np.empty((), object)
    trap[()] = Trap(tmp_path / "sprung")
    scan = read_scan(save(members(_metadata=trap)))
    assert scan.nphotons is None
    assert any("_metadata" in note for note in scan.notes)
    patterns = np.empty(6, object)
    patterns[:] = trap
    assert "diff3d is a pickled object" in refusal(save(members(diff3d=patterns)))
    assert not (tmp_path / "sprung").exists()


# ---- what is refused


def spoilt(**changes):
    """Members with `changes` made, each a function of the array."""
    arrays = members()
    for key, change in changes.items():
        arrays[key] = change(arrays[key].copy())
    return arrays


def put(index, value):
    def change(array):
        array[index] = value
        return array

    return change


BAD = {
    "NaN": (spoilt(diff3d=put((3, 1, 1), np.nan)), "1 of 6 patterns hold NaN or infinite values (first: pattern 3)"),
    "negative": (spoilt(diff3d=put((slice(2, 4), 5), -1.0)), "2 of 6 patterns hold negative values (first: pattern 2)"),
    "all zero": (spoilt(diff3d=np.zeros_like), "6 of 6 patterns hold nothing but zeros"),
    "rank": (spoilt(diff3d=lambda a: a[0]), "shape (16, 16)"),
    "not square": (spoilt(diff3d=lambda a: a[:, :, :14]), "shape (6, 16, 14)"),
    "odd": (spoilt(diff3d=lambda a: np.pad(a, ((0, 0), (0, 1), (0, 1))), probeGuess=lambda p: np.pad(p, 1)), "17 x 17"),
    "small": (spoilt(diff3d=lambda a: a[:, :14, :14]), "an even N of at least 16"),
    "complex": (spoilt(diff3d=lambda a: a * 1j), "complex64"),
    "no pattern": (spoilt(diff3d=lambda a: a[:0]), "there are no patterns"),
    "more patterns": (spoilt(xcoords=lambda x: x[:4], ycoords=lambda y: y[:4]), "6 patterns but only 4 positions"),
    "x without y": (spoilt(ycoords=lambda y: y[:5]), "xcoords holds 6 values, ycoords 5"),
    "position NaN": (spoilt(xcoords=put(2, np.nan)), "1 of 6 positions are NaN or infinite (first: pattern 2)"),
    "positions equal": (spoilt(xcoords=np.ones_like, ycoords=np.ones_like), "all 6 positions are equal"),
    "start NaN": (members(xcoords_start=np.full(6, np.nan), ycoords_start=np.ones(6)), "nominal (start) positions"),
    "outside": (members(objectGuess=np.ones((50, 60), complex)), "1 of 6 positions lie outside the object of 50 x 60"),
    "probe size": (spoilt(probeGuess=lambda p: np.pad(p, 2)), "the probe is 20 x 20, the patterns are 16 x 16"),
    "probe rank": (spoilt(probeGuess=lambda p: p[0]), "the probe is of shape (16,)"),
    "probe NaN": (spoilt(probeGuess=put((0, 0), np.nan)), "the probe holds NaN"),
    "probe zero": (spoilt(probeGuess=np.zeros_like), "the probe is zero everywhere"),
    "mask shape": (members(mask=np.ones((8, 8))), "the mask has shape (8, 8)"),
    "mask of nothing": (members(mask=np.zeros((N, N))), "no good pixel"),
    "masks differ": (members(mask=np.ones((8, 8)), bad_pixels=np.zeros((N, N))), "mask and bad_pixels"),
    "domain": (members(measurement_domain="intensity"), "measurement_domain is 'intensity'"),
    "words": (spoilt(xcoords=lambda x: x.astype(str)), "xcoords is of type"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_scan_that_cannot_be_is_refused_in_one_line(save, case):
    arrays, reason = BAD[case]
    assert reason in refusal(save(arrays))


def test_all_problems_are_told_at_once(save):
    arrays = spoilt(diff3d=put((0, 0, 0), -2.0), xcoords=put(1, np.inf), probeGuess=np.zeros_like)
    message = refusal(save(arrays))
    for reason in ("negative values", "positions are NaN or infinite", "the probe is zero"):
        assert reason in message


def test_missing_keys_are_named_with_those_that_are_there(save):
    message = refusal(save(members(), without=("diff3d", "xcoords")))
    assert "no diff3d or diffraction, no xcoords" in message
    assert "ycoords, probeGuess" in message


def test_files_that_are_no_archives(tmp_path, save):
    assert "no such file" in refusal(tmp_path / "nowhere.npz")
    assert "folder" in refusal(tmp_path)
    other = tmp_path / "other.npz"
    for content in (b"", b"not a zip at all", b"\x93NUMPY\x01\x00"):
        other.write_bytes(content)
        assert "not an NPZ" in refusal(other)
    unknown = tmp_path / "scan.tif"
    unknown.write_bytes(b"II*\x00")
    assert "cut short or damaged" in refusal(unknown)
    unknown.write_bytes(b"GIF89a")
    assert "not a scan file" in refusal(unknown)
    whole = save(members()).read_bytes()
    other.write_bytes(whole[: len(whole) // 2])
    assert "cut short or damaged" in refusal(other)


def test_a_damaged_member_is_named(save):
    path = save(members())
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("diff3d.npy").header_offset
    content[start + 400 : start + 500] = bytes(100)
    path.write_bytes(content)
    assert "diff3d is cut short or damaged" in refusal(path)


def test_an_unusable_reference_object_is_left_out_with_a_note(save):
    scan = read_scan(save(members(objectGuess=np.full((70, 60), np.nan))))
    assert scan.obj is None
    assert any("objectGuess" in note for note in scan.notes)


# ---- arrays and writing


def test_arrays_are_checked_like_files():
    with pytest.raises(DataError, match=r"arrays in memory: .*negative.*all 3 positions are equal|equal.*negative"):
        Scan.from_arrays(-photons(3), np.ones((3, 2)), probe=np.ones((N, N)))


def test_written_and_read_again_it_is_the_same(tmp_path):
    arrays = members(mask=np.eye(N) == 0, objectGuess=np.ones((70, 60)) * 1j, nphotons=768, note=np.array("kept"))
    path = tmp_path / "folder" / "scan.npz"
    write_scan_npz(path, arrays)
    scan = read_scan(path)
    assert scan.domain_reason == "declared in the file"
    np.testing.assert_array_equal(scan.amplitude(slice(None)), np.where(arrays["mask"], arrays["diff3d"], 0))
    np.testing.assert_array_equal(scan.positions, np.stack([arrays["ycoords"], arrays["xcoords"]], axis=1))
    np.testing.assert_array_equal(scan.probe[0], arrays["probeGuess"])
    np.testing.assert_array_equal(scan.obj, np.full((70, 60), 1j))
    assert scan.nphotons == 768
    with np.load(path) as stored:
        kinds = stored["mask"].dtype, stored["xcoords_start"].dtype
        assert (*kinds, str(stored["note"])) == ("uint8", "float64", "kept")
    assert [file.name for file in path.parent.iterdir()] == ["scan.npz"]


def test_equal_arrays_give_equal_files(tmp_path):
    write_scan_npz(tmp_path / "a.npz", members())
    write_scan_npz(tmp_path / "b.npz", **members())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_what_is_no_scan_is_not_written(tmp_path):
    path = tmp_path / "scan.npz"
    path.write_bytes(b"kept")
    arrays = members()
    for wrong in ({"diff3d": arrays["diff3d"]}, arrays | {"xcoords": np.ones(2)}, arrays | {"note": np.array([{}])}):
        with pytest.raises(DataError, match=r"scan\.npz"):
            write_scan_npz(path, wrong)
    assert path.read_bytes() == b"kept"


@pytest.mark.parametrize("name, n, size", [("siemens_star_aps_128", 258, 128), ("cryo_electron_64", 1600, 64)])
def test_measured_scans(name, n, size):
    path = Path(os.environ.get("PTYCHO_TORCH_DATA", "."), f"{name}.npz")
    if "PTYCHO_TORCH_DATA" not in os.environ or not path.exists():
        pytest.skip("set PTYCHO_TORCH_DATA to a folder with measured scans")
    scan = read_scan(path)
    assert (len(scan), scan.n, scan.domain, scan.notes) == (n, size, "amplitude", ())
    assert scan.obj is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("measurement_domain", np.zeros(10_000_000)),
        ("mask", np.zeros((100, 1000, 1000), np.uint8)),
        ("xcoords", np.zeros(10_000_000)),
    ],
)
def test_a_small_file_that_unpacks_to_much_is_refused_before_it_does(
    tmp_path: Path, key: str, value: np.ndarray
) -> None:
    arrays = {
        "diff3d": np.ones((6, 16, 16), np.float32),
        "xcoords": np.arange(6.0),
        "ycoords": np.arange(6.0),
        key: value,
    }
    np.savez_compressed(tmp_path / "scan.npz", **arrays)
    assert (tmp_path / "scan.npz").stat().st_size < 2e5
    with pytest.raises(DataError, match=f"{key} takes .* MB"):
        read_scan(tmp_path / "scan.npz")
