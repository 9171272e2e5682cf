"""From a file to an image, a verdict and a report: `refine` with the settings that the scan asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from ptycho_torch.commands.infer import delivered, opened, reconstructed
from ptycho_torch.config import RunConfig
from ptycho_torch.data.geometry import in_pixels
from ptycho_torch.data.scan import Scan
from ptycho_torch.predictors import FLAT, find_predictor
from ptycho_torch.progress import ProgressLine
from ptycho_torch.types import Reconstruction
from ptycho_torch.verdict.orientation import Found, find_orientation

RANKS = {"good": 2, "doubtful": 1, "bad": 0}


def run(config: RunConfig) -> Reconstruction:
    """Reconstruct a scan; while the verdict is not good, free the probe, then find one from the patterns.

    A scan without a probe starts with the last. What is kept has the best verdict, or explains most of the differences
    between the patterns: by those that no step used, a probe from the patterns of the four measured scans would win
    where it is 3 to 9 dB worse.
    """
    return run_on(*opened(config), config)


def run_on(scan: Scan, device: torch.device, config: RunConfig) -> Reconstruction:
    """The same with the scan that was opened."""
    with ProgressLine(quiet=config.quiet) as progress:
        searches = config.searches_orientation
        if searches or (searches is None and not scan.orientation_is_told):
            scan = lying_right(scan, device, progress.say)
        best: Reconstruction | None = None
        for words, changes in _attempts(scan, config):
            if best is not None:
                progress.say(f"the verdict is not good: once more, {words}")
            result = reconstructed(scan, config, progress, device=device, **changes)
            if best is not None:
                progress.say(f"this explains {'more, and is kept' if _rank(result) > _rank(best) else 'less'}")
            best = result if best is None or _rank(result) > _rank(best) else best
            if _rank(best)[0] == RANKS["good"]:
                break
    assert best is not None
    return delivered(best, scan, config)


def orientation_of(scan: Scan, device: torch.device) -> Found:
    """How the positions of a scan lie, as its patterns tell."""
    return find_orientation(find_predictor(FLAT, scan).in_photons(scan), device=device)


def lying_right(scan: Scan, device: torch.device, say: Callable[[str], object]) -> Scan:
    """The scan, its positions as the patterns tell that they lie, which is said."""
    scan = in_pixels(scan)
    found = orientation_of(scan, device)
    say(f"orientation: {found.text}")
    if not found.is_change:
        return scan
    return replace(found.lie.applied(scan), notes=(*scan.notes, found.text))


def _attempts(scan: Scan, config: RunConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is tried in this order: a few words, and the settings that differ."""
    searches = scan.propagation == "far" and config.probe_from == "file"
    if scan.probe_is_guess and searches:
        yield "", {"probe_from": "patterns"}
        return
    yield "", {}
    if not config.probe_update:
        yield "with the probe freed", {"probe_update": True}
    if searches:
        yield "with a probe found from the patterns", {"probe_from": "patterns"}


def _rank(result: Reconstruction) -> tuple[int, float]:
    """How good a result is: its verdict, then the share of the patterns' differences that it explains."""
    assert result.verdict is not None
    return RANKS[result.verdict.status], -float(result.verdict.as_dict()["unexplained"] or 0.0)
