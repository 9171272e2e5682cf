"""The benchmark's picture, of made-up results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from ptycho_torch.commands.benchmark import COLUMNS, MARKERS, _draw, _two_blocks


def results(**rows: int) -> dict[str, dict]:
    rng = np.random.default_rng(0)

    def scores() -> dict[str, float]:
        return {"amplitude_psnr_db": rng.uniform(10, 40), "phase_psnr_db": rng.uniform(10, 40)}

    return {
        f"{group}, row {row}, of {count}": {column: scores() for column in COLUMNS}
        for group, count in rows.items()
        for row in range(count)
    }


def test_the_picture_shows_every_column_and_grows_with_the_rows(tmp_path: Path) -> None:
    made = {"few": results(dose=2), "many": results(dose=6, overlap=5, size=3, measured=2)}
    made["few"]["dose, no truth"] = {column: {} for column in COLUMNS}
    sizes = {}
    for name, rows in made.items():
        _draw(rows, tmp_path / f"{name}.png")
        image = imread(tmp_path / f"{name}.png")[..., :3]
        sizes[name] = image.shape[:2]
        for column, (_, colour) in MARKERS.items():
            near = np.abs(image - to_rgb(colour)).max(axis=-1) < 0.02
            assert near.sum() > 30, (name, column)
    assert sizes["many"][0] > sizes["few"][0] and sizes["many"][1] == 2 * sizes["few"][1]


def test_two_blocks_keep_the_order_and_are_about_equally_high() -> None:
    groups = {name: dict.fromkeys(range(count)) for name, count in zip("abcdefg", (10, 7, 3, 5, 4, 3, 3), strict=True)}
    first, second = _two_blocks(groups)
    assert first + second == list("abcdefg")
    assert abs(sum(len(groups[name]) for name in first) - sum(len(groups[name]) for name in second)) <= 5
    assert _two_blocks({"a": {0: None}}) == (["a"], [])
