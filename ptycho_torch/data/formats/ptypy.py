"""ptypy `.ptyd`: chunks of frames, each with its positions and weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ptycho_torch.data.formats import hdf5
from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.errors import DataError

NAME = "ptypy"
DECLARES = Declaration(domain="counts", columns="yx", sign=1, unit="m", mask="1 good")


def sniff(path: Path) -> bool:
    """Whether it holds chunks, and what is told of them."""
    return path.is_file() and hdf5.holds(path, "chunks", "info")


def companions(path: Path) -> list[Path]:
    """All is in one file, or in the files that its links name."""
    return [path]


def read(path: Path) -> Source:
    """The source in all chunks, in the order of their indices."""
    with hdf5.opened(path) as file:
        names = sorted(file["chunks"], key=lambda name: (len(name), name))
        if not names:
            raise DataError(f"{path} ({NAME}): it holds no chunk: the preparation was interrupted")
        broken = [name for name in names if not hdf5.has(file, f"chunks/{name}")]
        if broken:
            link = file["chunks"].get(broken[0], getlink=True)
            raise DataError(
                f"{path} ({NAME}): chunk {broken[0]} is in {getattr(link, 'filename', 'a file')}, which is not there: "
                "copy it beside this file, or run the command in the folder in which it was written"
            )
        parts = [f"chunks/{name}" for name in names]
        kind = hdf5.text(file, "info/propagation") or "farfield"
        if kind != "farfield":
            raise DataError(f"{path} ({NAME}): its propagation is {kind}: only farfield is read")
        frames = hdf5.frames(file, *(f"{part}/data" for part in parts))
        weights = [
            hdf5.array(file, f"{part}/weights", most_bytes=hdf5.LARGEST_PARTS)
            if hdf5.has(file, f"{part}/weights") and file[f"{part}/weights"].ndim > 1
            else None
            for part in parts
        ]
        counts = [file[f"{part}/data"].shape[0] for part in parts]
        about = "meta" if hdf5.has(file, "meta/energy") else "info"
        energy = hdf5.positive(hdf5.number(file, f"{about}/energy"))
        centre = hdf5.array(file, f"{about}/center").ravel() if hdf5.has(file, f"{about}/center") else np.zeros(0)
        sides = hdf5.array(file, f"{about}/psize").ravel() if hdf5.has(file, f"{about}/psize") else np.zeros(0)
        indexes = np.concatenate([hdf5.array(file, f"{part}/indices").ravel() for part in parts])
        return Source(
            path,
            NAME,
            DECLARES,
            frames=frames,
            frame_indexes=indexes,
            position_indexes=indexes,
            positions=np.concatenate([hdf5.array(file, f"{part}/positions").reshape(-1, 2) for part in parts]),
            photon_energy_ev=None if energy is None else energy * 1e3,
            distance_m=hdf5.positive(hdf5.number(file, f"{about}/distance")),
            detector_pixel_m=(float(sides[0]), float(sides[-1]))
            if sides.size in (1, 2) and (sides > 0).all()
            else None,
            beam_centre=(float(centre[0]), float(centre[1])) if centre.size == 2 else None,
            mask=_masks(weights, counts),
        )


def _masks(weights: list[np.ndarray | None], counts: list[int]) -> np.ndarray | None:
    """The weights of all chunks: one mask where they are all the same; a chunk without weights has none masked."""
    some = [weight for weight in weights if weight is not None]
    if not some:
        return None
    shape = some[0].shape[-2:]
    single = some[0].reshape(-1, *shape)[0]
    if len(some) == len(weights) and all((weight == single).all() for weight in some):
        return single
    each = [np.ones(shape) if weight is None else weight for weight in weights]
    return np.concatenate([np.broadcast_to(w, (n, *shape)) for w, n in zip(each, counts, strict=True)])
