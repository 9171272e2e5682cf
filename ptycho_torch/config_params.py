"""The settings that ptychodus 1.7 hands over, under the names by which it imports them.

They describe the network of another package. What means something here is read in `ptycho_torch.api.base_api`.
"""

from __future__ import annotations

from typing import Any


class _Settings:
    """Names and plain values, as ptychodus gives them: they can be changed, compared, pickled and written as JSON."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"


class DataConfig(_Settings):
    """Of the patterns: `N` is used."""


class ModelConfig(_Settings):
    """Of the network: `mode` is used."""


class TrainingConfig(_Settings):
    """Of the training: `epochs`, `batch_size`, `learning_rate` and `device` are used."""


class InferenceConfig(_Settings):
    """Of the reconstruction: nothing is used."""


class DatagenConfig(_Settings):
    """Of simulated data: nothing is used."""
