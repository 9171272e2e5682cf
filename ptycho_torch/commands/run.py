"""From a file to an image, a verdict and a report: `refine` with the settings that the scan asks for."""

from __future__ import annotations

from typing import Any

from ptycho_torch.commands.infer import delivered, opened, reconstructed
from ptycho_torch.config import RunConfig
from ptycho_torch.progress import ProgressLine
from ptycho_torch.types import Reconstruction

RANKS = {"good": 2, "doubtful": 1, "bad": 0}


def run(config: RunConfig) -> Reconstruction:
    """Reconstruct a scan; free its probe where the verdict on the first attempt is not good, and keep the better one.

    A scan without a probe starts with one that is found from its patterns. The better of two has the better verdict, or
    explains more of the pixels that no step used.
    """
    scan, device = opened(config)
    changes: dict[str, Any] = {}
    if scan.probe_is_guess and scan.propagation == "far" and config.probe_from == "file":
        changes["probe_from"] = "patterns"
    with ProgressLine(quiet=config.quiet) as progress:
        result = reconstructed(scan, config, progress, device=device, **changes)
        if _rank(result)[0] < RANKS["good"] and not config.probe_update:
            progress.say("the verdict is not good: once more, with the probe freed")
            other = reconstructed(scan, config, progress, device=device, **changes, probe_update=True)
            is_better = _rank(other) > _rank(result)
            progress.say(f"the {'second' if is_better else 'first'} attempt explains more, and is kept")
            result = other if is_better else result
    return delivered(result, scan, config)


def _rank(result: Reconstruction) -> tuple[int, float]:
    """How good a result is: its verdict, then the share of the held-out pixels that it explains."""
    assert result.verdict is not None
    return RANKS[result.verdict.status], float(result.verdict.as_dict()["explained"] or 0.0)
