"""The images show the object, in a readable gauge, and the page needs nothing but itself."""

import base64
import io
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread
from skimage import data

from ptycho_torch.report import for_display, write_images, write_report
from ptycho_torch.report.display import colour_limits
from ptycho_torch.report.images import Panel, as_png, draw, montage, object_panels, scale_bar
from ptycho_torch.report.page import headlines, rows
from ptycho_torch.types import Reconstruction

TOP, LEFT, HEIGHT, WIDTH = 7, 4, 30, 46


def sample(shape: tuple[int, int] = (48, 60)) -> np.ndarray:
    rows, columns = shape
    amplitude = 0.6 + 0.4 * data.camera()[100:, 150:][: 4 * rows : 4, : 4 * columns : 4] / 255
    return amplitude * np.exp(1.2j * data.coins()[20:, 10:][: 2 * rows : 2, : 2 * columns : 2] / 255)


def light(shape: tuple[int, int] = (48, 60)) -> np.ndarray:
    weight = np.full(shape, 3.0, np.float32)  # 3 % of the most: not seen
    weight[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH] = 100
    weight[TOP : TOP + 5, LEFT : LEFT + 6] = 0
    return weight


def ramped(obj: np.ndarray, slope: tuple[float, float], offset: float = 0.0) -> np.ndarray:
    y, x = np.indices(obj.shape)
    return obj * np.exp(1j * (slope[0] * y + slope[1] * x + offset))


@pytest.fixture
def reconstruction() -> Reconstruction:
    rng = np.random.default_rng(0)
    return Reconstruction(
        object=sample().astype(np.complex64),
        weight=light(),
        origin=(-3, 12),
        positions=rng.uniform((8, 20), (30, 60), (25, 2)),
        pattern_indices=np.arange(100, 125),
        intensity_scale=9.8821176,
        pixel_size_m=8.3e-9,
    )


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_the_box_holds_the_lit_pixels_and_the_rest_is_nan():
    amplitude, phase, box = for_display(sample(), light())
    assert box == (slice(TOP, TOP + HEIGHT), slice(LEFT, LEFT + WIDTH))
    dark = light()[box] == 0
    assert dark.sum() == 30
    assert np.array_equal(np.isnan(amplitude), dark)
    assert np.array_equal(np.isnan(phase), dark)
    assert amplitude[~dark] == pytest.approx(np.abs(sample()[box])[~dark], rel=1e-6)


def test_the_array_in_memory_is_left_alone():
    obj, weight = ramped(sample(), (0.3, -0.2)).astype(np.complex64), light()
    before, light_before = obj.copy(), weight.copy()
    for_display(obj, weight)
    assert np.array_equal(obj, before)
    assert np.array_equal(weight, light_before)


@pytest.mark.parametrize("slope", [(0.02, -0.01), (0.3, 0.25), (-1.7, 0.9), (2.9, -2.9)])
def test_ramp_and_offset_of_the_phase_do_not_show(slope):
    plain = for_display(sample(), light())
    shown = for_display(ramped(sample(), slope, 2.5), light())
    assert shown.amplitude == pytest.approx(plain.amplitude, abs=1e-6, nan_ok=True)
    assert shown.phase == pytest.approx(plain.phase, abs=1e-4, nan_ok=True)


def test_what_lies_in_the_dark_does_not_tilt_the_image():
    obj = sample()
    spoilt = np.where(light() < 50, 40 * np.exp(1j * np.indices(obj.shape)[0] * 1.1), obj)
    spoilt[0, 0] = np.nan
    assert for_display(spoilt, light()).phase == pytest.approx(for_display(obj, light()).phase, nan_ok=True)


def test_a_phase_without_ramp_is_shown_as_it_is():
    y, x = np.indices((40, 50)) - np.array([19.5, 24.5])[:, None, None]
    phase = 0.8 * np.exp(-(y**2 + x**2) / 60)  # even in y and in x: no plane fits better than a flat one
    shown = for_display(np.exp(1j * phase), np.ones(phase.shape)).phase
    assert shown - shown.mean() == pytest.approx(phase - phase.mean(), abs=1e-5)


def test_a_large_object_loses_the_plane_that_fits_it_best():
    t = np.linspace(-1, 1, 1400)  # shown by blocks of three pixels
    obj = np.exp(0.1j * t**3) * np.ones((4, 1))
    shown = for_display(ramped(obj, (0.7, -0.4)), np.ones(obj.shape)).phase
    plane = 0.1 * 0.6 * t  # ∫t⁴ / ∫t² = 3/5, while the mean gradient is 1
    assert shown == pytest.approx(np.tile(0.1 * t**3 - plane, (4, 1)), abs=1e-3)


def test_an_object_without_known_light_is_shown_whole():
    amplitude, _, box = for_display(sample(), np.zeros((48, 60)))
    assert amplitude.shape == sample()[box].shape == (48, 60)


def test_colours_end_where_the_light_ends_and_ignore_outliers():
    values = np.linspace(0, 1, 2001)
    assert colour_limits(values, np.ones(2001)) == pytest.approx((0.005, 0.995), abs=1e-3)
    spoilt = np.concatenate([values, [1e6, -1e6, np.nan]])
    assert colour_limits(spoilt, np.ones(2004)) == pytest.approx((0.005, 0.995), abs=2e-3)
    dim = np.where(values > 0.5, 1e-6, 1.0)
    assert colour_limits(values, dim)[1] == pytest.approx(0.5, abs=0.01)
    low, high = colour_limits(np.full(9, 2.0), np.ones(9))
    assert low < 2 < high


# --- how it is drawn --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pixel_size_m, width_px, length_m, name",
    [
        (1e-8, 200, 5e-7, "500 nm"),
        (8.3e-9, 200, 2e-7, "200 nm"),
        (1e-7, 40, 1e-6, "1 µm"),
        (2e-8, 1000, 5e-6, "5 µm"),
        (1e-9, 4, 1e-9, "1 nm"),
        (2e-11, 200, 1e-9, "1 nm"),
        (1e-6, 8000, 2e-3, "2 mm"),
        (5e-13, 10, 1e-12, "1 pm"),
    ],
)
def test_the_scale_bar_is_round_and_at_most_a_quarter(pixel_size_m, width_px, length_m, name):
    length_px, text = scale_bar(pixel_size_m, width_px)
    assert length_px * pixel_size_m == pytest.approx(length_m)
    assert length_px <= 0.25 * width_px * (1 + 1e-6)
    assert text == name


def test_a_scale_bar_as_long_as_it_says_is_there_only_when_the_pixel_size_is_known(reconstruction):
    def bars(figure):
        return [patch for patch in figure.axes[0].patches if patch.get_gid() == "scale bar"]

    panel, _ = object_panels(reconstruction)
    figure = draw([panel])
    (bar,) = bars(figure)
    assert [text.get_text() for text in figure.axes[0].texts] == ["50 nm"]
    pixels = figure.axes[0].get_window_extent().width / WIDTH
    assert bar.get_window_extent().width / pixels * 8.3e-9 == pytest.approx(50e-9)
    panel, _ = object_panels(replace(reconstruction, pixel_size_m=None))
    figure = draw([panel])
    assert not bars(figure)
    assert not figure.axes[0].texts
    assert figure.axes[0].get_xlim() == (12 + LEFT - 0.5, 12 + LEFT + WIDTH - 0.5)
    assert figure.axes[0].get_ylim() == (-3 + TOP + HEIGHT - 0.5, -3 + TOP - 0.5)
    assert figure.axes[0].get_xlabel() == "x [px]"


def test_the_png_holds_every_pixel_upright_at_its_grey(reconstruction, tmp_path):
    write_images(tmp_path, reconstruction)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "reconstructed_amplitude.png",
        "reconstructed_phase.png",
    ]
    for name, panel in zip(("amplitude", "phase"), object_panels(reconstruction), strict=True):
        picture = imread(tmp_path / f"reconstructed_{name}.png")[..., :3]
        zoom = 960 // WIDTH
        seen = picture[30 + zoom // 2 :: zoom, 30 + zoom // 2 :: zoom][:HEIGHT, :WIDTH]
        low, high = panel.limits
        known = np.isfinite(panel.image)
        grey = np.clip((panel.image - low) / (high - low), 0, 1)
        assert np.abs(seen[known] - grey[known][:, None]).max() < 1.01 / 255 + 1 / 256
        assert np.ptp(seen[~known], axis=0).max() == 0
        assert np.ptp(seen[~known][0]) > 0.02  # a tint that no grey has
        block = picture[30 + 9 * zoom : 30 + 10 * zoom, 30 + 11 * zoom : 30 + 12 * zoom]
        assert np.ptp(block, axis=(0, 1)).max() == 0


@pytest.mark.parametrize("shape", [(48, 60), (5, 300), (300, 5), (1, 1), (64, 64)])
@pytest.mark.parametrize("pixel_size_m", [None, 3.3e-8])
def test_no_label_is_cut_off_and_the_unit_is_said(shape, pixel_size_m):
    obj = np.ones(shape) * np.linspace(0.5, 1, shape[1])
    weight = np.ones(shape, np.float32)
    reconstruction = Reconstruction(
        obj, weight, (-20, 10000), np.zeros((1, 2)), np.zeros(1, int), 1.0, pixel_size_m=pixel_size_m
    )
    units = ("transmission", "rad")
    for panel, unit in zip(object_panels(reconstruction), units, strict=True):
        figure = draw([panel])
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert drawn.x0 >= 0
        assert drawn.y0 >= 0
        assert drawn.x1 <= width
        assert drawn.y1 <= height
        bar = figure.axes[1]
        assert unit in bar.get_xlabel() + bar.get_ylabel()
        assert max(width, height) * figure.dpi < 1400


def test_a_huge_object_is_shown_smaller():
    figure = draw([Panel(np.zeros((30, 6000)), (0, 1), "amplitude")])
    assert figure.get_size_inches()[0] * figure.dpi < 2600


def test_drawing_twice_gives_the_same_bytes(reconstruction):
    first, second = (as_png(draw(object_panels(reconstruction), title="both")) for _ in range(2))
    assert first == second


def test_a_montage_fills_row_by_row():
    images = np.arange(5.0)[:, None, None] * np.ones((5, 2, 3))
    sheet = montage(images, gap=1)
    assert sheet.shape == (2 * 3 - 1, 3 * 4 - 1)
    assert np.array_equal(sheet[0, [0, 4, 8]], [0, 1, 2])
    assert np.array_equal(sheet[3, [0, 4]], [3, 4])
    assert np.isnan(sheet[3, 8])
    assert np.isnan(sheet[2]).all()


# --- the page ---------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The page as a browser sees it: its tags, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def images(self) -> list[np.ndarray]:
        sources = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        assert all(source.startswith("data:image/png;base64,") for source in sources)
        return [imread(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]


SCORES = {
    "misfit_R": 0.11234,
    "misfit_R_per_pattern": np.zeros(25),
    "n_patterns": 1600,
    "timing": {"reconstruction_s": 2.0, "patterns_per_s": 800.4},
    "coverage": {"illuminated_fraction_of_canvas": 0.613, "photons_per_illuminated_pixel": 1234.5},
    "reference": {
        "amplitude_psnr_db": 28.44,
        "phase_psnr_db": float("nan"),
        "collapsed": False,
        "frc": {"curve": [0] * 9},
    },
}
HOSTILE = '<script>alert(1)</script> & "scan".npz'


@pytest.fixture
def page(reconstruction, tmp_path) -> tuple[str, Page]:
    write_report(
        tmp_path,
        replace(reconstruction, scores=SCORES),
        title=f"Reconstruction of {HOSTILE}",
        scan_facts={"scan": f"/data/{HOSTILE}"},
        bundle_facts={HOSTILE: "<b>x</b>", "intensity scale": "9.882118 (learned, from closed form)"},
        per_pattern_misfit=np.linspace(0.1, 0.2, 25),
        command=f"ptycho-torch infer --test_data '{HOSTILE}'",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def test_what_users_name_is_shown_and_never_run(page):
    _, seen = page
    tags = {tag for tag, _ in seen.tags}
    assert tags.isdisjoint({"script", "b", "iframe", "object", "link"})
    words = "".join(seen.words)
    assert words.count(HOSTILE) == 5  # title, heading, scan, bundle, command
    assert "<b>x</b>" in words
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)


def test_the_page_asks_for_nothing(page):
    text, seen = page
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r"@import|url\(", text)
    for _, attributes in seen.tags:
        assert attributes.keys().isdisjoint({"href", "srcset", "action"})
    assert "default-src 'none'" in text


def test_the_images_come_first_and_are_those_of_the_files(page, reconstruction, tmp_path):
    _, seen = page
    tags = [tag for tag, _ in seen.tags]
    assert tags.index("img") < tags.index("dl") < tags.index("table")
    write_images(tmp_path, reconstruction)
    images = seen.images()
    assert len(images) == 4
    for image, name in zip(images, ("amplitude", "phase"), strict=False):
        assert np.array_equal(image, imread(tmp_path / f"reconstructed_{name}.png"))


def test_the_headlines_are_the_scores(reconstruction):
    scale = {"intensity scale": "9.882118 (learned, from closed form)"}
    shown = {name: (value, note) for name, value, note in headlines(replace(reconstruction, scores=SCORES), scale)}
    assert shown["misfit R"][0] == "0.1123"
    assert shown["patterns"][0] == "1,600"
    assert shown["patterns per second"][0] == "800"
    assert shown["illuminated"][0] == "61.3%"
    assert shown["intensity scale"] == ("9.882118", "learned, from closed form")
    assert shown["object pixel"][0] == "8.3 nm"
    assert shown["amplitude PSNR"][0] == "28.4 dB"
    assert "phase PSNR" not in shown  # not a number
    bare = [name for name, *_ in headlines(replace(reconstruction, pixel_size_m=None), {})]
    assert bare == ["patterns", "intensity scale"]


def test_tables_name_what_is_nested_and_leave_curves_out():
    shown = dict(rows({**SCORES, "origin": (3, np.int64(4)), "seed": None}))
    assert shown["timing · patterns per s"] == "800.4"
    assert shown["reference · collapsed"] == "no"
    assert shown["reference · phase psnr db"] == "—"
    assert shown["origin"] == "3, 4"
    assert shown["seed"] == "—"
    assert not any("curve" in name or "per pattern" in name for name in shown)


def test_the_misfit_map_puts_each_pattern_at_its_place_in_its_colour(reconstruction, tmp_path):
    positions = np.array([[5.0, 20.0], [25.0, 60.0], [30.0, 22.0]])
    recon = replace(reconstruction, positions=positions, pattern_indices=np.array([7, 8, 9]))
    facts = {"title": "map", "scan_facts": {}, "bundle_facts": {}}
    write_report(tmp_path, recon, per_pattern_misfit=np.array([0.1, 0.9, np.nan]), **facts)
    seen = Page((tmp_path / "report.html").read_text())
    dots, weight = seen.images()[2:]
    assert "largest 0.9000 at pattern 8" in "".join(seen.words)
    zoom, left, top = 800 // 60, 30 + 78 + 36, 30
    where = ((positions - recon.origin + 0.5) * zoom + (top, left)).astype(int)
    low, high, unknown = (dots[y, x, :3] for y, x in where)
    assert low == pytest.approx([0.267, 0.005, 0.329], abs=0.01)  # the ends of viridis
    assert high == pytest.approx([0.993, 0.906, 0.144], abs=0.01)
    assert np.array_equal(unknown, dots[top + 2, left + 2, :3])
    write_report(tmp_path, recon, **facts)
    assert len(Page((tmp_path / "report.html").read_text()).images()) == 3
    bright = weight[top + zoom * (TOP + 20), left + zoom * (LEFT + 20), :3]
    assert bright == pytest.approx([0.993, 0.906, 0.144], abs=0.01)


def test_a_report_that_fails_leaves_the_last_one_whole(reconstruction, tmp_path):
    (tmp_path / "report.html").write_text("the last one")
    with pytest.raises(IndexError):
        write_report(
            tmp_path,
            replace(reconstruction, pattern_indices=np.arange(3)),
            title="",
            scan_facts={},
            bundle_facts={},
            per_pattern_misfit=np.linspace(0.1, 0.2, 25),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "the last one"


def test_importing_is_light():
    names = "('torch', 'matplotlib', 'jinja2')"
    modules = "ptycho_torch.report, ptycho_torch.report.patch_statistics"
    code = f"import sys, {modules}; print([m for m in {names} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("side", [16, 100, 148, 241])
def test_a_small_image_is_as_long_as_the_colour_bar_beside_it(side: int) -> None:
    image, bar = draw([Panel(np.zeros((side, side)), (0, 1), "amplitude")], side_px=240).axes
    assert image.get_position().height == pytest.approx(bar.get_position().height)


def test_a_refinement_without_moves_is_not_said_to_show_them(reconstruction, tmp_path) -> None:
    from matplotlib.figure import Figure

    for panels, shows in ((1, False), (2, True)):
        figure = Figure()
        figure.subplots(1, panels)
        write_report(tmp_path, reconstruction, title="", scan_facts={}, bundle_facts={}, refinement=figure)
        text = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "the best one marked" in text and ("refined positions" in text) is shows


def test_names_in_bytes_that_python_cannot_decode_are_shown(reconstruction, tmp_path) -> None:
    name = "ü".encode().decode("ascii", "surrogateescape") + b"\xff".decode("ascii", "surrogateescape")
    write_report(tmp_path, reconstruction, title=f"Reconstruction of {name}", scan_facts={}, bundle_facts={})
    assert "Reconstruction of ü\N{REPLACEMENT CHARACTER}" in (tmp_path / "report.html").read_text(encoding="utf-8")
