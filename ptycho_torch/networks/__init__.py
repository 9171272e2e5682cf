"""Networks that map the patterns of a region to an object canvas."""

from __future__ import annotations

from typing import Any

from torch import nn

from ptycho_torch.networks.cnn import Cnn
from ptycho_torch.networks.unrolled import Unrolled

NETWORKS = ("unrolled", "cnn")


def build_network(name: str, *, n: int, group_size: int, stages: int, sweeps: int, width: int) -> nn.Module:
    """A fresh network of this name for patterns of n × n pixels; `group_size`, patterns per group, is for `cnn`
    only."""
    builders: dict[str, Any] = {
        "unrolled": lambda: Unrolled(stages=stages, sweeps=sweeps, width=width),
        "cnn": lambda: Cnn(n, group_size=group_size),
    }
    return builders[name]()
