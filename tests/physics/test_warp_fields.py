"""Displacement fields that moves have in common, and objects that are warped by them."""

from __future__ import annotations

import pytest
import torch

from ptycho_torch.physics.warp import smooth_field, warp


@pytest.mark.parametrize("shape", [(90, 70), (64, 101)])
def test_a_smooth_field_tells_what_moves_have_in_common(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    positions = torch.rand(600, 2, dtype=torch.float64, generator=generator) * (torch.tensor(shape) - 20) + 10
    waves = torch.stack([torch.sin(positions[:, 0] / 25), torch.cos(positions[:, 1] / 30)], 1)
    noise = 0.3 * torch.randn(waves.shape, dtype=torch.float64, generator=generator)
    found = smooth_field(positions, 0.5 + waves + noise, shape, sigma=6.0)
    assert found.shape == (2, *shape)
    y, x = torch.arange(shape[0])[:, None], torch.arange(shape[1])
    expected = 0.5 + torch.stack([torch.sin(y / 25).expand(shape), torch.cos(x / 30).expand(shape)])
    inner = (slice(None), slice(18, shape[0] - 18), slice(18, shape[1] - 18))
    assert (found - expected)[inner].square().mean().sqrt() < 0.08
    grid = torch.cartesian_prod(torch.arange(0.0, shape[0], 3), torch.arange(0.0, shape[1], 3)).double()
    tilted = smooth_field(grid, grid * torch.tensor([0.1, -0.2]), shape, sigma=6.0)
    assert torch.allclose(tilted[0][inner[1:]], 0.1 * y[inner[1]], atol=0.05)
    assert torch.allclose(tilted[1][inner[1:]], -0.2 * x[inner[2]], atol=0.1)


def test_a_warped_object_keeps_its_patterns_where_positions_go_along() -> None:
    rows, columns = torch.arange(80.0)[:, None], torch.arange(67.0)
    y, x = rows - 2.0, columns + 3.0
    whole = torch.zeros(2, 80, 67)
    whole[0], whole[1] = 2.0, -3.0

    def waves(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.polar(1 + 0.3 * torch.sin(y / 4), 0.5 * torch.cos(x / 3 + y / 7))

    inner = (slice(8, -8), slice(8, -8))
    assert torch.allclose(warp(waves(rows, columns), whole)[inner], waves(y, x)[inner], atol=1e-5)
    bent = torch.stack([torch.sin(columns / 20).expand(80, 67), (rows / 80).expand(80, 67)])
    expected = waves(rows - bent[0], columns - bent[1])
    assert (warp(waves(rows, columns), bent) - expected)[inner].abs().max() < 0.02
