"""How close a reconstruction is to a reference object.

The data leave the global phase open, so every comparison removes it; amplitude scale and phase ramp only when asked.
A region is a boolean mask, True = compared; None = everywhere. Pixels outside it have no influence on any number.
All sums are float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage

Scale = Literal["none", "amplitude", "complex"]
INSET_PX = 8
"""Pixels left out on each side of the rectangle of the scan positions, where the illumination is weaker."""
LIT = 0.05
"""A pixel counts as seen when its illumination is at least this fraction of the largest."""


def is_lit(illumination: np.ndarray) -> np.ndarray:
    """Where an object was seen: bool, illumination ≥ 5 % of its largest value."""
    return illumination >= LIT * illumination.max()


def scored_region(positions: np.ndarray, inset: int = INSET_PX) -> tuple[slice, slice]:
    """Rows and columns of the object between the outermost scan positions [n, 2] (y, x), drawn in by `inset` pixels.

    There the summed illumination has almost its full strength. Raises ValueError when nothing is left.
    """
    first = np.ceil(positions.min(axis=0)).astype(int) + inset
    last = np.floor(positions.max(axis=0)).astype(int) - inset
    if (last < first).any():
        span = np.ptp(positions, axis=0).round(1).tolist()
        raise ValueError(f"positions span {span} px, too little for an inset of {inset} px")
    return slice(int(first[0]), int(last[0]) + 1), slice(int(first[1]), int(last[1]) + 1)


# --- alignment ------------------------------------------------------------------------------------------------------


def align(
    recon: np.ndarray,
    truth: np.ndarray,
    *,
    ramp: bool = False,
    scale: Scale = "none",
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """The reconstruction in the gauge of the truth: without global phase and, when asked, without ramp or scale.

    scale: "none" leaves the amplitude alone; "amplitude" multiplies by Σ|recon||truth| / Σ|recon|²; "complex"
    multiplies by the one complex factor Σ recon*·truth / Σ|recon|² that makes |recon − truth|² least. All are
    estimated inside `mask` and applied everywhere.
    """
    z, t = np.asarray(recon, np.complex128), np.asarray(truth, np.complex128)
    inside = _inside(mask, t.shape)
    if ramp:
        slope = phase_ramp(z, t, mask=mask)
        y, x = np.indices(t.shape)
        z = z * np.exp(-1j * (slope[0] * y + slope[1] * x))
    overlap = np.sum(z[inside].conj() * t[inside])
    power = np.sum(np.abs(z[inside]) ** 2)
    z = z * np.exp(1j * np.angle(overlap))
    if scale == "none" or power == 0:
        return z
    shared = np.abs(overlap) if scale == "complex" else np.sum(np.abs(z[inside]) * np.abs(t[inside]))
    return z * (shared / power)


def phase_ramp(recon: np.ndarray, truth: np.ndarray, *, mask: np.ndarray | None = None) -> np.ndarray:
    """Slope (y, x) [rad/px] of the phase of recon over truth.

    The slope k where |Σ c·exp(−i k·r)|, c = recon·truth*, peaks: coarse from an FFT padded to twice the size, which no
    wrapped phase can mislead, then Gauss–Newton on the phase of c weighted by |c|.
    """
    c = np.where(_inside(mask, recon.shape), np.asarray(recon, np.complex128) * np.conj(truth), 0)
    padded = [2 * size for size in c.shape]
    peak = np.unravel_index(np.argmax(np.abs(np.fft.fft2(c, padded))), padded)
    slope = 2 * np.pi * np.array([np.fft.fftfreq(size)[i] for size, i in zip(padded, peak, strict=True)])
    rows, columns = np.nonzero(c)
    values = c[rows, columns]
    weight = np.abs(values)
    if weight.sum() == 0:
        return np.zeros(2)
    r = np.stack([rows, columns]).astype(np.float64)
    r -= (r @ weight / weight.sum())[:, None]
    inertia = (r * weight) @ r.T
    for _ in range(50):
        turned = values * np.exp(-1j * (slope @ r))
        turned = turned * np.exp(-1j * np.angle(turned.sum()))
        step = np.linalg.lstsq(inertia, r @ turned.imag, rcond=None)[0]
        slope = slope + step
        if np.abs(step).max() * max(c.shape) < 1e-12:
            break
    return slope


def wrapped_phase_error(recon: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Phase of recon minus phase of truth, angle(recon · truth*) [rad], in (−π, π]."""
    return np.angle(np.asarray(recon, np.complex128) * np.conj(truth))


def phases(recon: np.ndarray, truth: np.ndarray, *, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Phases [rad] of recon and truth on one branch: truth about its mean phase, recon = truth + wrapped error."""
    t = np.asarray(truth, np.complex128)
    centred = np.angle(t * np.exp(-1j * np.angle(t[_inside(mask, t.shape)].sum())))
    return centred + wrapped_phase_error(recon, truth), centred


# --- images -------------------------------------------------------------------------------------------------------


def psnr(
    recon: np.ndarray, truth: np.ndarray, *, mask: np.ndarray | None = None, data_range: float | None = None
) -> float:
    """Peak signal-to-noise ratio 20·log10(range / RMS error) [dB]; default range: the truth's inside the mask."""
    inside = _inside(mask, truth.shape)
    error = np.sqrt(np.mean((np.asarray(recon, np.float64) - truth)[inside] ** 2))
    peak = _range(truth, inside) if data_range is None else data_range
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(20 * np.log10(np.float64(peak) / error))


def amplitude_psnr(
    recon: np.ndarray, truth: np.ndarray, *, mask: np.ndarray | None = None, data_range: float | None = None
) -> float:
    """PSNR [dB] of |recon| against |truth|; no rescaling."""
    return psnr(np.abs(recon), np.abs(truth), mask=mask, data_range=data_range)


def phase_psnr(
    recon: np.ndarray, truth: np.ndarray, *, mask: np.ndarray | None = None, data_range: float | None = None
) -> float:
    """PSNR [dB] of the phase, error wrapped to (−π, π]; align first."""
    return psnr(*phases(recon, truth, mask=mask), mask=mask, data_range=data_range)


def ssim(
    recon: np.ndarray,
    truth: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    data_range: float | None = None,
    window: int = 7,
) -> float:
    """Mean structural similarity of two real images, flat window of 7 × 7 px, over windows that lie inside the mask.

    Range as in `psnr`. Wang et al., IEEE Trans. Image Process. 13, 600 (2004). NaN when no window fits.
    """
    from skimage.metrics import structural_similarity

    inside = _inside(mask, truth.shape)
    whole_windows = ndimage.binary_erosion(inside, np.ones((window, window)))
    peak = _range(truth, inside) if data_range is None else data_range
    if not whole_windows.any() or peak == 0:
        return float("nan")
    a, b = (np.where(inside, np.asarray(image, np.float64), 0) for image in (recon, truth))
    _, local = structural_similarity(b, a, win_size=window, data_range=peak, full=True)
    return float(local[whole_windows].mean())


def pearson(a: np.ndarray, b: np.ndarray, *, mask: np.ndarray | None = None) -> float:
    """Pearson correlation of two real images; NaN when one is flat. `mask` may be boolean or a weight ≥ 0."""
    weight = np.ones(a.shape) if mask is None else np.asarray(mask, np.float64)
    inside = weight > 0
    w, u, v = weight[inside], np.asarray(a, np.float64)[inside], np.asarray(b, np.float64)[inside]
    u, v = u - np.average(u, weights=w), v - np.average(v, weights=w)
    power = np.sqrt(np.sum(w * u * u) * np.sum(w * v * v))
    tiny = 1e-14 * w.sum() * max(1e-300, np.abs(a[inside]).max() * np.abs(b[inside]).max())
    return float(np.sum(w * u * v) / power) if power > tiny else float("nan")


def band_pass(image: np.ndarray, *, low: float = 1.0, high: float = 12.0, mask: np.ndarray | None = None) -> np.ndarray:
    """Gaussian blur of `low` px minus one of `high` px, both normalised to what lies inside the mask."""
    inside = _inside(mask, image.shape)
    values = np.where(inside, np.asarray(image, np.float64), 0)

    def blurred(sigma: float) -> np.ndarray:
        reach = ndimage.gaussian_filter(inside.astype(np.float64), sigma, mode="constant")
        return ndimage.gaussian_filter(values, sigma, mode="constant") / np.maximum(reach, 1e-12)

    return np.where(inside, blurred(low) - blurred(high), 0)


def band_passed_pearson(
    a: np.ndarray, b: np.ndarray, *, low: float = 1.0, high: float = 12.0, mask: np.ndarray | None = None
) -> float:
    """Pearson correlation of two real images after `band_pass`: structures between `low` and `high` pixels."""
    filtered = (band_pass(image, low=low, high=high, mask=mask) for image in (a, b))
    return pearson(*filtered, mask=mask)


# --- resolution -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RingCorrelation:
    """A Fourier ring correlation; resolutions are half periods 1/(2f) [px]: 1 at Nyquist, and 1 when never crossed."""

    frequency: np.ndarray  # [ring], cycles/px, 0 … 0.5
    curve: np.ndarray  # [ring], −1 … 1
    counts: np.ndarray  # [ring], Fourier samples in the ring
    half_bit: np.ndarray  # [ring], threshold that grants half a bit of information a sample
    half_bit_px: float  # half period at the first crossing of the half-bit curve
    one_seventh_px: float  # half period at the first crossing of 1/7


def fourier_ring_correlation(a: np.ndarray, b: np.ndarray) -> RingCorrelation:
    """Re Σ A·B* / √(Σ|A|² Σ|B|²) on rings of the spectra A, B of two complex images.

    The mean is taken off and a Hann window applied. Rectangles are used whole: rings are circles in cycles/px,
    1/min(H, W) wide, up to Nyquist (ellipses in Fourier indices). Crossings are sought from ring 2 on, on the mean of
    three rings, and interpolated. Half-bit curve: van Heel & Schatz, J. Struct. Biol. 151, 250 (2005), with
    n = the samples of a ring; it is meant for two independent halves, and is kind when one image is noise-free.
    """
    height, width = a.shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    side = min(height, width)
    ring = np.rint(frequency * side).astype(int).ravel()
    rings = side // 2 + 1

    def summed(values: np.ndarray) -> np.ndarray:
        return np.bincount(ring, values.ravel(), minlength=rings)[:rings]

    first, second = _windowed_spectrum(a), _windowed_spectrum(b)
    power = np.sqrt(summed(np.abs(first) ** 2) * summed(np.abs(second) ** 2))
    curve = np.divide(summed((first * second.conj()).real), power, out=np.zeros(rings), where=power > 0)
    counts = np.bincount(ring, minlength=rings)[:rings]
    root = np.sqrt(np.maximum(counts, 1))
    half_bit = (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)
    centre = np.arange(rings) / side
    return RingCorrelation(
        frequency=centre,
        curve=curve,
        counts=counts,
        half_bit=half_bit,
        half_bit_px=_half_period(centre, curve, half_bit),
        one_seventh_px=_half_period(centre, curve, np.full(rings, 1 / 7)),
    )


def _windowed_spectrum(image: np.ndarray) -> np.ndarray:
    window = np.hanning(image.shape[0] + 2)[1:-1, None] * np.hanning(image.shape[1] + 2)[None, 1:-1]
    values = np.asarray(image, np.complex128)
    return np.fft.fft2(window * (values - np.sum(window * values) / window.sum()))


def _half_period(frequency: np.ndarray, curve: np.ndarray, threshold: np.ndarray) -> float:
    if len(curve) < 4:
        return 1.0
    smooth = np.convolve(np.concatenate([curve[1:2], curve[1:], curve[-1:]]), np.ones(3) / 3, "valid")
    margin = np.concatenate([[np.inf], smooth - threshold[1:]])
    below = np.nonzero(margin[2:] < 0)[0] + 2
    if len(below) == 0:
        return 1.0
    i = int(below[0])
    before = margin[i - 1]
    part = before / (before - margin[i]) if before > 0 else 0.0
    return float(1 / (2 * (frequency[i - 1] + part * (frequency[i] - frequency[i - 1]))))


# --- all together ---------------------------------------------------------------------------------------------------


def compare(
    recon: np.ndarray,
    truth: np.ndarray,
    *,
    ramp: bool = False,
    scale: Scale = "none",
    mask: np.ndarray | None = None,
    data_range: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """All scores of two complex objects [H, W] on the same pixels, after `align`, and what it removed.

    `mask` (bool, or a weight ≥ 0) limits all of them but the ring correlation, which needs the whole rectangle.
    """
    inside = _inside(mask, truth.shape)
    z = align(recon, truth, ramp=ramp, scale=scale, mask=mask)
    phase, true_phase = phases(z, truth, mask=mask)
    amplitude_range, phase_range = data_range or (_range(np.abs(truth), inside), _range(true_phase, inside))
    ring = fourier_ring_correlation(z, truth)
    ramp_removed = phase_ramp(recon, truth, mask=mask) if ramp else np.zeros(2)
    return {
        "amplitude_psnr_db": amplitude_psnr(z, truth, mask=mask, data_range=amplitude_range),
        "phase_psnr_db": phase_psnr(z, truth, mask=mask, data_range=phase_range),
        "amplitude_ssim": ssim(np.abs(z), np.abs(truth), mask=mask, data_range=amplitude_range),
        "phase_ssim": ssim(phase, true_phase, mask=mask, data_range=phase_range),
        **collapse_report(z, truth, mask=mask),
        "band_passed_phase_pearson": band_passed_pearson(phase, true_phase, mask=mask),
        "complex_error": float(np.linalg.norm((z - truth)[inside]) / np.linalg.norm(truth[inside])),
        "amplitude_mean_ratio": float(np.abs(z)[inside].mean() / np.abs(truth)[inside].mean()),
        "frc_half_bit_px": ring.half_bit_px,
        "frc_one_seventh_px": ring.one_seventh_px,
        "frc": {"frequency": ring.frequency, "curve": ring.curve, "half_bit": ring.half_bit, "counts": ring.counts},
        "amplitude_range": amplitude_range,
        "phase_range_rad": phase_range,
        "ssim_window_px": 7,
        "ramp_removed_rad_per_px": [float(slope) for slope in ramp_removed],
        "scale_removed": scale,
    }


def collapse_report(
    obj: np.ndarray, reference: np.ndarray, *, mask: np.ndarray | None = None
) -> dict[str, float | bool]:
    """Whether a reconstruction is flat: standard deviations over the reference's, and Pearson with it; align first.

    `collapsed`: the complex object varies less than a tenth as much as the reference.
    """
    inside = _inside(mask, obj.shape)
    phase, reference_phase = phases(obj, reference, mask=mask)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "amplitude_std_ratio": float(np.std(np.abs(obj)[inside]) / np.std(np.abs(reference)[inside])),
            "phase_std_ratio": float(np.std(phase[inside]) / np.std(reference_phase[inside])),
            "amplitude_pearson": pearson(np.abs(obj), np.abs(reference), mask=mask),
            "phase_pearson": pearson(phase, reference_phase, mask=mask),
            "collapsed": bool(np.std(obj[inside]) < 0.1 * np.std(reference[inside])),
        }


def _inside(mask: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    return np.ones(shape, bool) if mask is None else np.asarray(mask) > 0


def _range(truth: np.ndarray, inside: np.ndarray) -> float:
    return float(np.ptp(np.asarray(truth, np.float64)[inside]))
