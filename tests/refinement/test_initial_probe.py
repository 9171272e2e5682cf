"""A probe that no file holds."""

from __future__ import annotations

from refinement_cases import refined, region_of
from scans import dense_scan

from ptycho_torch.refinement.initial_probe import search_probe


def test_a_probe_is_found_from_the_patterns_alone() -> None:
    scan = dense_scan(photons=1e7, positions=144)
    found = search_probe(scan)
    assert found.width > 0.4 and found.misfits[found.width] < 0.1 * found.misfits[-found.width]
    start = region_of(scan, found.probe)
    given = refined(region_of(scan), probe=True, sweeps=40)
    alone = refined(start, probe=True, sweeps=40)
    assert min(alone.misfits) < 1.3 * min(given.misfits)
