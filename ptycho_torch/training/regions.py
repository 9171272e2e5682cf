"""The regions of an epoch: compact parts of the scan around random patterns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ptycho_torch.data.grouping import compact_region, group_neighbours
from ptycho_torch.data.region import Region
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.subsets import network_subsets


class Anchors(Sampler[int]):
    """Random patterns to build regions around: drawn again for each epoch, by seed and epoch alone."""

    def __init__(self, n_patterns: int, *, regions: int, seed: int) -> None:
        self.n_patterns, self.regions, self.seed, self.epoch = n_patterns, regions, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.regions

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        rounds = -(-self.regions // self.n_patterns)
        drawn = np.concatenate([rng.permutation(self.n_patterns) for _ in range(rounds)])
        return iter(drawn[: self.regions].tolist())


class Regions(Dataset[Region]):
    """The region of `size` patterns around each pattern of (a part of) a scan."""

    def __init__(
        self, scan: Scan, indices: np.ndarray, probe: Tensor, *, size: int, group_size: int = 1, mean_photons: float
    ) -> None:
        self.subsets = 1 if group_size > 1 else network_subsets(scan.positions[indices], probe)
        self.scan, self.indices, self.probe = scan, indices, probe
        self.positions = scan.positions[indices]
        self.size, self.group_size, self.mean_photons = min(size, len(indices)), group_size, mean_photons

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, anchor: int) -> Region:
        return self.of(self.indices[compact_region(self.positions, anchor, self.size)])

    def of(self, chosen: np.ndarray) -> Region:
        """The region of these patterns of the scan."""
        if self.group_size > 1:
            chosen = chosen[group_neighbours(self.scan.positions[chosen], self.group_size).reshape(-1)]
        region = Region(
            self.scan,
            chosen,
            self.probe,
            mean_photons=self.mean_photons,
            subsets=self.subsets,
            batch_size=len(chosen) if self.group_size > 1 else None,
        )
        return region.loaded()


def spread_anchors(positions: np.ndarray, *, size: int, most: int) -> list[int]:
    """Anchors of up to `most` regions, evenly spread over the scan."""
    groups = group_neighbours(positions, min(size, len(positions)))
    picked = groups[np.unique(np.linspace(0, len(groups) - 1, min(most, len(groups))).round().astype(int))]
    centres = positions[picked].mean(1)
    distances = np.square(positions[picked] - centres[:, None]).sum(-1)
    return [int(group[nearest]) for group, nearest in zip(picked, distances.argmin(1), strict=True)]


def as_loader(regions: Regions, sampler: Sampler[int] | list[int], *, workers: int) -> DataLoader[Region]:
    """One region per batch."""
    return DataLoader(regions, batch_size=None, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
