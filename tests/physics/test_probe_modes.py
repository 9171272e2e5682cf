"""Incoherent modes of a probe, and sums over probes that are moved by fractions of a pixel."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.physics.probe import gather_shifted, illumination, orthogonal_modes, shift_probe, with_more_modes
from ptycho_torch.simulation import make_probe


@given(st.integers(6, 11), st.integers(1, 3), st.booleans())
def test_gathering_is_the_adjoint_of_shifting(n: int, modes: int, whole: bool) -> None:
    generator = torch.Generator().manual_seed(n)
    probe = torch.randn(modes, n, n, dtype=torch.complex128, generator=generator)
    waves = torch.randn(4, modes, n, n, dtype=torch.complex128, generator=generator)
    fraction = torch.zeros(4, 2) if whole else torch.rand(4, 2, generator=generator) - 0.5
    one = (shift_probe(probe, fraction).conj() * waves).sum()
    other = (probe.conj() * gather_shifted(waves, fraction)).sum()
    assert torch.allclose(one, other)


@given(st.integers(2, 5))
def test_orthogonal_modes_shine_the_same_light_strongest_first(modes: int) -> None:
    probe = torch.randn(modes, 12, 12, dtype=torch.complex128, generator=torch.Generator().manual_seed(modes))
    turned = torch.einsum("mk,kyx->myx", orthogonal_modes(probe), probe)
    overlaps = torch.einsum("myx,kyx->mk", turned, turned.conj())
    power = overlaps.diagonal().real
    assert torch.allclose(overlaps, torch.diag(power).to(overlaps.dtype), atol=1e-9)
    assert (power.diff() <= 1e-9).all()
    assert torch.allclose(illumination(turned), illumination(probe))


def test_added_modes_are_orthogonal_and_take_their_power_from_the_rest() -> None:
    probe = torch.as_tensor(make_probe("defocus", n=32), dtype=torch.complex64)
    more = with_more_modes(probe, 4, power=0.1)
    assert more.shape == (4, 32, 32) and with_more_modes(probe, 1) is probe
    overlaps = torch.einsum("myx,kyx->mk", more, more.conj())
    power = overlaps.diagonal().real / probe.abs().square().sum()
    assert torch.allclose(power, torch.tensor([0.7, 0.1, 0.1, 0.1]), atol=1e-4)
    assert (overlaps - torch.diag(overlaps.diagonal())).abs().max() < 1e-3 * overlaps.abs().max()
