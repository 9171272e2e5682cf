"""What holds for every generator of objects, probes, scan paths and photons, whatever it is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.simulation import OBJECTS, PROBES, SCAN_PATHS, NearFieldGeometry, acquire, make_probe
from ptycho_torch.simulation.probes import FULL_FIELD, MODE_DECAY
from ptycho_torch.simulation.variety import random_object, random_probe, width_px

law = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**31 - 1)
sides = st.integers(17, 75)
even_sizes = st.integers(8, 40).map(lambda half: 2 * half)


# --- objects


@pytest.mark.parametrize("kind", OBJECTS)
@law
@given(height=sides, width=sides, seed=seeds)
def test_objects_are_passive_fit_the_shape_and_follow_the_seed(kind: str, height: int, width: int, seed: int) -> None:
    make, shape = OBJECTS[kind], (height, width)
    obj = make(shape, rng=np.random.default_rng(seed))
    assert obj.shape == shape and np.iscomplexobj(obj)
    assert np.isfinite(obj).all()
    assert np.abs(obj).max() <= 1 + 1e-12
    np.testing.assert_array_equal(obj, make(shape, rng=np.random.default_rng(seed)))
    if kind != "natural":  # two of 182 pairs of images can be the same
        assert not np.array_equal(obj, make(shape, rng=np.random.default_rng(seed + 1)))


@pytest.mark.parametrize("kind", OBJECTS)
@law
@given(side=sides, seed=seeds)
def test_objects_have_no_symmetry_that_hides_a_swapped_axis_or_a_twin(kind: str, side: int, seed: int) -> None:
    obj = OBJECTS[kind]((side, side), rng=np.random.default_rng(seed))
    for other in (obj.T, obj[::-1], obj[:, ::-1], obj[::-1, ::-1], obj[::-1, ::-1].conj()):
        assert np.linalg.norm(obj - other) > 0.02 * np.linalg.norm(obj)


@law
@given(height=sides, width=sides, seed=seeds)
def test_the_objects_that_pretraining_sees_are_passive_and_follow_the_seed(height: int, width: int, seed: int) -> None:
    shape = (height, width)
    obj = random_object(shape, rng=np.random.default_rng(seed))
    assert obj.shape == shape and np.isfinite(obj).all()
    assert 0 < np.abs(obj).max() <= 1 + 1e-12
    np.testing.assert_array_equal(obj, random_object(shape, rng=np.random.default_rng(seed)))


# --- probes


@pytest.mark.parametrize("kind", PROBES)
@law
@given(n=even_sizes, modes=st.integers(1, 6))
def test_probes_have_unit_power_in_orthogonal_modes(kind: str, n: int, modes: int) -> None:
    probe = make_probe(kind, n=n, modes=modes)
    assert probe.shape == (modes, n, n) and np.isfinite(probe).all()
    flat = probe.reshape(modes, -1)
    powers = MODE_DECAY ** np.arange(modes)
    np.testing.assert_allclose(flat @ flat.conj().T, np.diag(powers / powers.sum()), atol=1e-9)
    np.testing.assert_array_equal(probe, make_probe(kind, n=n, modes=modes))


@pytest.mark.parametrize("kind", [kind for kind in PROBES if kind not in FULL_FIELD])
@law
@given(n=st.integers(16, 40).map(lambda half: 2 * half))
def test_far_field_probes_have_a_dark_rim(kind: str, n: int) -> None:
    light = np.square(np.abs(make_probe(kind, n=n)[0]))
    rim = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    assert rim.max() < 0.1 * light.max()
    assert rim.mean() < 0.2 * light.mean()


@pytest.mark.parametrize("kind", FULL_FIELD)
@law
@given(n=st.integers(12, 40).map(lambda half: 2 * half), modes=st.integers(1, 6))
def test_full_field_probes_light_the_whole_window_smoothly_across_its_edges(kind: str, n: int, modes: int) -> None:
    probe = make_probe(kind, n=n, modes=modes)
    light = np.square(np.abs(probe)).sum(0)
    rim = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    assert rim.mean() > 0.3 * light.mean()
    assert light[: n // 2].sum() > 0.3 and light[n // 2 :].sum() > 0.3
    for axis in (-2, -1):
        steps = np.square(np.abs(probe - np.roll(probe, 1, axis))).sum((0, -1 if axis == -2 else -2))
        assert steps[0] < 2 * steps.max() and steps[0] < 4 * steps.mean()
    spectrum = np.square(np.abs(np.fft.fft2(probe))).sum(0)
    wave = np.hypot(*np.meshgrid(np.fft.fftfreq(n, 1 / n), np.fft.fftfreq(n, 1 / n), indexing="ij"))
    assert spectrum[wave < 24].sum() > 0.9 * spectrum.sum()


@law
@given(n=even_sizes, seed=seeds)
def test_the_probes_that_pretraining_sees_are_finite_bright_and_narrower_than_the_window(n: int, seed: int) -> None:
    probe = random_probe(n, rng=np.random.default_rng(seed))
    assert probe.shape == (n, n) and np.isfinite(probe).all()
    assert np.square(np.abs(probe)).sum() > 0
    assert 1 < width_px(probe[None]) < n
    np.testing.assert_array_equal(probe, random_probe(n, rng=np.random.default_rng(seed)))


# --- scan paths


@pytest.mark.parametrize("path", SCAN_PATHS)
@law
@given(count=st.integers(2, 300), step=st.floats(0.5, 20), aspect=st.floats(0.3, 3), seed=seeds)
def test_paths_stop_as_often_as_asked_at_different_places_and_scale_with_the_step(
    path: str, count: int, step: float, aspect: float, seed: int
) -> None:
    def stops(seed: int, step: float) -> np.ndarray:
        return SCAN_PATHS[path](count, step_px=step, aspect=aspect, rng=np.random.default_rng(seed))

    places = stops(seed, step)
    assert places.shape == (count, 2) and places.dtype == np.float64 and np.isfinite(places).all()
    assert len(np.unique(places, axis=0)) == count
    np.testing.assert_array_equal(places, stops(seed, step))
    np.testing.assert_allclose(2 * places, stops(seed, 2 * step), rtol=1e-12)
    assert np.array_equal(places, stops(seed + 1, step)) == (path != "random")


# --- photons


@pytest.mark.parametrize("near", [None, NearFieldGeometry(1e-3)])
@law
@given(exponent=st.floats(1, 5), modes=st.integers(1, 3), seed=seeds)
def test_noise_is_poissons_about_the_expected_counts_of_the_asked_dose(
    near: NearFieldGeometry | None, exponent: float, modes: int, seed: int
) -> None:
    rng, photons = np.random.default_rng(seed), 10**exponent
    obj, positions = OBJECTS["grf"]((51, 63), rng=rng), rng.uniform(20, 30, (12, 2))
    probe = make_probe("defocus" if near is None else "full-field", n=32, modes=modes)
    exact, noisy = (
        acquire(obj, probe, positions=positions, photons=photons, noise=noise, rng=rng, near=near)
        for noise in (False, True)
    )
    expected, counts = (np.square(scan.amplitude, dtype=np.float64) for scan in (exact, noisy))
    assert exact.realised_photons == pytest.approx(photons, rel=1e-5)
    assert np.square(np.abs(exact.probe)).sum() > photons * 0.9  # an object lets no more light through than there is
    np.testing.assert_array_equal(exact.probe, noisy.probe)
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-2)
    total = expected.sum()
    assert abs(counts.sum() - total) < 6 * np.sqrt(total) + 1
    lit = expected > 1e-3
    spread = (np.square(counts - expected)[lit] / expected[lit]).mean()  # 1 for Poisson, variance (2 + 1/λ)/n
    error = np.sqrt((2 + 1 / expected[lit]).sum()) / lit.sum()
    assert abs(spread - 1) < 8 * error
