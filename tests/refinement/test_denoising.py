"""The denoiser behind a refinement: its input, when it is kept, and what it gains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run
from hypothesis import given, settings
from hypothesis import strategies as st
from test_refine_command import refine_words, result

from ptycho_torch.data.held_out import pick_validation_set
from ptycho_torch.data.region import Region, on_canvas
from ptycho_torch.data.subsets import refinement_subsets
from ptycho_torch.networks.posterior import CHANNELS, PosteriorMean
from ptycho_torch.networks.pretrained import posterior_mean
from ptycho_torch.physics.low_pass import combine_frequencies
from ptycho_torch.predictors import find_predictor
from ptycho_torch.refinement import Estimate, Refined, Unknowns, refine
from ptycho_torch.refinement.denoising import Denoised, denoise, in_words, network_input, stray_light
from ptycho_torch.simulation.truth import as_region, relative_error
from ptycho_torch.simulation.unseen import simulated


def at_the_truth(photons: float) -> tuple[Region, Refined]:
    """A region and the true object, as if a refinement had ended there."""
    scan = simulated(photons=photons, n=32, positions=100)
    indices, probe = np.arange(len(scan)), torch.from_numpy(scan.probe)
    options = {
        "subsets": refinement_subsets(scan, indices, probe),
        "validation": pick_validation_set(scan.positions, probe),
    }
    region, truth = as_region(scan, **options)
    state = (truth, region.probe, region.positions.clone(), torch.ones(len(region)))
    return region, Refined(*state, start="refined", misfits=[0.0])


class Constant(PosteriorMean):
    """Adds the same transmission `[H, W]` every time, whatever it sees."""

    def __init__(self, value: torch.Tensor, region: Region) -> None:
        super().__init__(width=4)
        self.value = value / region.uniform_transmission

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.value.real, self.value.imag])[None]


@pytest.mark.parametrize("photons", [1e3, 1e5])
def test_the_noise_that_it_looks_at_is_the_noise_of_the_object(photons: float) -> None:
    """σ² is 1/n up to the excess, which is near one where the object explains the counts."""
    region, refined = at_the_truth(photons)
    seen, excess = network_input(region, refined)
    assert seen.shape == (len(CHANNELS), *region.shape) and 0.95 < excess < 1.6
    light = region.illumination()
    bright = light > 0.3 * light.max()
    if photons > 1e4:
        found = refine(region, region.uniform_object(), sweeps=40)
        error = relative_error(found.object, refined.object, bright) * refined.object[bright].abs().square().mean()
        error = error / region.uniform_transmission**2
        assert 0.3 < float(error / seen[4][bright].square().mean()) < 3


def test_the_noise_does_not_depend_on_the_unit_of_the_counts() -> None:
    region, refined = at_the_truth(1e5)
    seen, excess = network_input(region, refined)
    for batch in (batch for part in region._kept or [] for batch in part):
        batch.amplitude.mul_(10)
        batch.probe.mul_(10)
    region.probe.mul_(10)
    brighter, larger = network_input(region, replace(refined, probe=region.probe))
    assert larger == pytest.approx(100 * excess, rel=0.15)
    assert torch.allclose(brighter[4], seen[4], rtol=0.08)


def test_what_held_out_pixels_contradict_is_left_out() -> None:
    region, refined = at_the_truth(1e5)
    truth = refined.object
    wrong = replace(refined, object=truth + 0.1)
    better = denoise(region, wrong, Constant(truth - wrong.object, region))
    assert better.is_kept and torch.allclose(better.refined.object, truth)
    worse = denoise(region, refined, Constant(torch.full_like(truth, 0.1), region))
    assert not worse.is_kept and worse.refined is refined and worse.after > worse.before


def test_without_held_out_patterns_nothing_is_kept() -> None:
    scan = simulated(photons=1e5, n=32, positions=100)
    region, truth = as_region(scan, subsets=1)
    refined = Refined(truth + 0.1, region.probe, region.positions, torch.ones(len(region)), start="refined")
    found = denoise(region, refined, Constant(torch.full_like(truth, -0.1), region))
    assert not found.is_kept and in_words(found) == "denoising: discarded, no pattern is held out to check it"


def test_it_fades_where_there_is_no_noise() -> None:
    changes = []
    for photons in (1e4, 1e9):
        region, refined = at_the_truth(photons)
        noise, turn = network_input(region, refined)[0][4], 1e-4j * refined.object  # which no pattern minds
        found = denoise(region, refined, Constant(turn, region))
        change = (found.refined.object - refined.object).abs()
        assert torch.allclose(change, turn.abs() * (noise / 0.02).clamp(max=1), atol=1e-6)
        changes.append(float((change / turn.abs())[noise < 0.1].mean()))
    assert changes[1] < 0.2 < 0.95 < changes[0]


def test_low_frequencies_come_from_the_sweeps_and_details_from_the_network() -> None:
    """A slow phase that only the last object knows is told; its noise is not."""
    region, refined = at_the_truth(1e5)
    truth, light = refined.object, region.illumination()
    weight = (light / (0.3 * light.max())).clamp(max=1)
    wave = 0.2 * torch.sin(torch.arange(region.shape[0]) / 8)[:, None]
    first = 1.1 * truth * torch.polar(torch.ones_like(wave), wave)
    last = truth * (
        1 + 0.2 * torch.randn(region.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    )
    found = combine_frequencies(first, last, light)
    errors = [float(relative_error(each, truth, weight)) for each in (first, last, found)]
    assert errors[2] < 0.1 * min(errors[:2])
    assert float((weight * (found.abs() - truth.abs())).abs().mean()) < 0.03
    assert torch.allclose(combine_frequencies(first, 2j * first, light), 2j * first, atol=1e-3)


def test_the_candidate_that_explains_held_out_pixels_better_is_taken() -> None:
    region, refined = at_the_truth(1e5)
    off, truth = 0.1 + 0.1j, refined.object
    of_last = Estimate(refined.object, refined.probe, refined.positions, refined.intensities)
    denoiser = Constant(torch.full_like(truth, -off), region)
    fine = 0.05 * torch.randn(region.shape, generator=torch.Generator().manual_seed(2))
    slow = 0.05 * torch.sin(torch.arange(region.shape[0]) / 8)[:, None]
    for details, noise in ((fine, 0 * fine), (slow, fine)):  # what is wrong in the network's object, in the last
        first, last = (off + truth * torch.polar(torch.ones_like(wrong), wrong) for wrong in (details, noise))
        begun = replace(refined, object=last, initial=first, last=replace(of_last, object=last))
        found = denoise(region, begun, denoiser)
        assert found.is_kept
        assert torch.equal(found.refined.object, last - off) == (details is fine)
        free = (Unknowns(probe=True), Unknowns(positions="free"))
        for other in (replace(begun, start="flat"), *(replace(begun, unknowns=unknowns) for unknowns in free)):
            assert torch.equal(denoise(region, other, denoiser).refined.object, last - off)


def test_few_photons_refine_the_low_frequencies_of_the_network_s_object() -> None:
    region, refined, truth, weight, network = refined_from_pretrained(1e3)
    assert refined.initial is not None and refined.last is not None
    found = denoise(region, refined, network).refined
    alone = denoise(region, replace(refined, initial=None), network).refined
    without, with_network = (float(relative_error(one.object, truth, weight)) for one in (alone, found))
    assert 10 * np.log10(without / with_network) > 0.3


@pytest.mark.parametrize(("photons", "least_db"), [(1e3, 0.8), (1e4, 1.0)])
def test_it_comes_nearer_to_the_truth_than_maximum_likelihood(photons: float, least_db: float) -> None:
    region, refined, truth, weight, network = refined_from_pretrained(photons)
    found = denoise(region, refined, network)
    assert found.is_kept
    before, after = (relative_error(one.object, truth, weight) for one in (refined, found.refined))
    assert 10 * float((before / after).log10()) > least_db


def refined_from_pretrained(photons: float) -> tuple[Region, Refined, torch.Tensor, torch.Tensor, PosteriorMean]:
    """Pictures that the training never showed, refined; the truth in the same unit, how much each pixel counts, and
    the denoiser."""
    scan = simulated(photons=photons, positions=196)
    predictor = find_predictor(Path("pretrained"), scan)
    probe, indices = torch.as_tensor(scan.probe), np.arange(len(scan))
    options = {
        "subsets": refinement_subsets(scan, indices, probe),
        "validation": pick_validation_set(scan.positions, probe),
    }
    region = Region(scan, indices, probe, **options).loaded()
    _, truth = as_region(scan, **options)
    with torch.inference_mode():
        obj = on_canvas(predictor.model.network(region), region.origin, region)
        refined = refine(region, obj, sweeps=10, start="network")
    light = region.illumination()
    weight = (light / (0.3 * light.max())).clamp(max=1)
    return region, refined, truth, weight, posterior_mean()


def test_the_command_denoises_and_keeps_what_it_took_out(
    scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in refine_words(scan_file, tmp_path, "--sweeps", 6, "--denoise") if word != "--quiet"]
    assert run(*words) == 0
    arrays, metrics = result(tmp_path)
    assert "denoising: held-out misfit" in capsys.readouterr().out
    before, after = metrics["refinement"]["denoising"]["likelihood_per_pixel"]
    assert np.isfinite([before, after]).all()
    gain = metrics["refinement"]["denoising"]["gain_in_standard_errors"]
    assert metrics["refinement"]["denoising"]["is_kept"] == (gain > -3) == ("undenoised" in arrays)
    if "undenoised" in arrays:
        assert arrays["undenoised"].shape == arrays["object"].shape
        assert 0 < np.abs(arrays["undenoised"] - arrays["object"]).max() < 1
        assert (tmp_path / "denoising.png").stat().st_size > 1000
        assert "Removed by denoising" in (tmp_path / "report.html").read_text()


def test_denoising_needs_a_refinement(scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--test_data", scan_file, "--output_dir", tmp_path, "--denoise"]
    assert run("infer", "--model_path", "pretrained", *words) == 2
    assert "--denoise without --refine" in capsys.readouterr().err


@settings(deadline=None, max_examples=10)
@given(st.floats(0, 3), st.sampled_from([1, 3, 5]))
def test_the_stray_light_is_what_all_patterns_lack(level: float, blur_px: int) -> None:
    """A constant that is added to the counts comes back, and light that is missing is none."""
    region, refined = NOISELESS
    for batch in (batch for part in region._kept or [] for batch in part):
        exact = region.forward.counts(refined.object, batch)
        batch.amplitude.copy_((exact + level).sqrt() * batch.valid)
    found = stray_light(region, refined, blur_px=blur_px)
    assert torch.allclose(found, torch.full_like(found, level), atol=2e-2 + 1e-4 * level)
    brighter = replace(refined, object=1.5 * refined.object)
    dark = region.forward.counts(brighter.object, next(iter(region.batches()))).mean(0) > 20 * (level + 1)
    assert not stray_light(region, brighter, blur_px=1)[dark].any()


NOISELESS = at_the_truth(1e5)


@given(st.floats(0.1, 3), st.floats(0.1, 3), st.floats(-9, 9), st.booleans())
def test_what_a_denoising_did_is_said_in_a_line(before: float, after: float, gain: float, is_kept: bool) -> None:
    found = Denoised(NOISELESS[1], before, after, gain, 1.0, is_kept)
    line = in_words(found)
    assert line.startswith(f"denoising: held-out misfit {before:.5g} -> {after:.5g} per pixel") and "\n" not in line
    assert ("discarded" in line) == (not is_kept)
    assert found.scores()["gain_in_standard_errors"] == gain
