"""Wavelengths, and the pixel of the object that a far-field detector gives."""

from __future__ import annotations

import math

HC_EV_M = 1.239841984332e-6
"""h·c [eV m], CODATA 2018."""
ELECTRON_REST_EV = 510998.95
"""m·c² of the electron [eV]."""
HIGHEST_PHOTON_EV = 200e3
"""Above, an energy in a file is that of a storage ring, or of electrons."""


def photon_wavelength(energy_ev: float) -> float:
    """λ = hc/E [m]."""
    return HC_EV_M / energy_ev


def electron_wavelength(voltage: float) -> float:
    """λ = hc/√(eU(eU + 2mc²)) [m], relativistic: 1.97 pm at 300 kV."""
    return HC_EV_M / math.sqrt(voltage * (voltage + 2 * ELECTRON_REST_EV))


def electron_voltage(wavelength_m: float) -> float:
    """U with λ = hc/√(eU(eU + 2mc²)) [V]."""
    momentum = HC_EV_M / wavelength_m
    return momentum**2 / (math.hypot(momentum, ELECTRON_REST_EV) + ELECTRON_REST_EV)


def object_pixel(wavelength_m: float, distance_m: float, detector_pixel_m: float, n: int) -> float:
    """dx = λz/(N·p) [m]: the sampling of the object under a detector of N pixels of p."""
    return wavelength_m * distance_m / (n * detector_pixel_m)
