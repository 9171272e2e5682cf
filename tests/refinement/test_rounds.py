"""Rounds: what is planned, and which is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scans import dense_scan

from ptycho_torch.data.scan import Scan
from ptycho_torch.predictors import Predictor, find_predictor
from ptycho_torch.refinement import SCHEDULE, Progress, Unknowns
from ptycho_torch.refinement.rounds import RefinedScan, Round, initial_of, plan_rounds, refined_scan, validation_set_of

FREE, AFFINE = Unknowns(positions="free"), Unknowns(positions="affine")
SHORT = replace(SCHEDULE, search_sweeps=4, near_sweeps=3, fixed_sweeps=3)


def test_rounds_search_positions_then_converge_then_hold_them() -> None:
    plan = plan_rounds(100, FREE, start="network")
    assert [each.sweeps for each in plan] == [30, 20, 20, 30]
    assert [(each.unknowns.positions, each.over_relax) for each in plan] == [
        ("free", False),
        ("free", True),
        ("free", True),
        ("none", False),
    ]
    assert sum(each.sweeps for each in plan_rounds(500, FREE, start="network")) == 500
    assert plan_rounds(69, FREE) == [Round(69, FREE, "flat")]
    assert plan_rounds(500, Unknowns()) == [Round(500, Unknowns(), "flat")]


def test_nothing_is_searched_for_an_affine_map_and_what_was_flat_is_refined_later() -> None:
    assert [each.over_relax for each in plan_rounds(90, AFFINE, start="network")] == [True, True, True, False]
    assert [each.over_relax for each in plan_rounds(90, AFFINE)] == [False, True, True, False]
    assert [each.start for each in plan_rounds(90, FREE)] == ["flat", "refined", "refined", "refined"]


@pytest.mark.parametrize(
    ("sweeps", "rounds"), [(9, [9]), (10, [4, 3, 3]), (16, [4, 3, 3, 3, 3]), (30, [4, 3, 3, 3, 3, 14])]
)
def test_a_schedule_says_how_long_rounds_are(sweeps: int, rounds: list[int]) -> None:
    assert [each.sweeps for each in plan_rounds(sweeps, FREE, schedule=SHORT)] == rounds


def moved_scan() -> Scan:
    scan = dense_scan(positions=144)
    errors = np.random.default_rng(1).normal(scale=0.7, size=scan.positions.shape)
    return replace(scan, positions=scan.positions + errors)


def run(scan: Scan, predictor: Predictor, sweeps: int, unknowns: Unknowns, **options: object) -> RefinedScan:
    chosen, scan = np.arange(len(scan)), predictor.in_photons(scan)
    region = predictor.region(scan, chosen, validation=validation_set_of(scan, chosen, unknowns))
    with torch.inference_mode():
        obj = predictor.model(region)
        return refined_scan(obj, region, predictor, scan, chosen, sweeps=sweeps, unknowns=unknowns, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "kind"), [("flat", "flat"), ("pretrained", "network")])
def test_sweeps_are_counted_over_all_rounds_and_seen_as_transmission(name: str, kind: str) -> None:
    scan, seen, said = moved_scan(), list[Progress](), list[str]()
    predictor = find_predictor(Path(name), scan)
    assert initial_of(predictor) == kind
    found = run(scan, predictor, 10, FREE, schedule=SHORT, on_sweep=seen.append, say=said.append)
    assert [each.sweep for each in seen] == list(range(1, 11)) and {each.sweeps for each in seen} == {10}
    values = found.scores["likelihood_per_pixel"]
    assert len(values) == 11 and found.scores["rounds"] == [4, 3, 3]
    assert seen[1].held_out == values[2]
    assert said.count("the network reconstructs again from the positions found so far") == (
        2 if kind == "network" else 0
    )
    assert [line for line in said if line.startswith("sweep")] == []
    if found.scores["best_sweep"] == 10 and not found.scores["is_combined"]:
        assert torch.equal(seen[-1].obj, found.obj) and seen[-1].origin == found.origin
    assert 0.2 < float(seen[-1].obj.abs().median()) < 2


def test_who_sees_the_sweeps_ends_all_rounds() -> None:
    scan = moved_scan()
    found = run(
        scan, find_predictor(Path("flat"), scan), 10, FREE, schedule=SHORT, on_sweep=lambda seen: seen.sweep == 6
    )
    assert found.scores["rounds"] == [4, 2] and found.scores["sweeps"] == 6


def test_a_refinement_that_gains_nothing_says_so() -> None:
    scan = dense_scan(photons=300)
    predictor, said = find_predictor(Path("flat"), scan), list[str]()
    still = (replace(SCHEDULE.segments[0], steps=((0.0, 0.0),)),)
    slow = replace(SCHEDULE, segments=still, phase_gradient_sweeps=())
    found = run(scan, predictor, 3, Unknowns(), schedule=slow, say=said.append)
    assert found.scores["best_sweep"] == 0
    assert said[-1].startswith("refinement: 3 sweeps did not improve the held-out patterns; the initial object is kept")
