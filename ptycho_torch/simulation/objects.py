"""Test objects: complex transmissions of any rectangular shape, each drawn from a random generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

AMPLITUDE_RANGE = (0.5, 1.0)
PHASE_RANGE_RAD = (-1.0, 1.0)

# Images that come with scikit-image: nothing is downloaded.
NATURAL_IMAGES = (
    "camera", "coins", "moon", "brick", "grass", "gravel", "cell", "text", "page",
    "astronaut", "chelsea", "coffee", "clock", "immunohistochemistry",
)  # fmt: skip


def transmission(absorption: np.ndarray, delay: np.ndarray) -> np.ndarray:
    """Complex transmission of two images in [0, 1]: the first gives amplitude 0.5…1, the second phase −1…1 rad."""
    low, high = AMPLITUDE_RANGE
    first, last = PHASE_RANGE_RAD
    return (low + (high - low) * absorption) * np.exp(1j * (first + (last - first) * delay))


def natural_image(name: str, shape: tuple[int, int]) -> np.ndarray:
    """An image of scikit-image in grey, its centre cropped to the aspect of `shape`, resampled, stretched to [0, 1].

    The darkest and the brightest 1 % saturate, so that single bright pixels do not flatten the rest.
    """
    import skimage.color
    import skimage.data
    import skimage.transform

    image = np.asarray(getattr(skimage.data, name)(), np.float64)
    grey = skimage.color.rgb2gray(image) if image.ndim == 3 else image
    zoom = max(shape[0] / grey.shape[0], shape[1] / grey.shape[1])
    height, width = (max(1, min(size, round(wanted / zoom))) for size, wanted in zip(grey.shape, shape, strict=True))
    top, left = (grey.shape[0] - height) // 2, (grey.shape[1] - width) // 2
    crop = grey[top : top + height, left : left + width]
    small = skimage.transform.resize(crop, shape, anti_aliasing=True)
    return _stretch(np.clip(small, *np.percentile(small, (1, 99))))


def natural(shape: tuple[int, int], *, rng: np.random.Generator) -> np.ndarray:
    """Two different photographs or micrographs, one as amplitude, one as phase."""
    first, second = rng.choice(len(NATURAL_IMAGES), size=2, replace=False)
    return transmission(natural_image(NATURAL_IMAGES[first], shape), natural_image(NATURAL_IMAGES[second], shape))


def lines(shape: tuple[int, int], *, rng: np.random.Generator) -> np.ndarray:
    """Straight bars of random place, direction, width (1…6 px) and strength that add where they cross."""
    from skimage.draw import polygon

    image = np.zeros(shape)
    for _ in range(max(8, round(shape[0] * shape[1] / 600))):
        centre = rng.uniform((0, 0), shape)
        angle, half_length, half_width = rng.uniform(0, np.pi), rng.uniform(15, 60), rng.uniform(0.5, 3)
        along = half_length * np.array([np.sin(angle), np.cos(angle)])
        across = half_width * np.array([np.cos(angle), -np.sin(angle)])
        corners = centre + np.array([along + across, along - across, -along - across, -along + across])
        image[polygon(corners[:, 0], corners[:, 1], shape)] += rng.uniform(0.3, 1)
    image = _stretch(np.minimum(ndimage.gaussian_filter(image, 0.7), 2.5))
    return transmission(1 - image, image)


def dead_leaves(shape: tuple[int, int], *, rng: np.random.Generator) -> np.ndarray:
    """Opaque discs that cover each other, radii 3…40 px with density r⁻³: the edges and scales of natural scenes.

    Where one disc covers all of a small object, the leaves are drawn again.

    Each leaf has its own absorption and its own delay. (Lee, Mumford & Huang, Int. J. Comput. Vis. 41, 35, 2001.)
    """
    from skimage.draw import disk

    smallest, largest, covers = 3.0, 40.0, 4
    mean_area = 2 * np.pi * smallest**2 * np.log(largest / smallest) / (1 - (smallest / largest) ** 2)
    count = round(covers * (shape[0] + 2 * largest) * (shape[1] + 2 * largest) / mean_area)
    uniform = rng.uniform(size=count)
    radii = smallest / np.sqrt(1 - uniform * (1 - (smallest / largest) ** 2))
    centres = rng.uniform((-largest, -largest), (shape[0] + largest, shape[1] + largest), size=(count, 2))
    shades = rng.uniform(size=(count, 2))
    leaves = np.full((2, *shape), 0.5)
    for centre, radius, shade in zip(centres, radii, shades, strict=True):
        rows, columns = disk(tuple(centre), radius, shape=shape)
        leaves[:, rows, columns] = shade[:, None]
    if np.ptp(leaves[0]) == 0:
        return dead_leaves(shape, rng=rng)
    soft = ndimage.gaussian_filter(leaves, (0, 0.6, 0.6))
    return transmission(soft[0], soft[1])


def gaussian_field(shape: tuple[int, int], *, rng: np.random.Generator) -> np.ndarray:
    """Two independent Gaussian random fields with power spectrum ∝ |f|⁻³, cut off at ±3 standard deviations."""
    fields = []
    for _ in range(2):
        frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
        spectrum = np.fft.rfft2(rng.standard_normal(shape))
        field = np.fft.irfft2(spectrum * np.maximum(frequency, 1 / max(shape)) ** -1.5 * (frequency > 0), shape)
        fields.append(np.clip(0.5 + field / (6 * field.std()), 0, 1))
    return transmission(fields[0], fields[1])


def siemens(shape: tuple[int, int], *, rng: np.random.Generator) -> np.ndarray:
    """A Siemens star: 32 spokes broken by ring gaps, off centre and turned at random, edges one pixel soft.

    The signed distance to the nearest spoke edge is ≈ r·sin(spokes·θ)/spokes [px], so the spokes fade to grey where
    they get narrower than a pixel.
    """
    spokes = 32
    centre = np.array(shape) * rng.uniform(0.4, 0.6, size=2)
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.indices(shape) - centre[:, None, None]
    radius = np.hypot(y, x)
    star = np.clip(0.5 + radius * np.sin(spokes * (np.arctan2(y, x) + turn)) / spokes, 0, 1)
    pitch, gap = max(min(shape) / 6, 12.0), 4.0
    from_gap = np.abs((radius + pitch / 2) % pitch - pitch / 2) - gap / 2
    image = star * np.where(radius > pitch / 2, np.clip(0.5 + from_gap, 0, 1), 1)
    return transmission(1 - 0.7 * image, image)


def _stretch(image: np.ndarray) -> np.ndarray:
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else np.full(image.shape, 0.5)


OBJECTS: dict[str, Callable[..., np.ndarray]] = {
    "natural": natural,
    "lines": lines,
    "dead-leaves": dead_leaves,
    "grf": gaussian_field,
    "siemens": siemens,
}
