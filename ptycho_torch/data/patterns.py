"""Patterns on their way into memory: in chunks, so that a pass over a scan takes little memory beyond the scan."""

from __future__ import annotations

from collections.abc import Iterator

CHUNK_VALUES = 2**20
"""Pixels that are looked at together, so that a pass over a scan takes little memory beyond the scan."""


def chunks(n_patterns: int, pixels: int) -> Iterator[slice]:
    step = max(1, CHUNK_VALUES // max(1, pixels))
    return (slice(start, start + step) for start in range(0, n_patterns, step))
