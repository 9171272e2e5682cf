"""The images show the object, in a readable gauge, and the page needs nothing but itself."""

import base64
import io
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.image import imread
from skimage import data

from ptycho_torch.report import for_display, write_images, write_report, write_steps
from ptycho_torch.report.display import FULL_CONTRAST, NOISE_SPAN, colour_limits, photon_noise
from ptycho_torch.report.images import Panel, as_png, draw, montage, object_panels, scale_bar
from ptycho_torch.report.page import curve_of, headlines, probe_plates, rows, tables
from ptycho_torch.report.patterns import difference, most_shown, pattern_rows
from ptycho_torch.report.plates import coloured, in_short, magnification
from ptycho_torch.types import Examples, Reason, Reconstruction, Verdict

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
    "misfit_R_per_pattern": np.linspace(0.1, 0.2, 25),
    "mean_photons_per_pattern": 98765.4,
    "coverage": {"illuminated_fraction_of_canvas": 0.613, "photons_per_illuminated_pixel": 4.4583e7},
}
HOSTILE = '<script>alert(1)</script> & "scan".npz'
PROVENANCE = {
    "ptycho_torch": "1.2.3",
    "model": {"name": f"bundle {HOSTILE}", "facts": {"network": "<b>x</b>", "learning_rate": 0.00123}},
    "intensity_scale": {"value": 9.8821176, "origin": "learned"},
    "settings": {"refine": 20, "denoise": False, "modes": None, "position_correction": "none", "probe_update": True},
    "scan": {"scan": f"/data/{HOSTILE}"},
    "input": {"sha256": "ab" * 32},
}
COMMAND = f"ptycho-torch infer --test_data '{HOSTILE}'"


def page_of(folder, reconstruction, **texts) -> Page:
    write_report(folder, reconstruction, **{"title": "a scan", **texts})
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def words_of(page: Page) -> str:
    return " ".join(" ".join(page.words).split())


@pytest.fixture
def told(reconstruction) -> Reconstruction:
    """A reconstruction with all that a page can show."""
    rng = np.random.default_rng(1)
    counts = rng.poisson(5.0, (3, 16, 16)).astype(np.float32)
    valid = np.ones((3, 16, 16), bool)
    valid[:, 4] = False
    modes = rng.normal(size=(2, 16, 16, 2)) * np.array([2.0, 1.0])[:, None, None, None]
    return replace(
        reconstruction,
        probe=modes.view(np.complex128)[..., 0].astype(np.complex64),
        given_positions=reconstruction.positions + np.array([0.3, 0.4]),
        undenoised=reconstruction.object,
        scores={**SCORES, "refinement": {"likelihood_per_pixel": [4.0, 2.0, 1.0, 2.0], "best_sweep": 2}},
        provenance=PROVENANCE,
        verdict=Verdict("bad", (Reason(f"flipping {HOSTILE} is better", "flip y", "--flip y"), Reason("no overlap"))),
        examples=Examples(("mean of 25", "median (pattern 101)", "worst (pattern 124)"), counts, counts + 1, valid),
    )


@pytest.fixture
def page(told, tmp_path) -> tuple[str, Page]:
    seen = page_of(tmp_path, told, title=f"Reconstruction of {HOSTILE}", notes=[f"note {HOSTILE}"], command=COMMAND)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    return (tmp_path / "report.html").read_text(encoding="utf-8"), seen


def test_what_users_name_is_shown_and_never_run(page):
    _, seen = page
    tags = {tag for tag, _ in seen.tags}
    assert tags.isdisjoint({"script", "b", "iframe", "object", "link"})
    words = "".join(seen.words)
    assert words.count(HOSTILE) == 7  # title, heading, reason, note, scan, bundle, command
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


def test_the_page_says_the_verdict_then_the_numbers_then_shows_the_object(page):
    _, seen = page
    assert [tag for tag, _ in seen.tags if tag in ("h1", "h2", "dl", "img")][:5] == ["h1", "h2", "dl", "h2", "img"]
    words = words_of(seen)
    order = ("Bad", "does not explain", "Flipping", "try --flip y", "No overlap", "field of view", "Phase", "Amplitude")
    order += ("Mode 1 amplitude", "Misfit R", "Illumination", "Mean of 25", "Worst (pattern 124)", "Held-out misfit")
    order += ("Moves", "Removed", "Notes", "Settings", "How to reproduce")
    places = [words.index(word, words.index("Bad")) for word in order]
    assert places == sorted(places)
    assert "0.1123" not in words  # raw scores are in metrics.json


def test_every_image_has_its_words_and_headings_do_not_skip(page):
    _, seen = page
    for tag, attributes in seen.tags:
        assert tag != "img" or attributes["alt"]
        assert tag != "svg" or attributes.get("aria-label") or attributes.get("aria-hidden")
    levels = [int(tag[1]) for tag, _ in seen.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_colours_of_a_verdict_can_be_read(page):
    """Contrast of words on their ground, W3C's WCAG 2.2: at least 4.5, in light and dark."""
    text, _ = page
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", part)) for part in text.split("@media", 2)[:2])

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def contrast(a: str, b: str) -> float:
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    for colours in (light, dark):
        for status in ("good", "doubtful", "bad"):
            assert contrast(colours[status], colours[f"{status}-tint"]) >= 4.5
            assert contrast(colours["ink"], colours[f"{status}-tint"]) >= 4.5
        for ground in ("page", "tile"):
            assert min(contrast(colours[ink], colours[ground]) for ink in ("ink", "soft")) >= 4.5


def test_the_images_are_the_pixels_of_the_object(page, told):
    _, seen = page
    images = seen.images()
    for image, panel in zip((images[0], images[2]), reversed(object_panels(told)), strict=True):
        low, high = panel.limits
        known = np.isfinite(panel.image)
        assert image.shape == (HEIGHT, WIDTH, 4)
        assert np.array_equal(image[..., 3] > 0, known)
        assert (
            np.abs(image[known][:, 0] - np.clip((panel.image[known] - low) / (high - low), 0, 1)).max()
            < 1.01 / 255 + 1 / 256
        )


def test_a_bare_result_has_a_page_without_what_is_not_known(reconstruction, tmp_path):
    seen = page_of(tmp_path, replace(reconstruction, pixel_size_m=None))
    assert len([image for image in seen.images() if image.shape[0] > 1]) == 3  # phase, amplitude, illumination
    for absent in ("Good", "Patterns", "Refinement", "Notes", "Settings", "reproduce", "object pixel", "resolution"):
        assert absent not in words_of(seen)


@pytest.mark.parametrize("status", ["good", "doubtful", "bad"])
def test_a_verdict_is_a_word_and_a_shape_of_its_own(reconstruction, tmp_path, status):
    seen = page_of(tmp_path, replace(reconstruction, verdict=Verdict(status)))
    assert status.capitalize() in seen.words
    shape = [tuple(attributes.values()) for tag, attributes in seen.tags if tag in ("circle", "path")]
    others = {
        word: page_of(tmp_path, replace(reconstruction, verdict=Verdict(word))) for word in ("good", "doubtful", "bad")
    }
    shapes = [[tuple(a.values()) for t, a in other.tags if t in ("circle", "path")] for other in others.values()]
    assert shapes.count(shape) == 1


def test_the_headlines_are_what_one_asks_first(reconstruction):
    scores = {**SCORES, "resolution": {"half_period_px": 1.5, "band_px": [1.25, 2.0]}}
    shown = [tuple(headline) for headline in headlines(replace(reconstruction, scores=scores))]
    assert shown == [
        ("resolution", "12.4 nm", "half period; 1.25 – 2 px"),
        ("field of view", "382 × 249 nm", f"{WIDTH} × {HEIGHT} px"),
        ("object pixel", "8.3 nm", ""),
        ("dose", "98,800", "photons per pattern"),
        ("dose", "4.46 × 10⁷", "photons per object pixel"),
    ]
    bare = [tuple(headline) for headline in headlines(replace(reconstruction, pixel_size_m=None))]
    assert bare == [("field of view", f"{WIDTH} × {HEIGHT} px", "pixel size not known")]


def test_the_origin_names_settings_that_are_on_digests_and_versions(told):
    shown = {name: dict(facts) for name, facts in tables(told)}
    assert shown["Settings"] == {"refine": "20", "probe update": "yes"}
    assert shown["Digest and versions"] == {"scan sha256": "ab" * 32, "ptycho_torch": "1.2.3"}
    assert shown["Model"]["intensity scale"] == "9.882118 (learned)"
    assert "learning rate" not in shown["Model"]


def test_a_fact_is_a_row_in_words():
    shown = rows({"probe_update": True, "probe_mask_sigma": 1.0, "refine": 20, "network": "unrolled"})
    assert shown == [("probe update", "yes"), ("probe mask sigma", "1"), ("refine", "20"), ("network", "unrolled")]


def test_the_misfit_map_puts_each_pattern_at_its_place_in_its_colour(reconstruction, tmp_path):
    positions = np.array([[9.0, 20.0], [25.0, 55.0], [20.0, 30.0], [30.0, 22.0]])
    scores = {"misfit_R_per_pattern": np.array([0.1, 0.9, 0.2, np.nan])}
    recon = replace(reconstruction, positions=positions, pattern_indices=np.arange(7, 11), scores=scores)
    seen = page_of(tmp_path, recon)
    dots, light = (image for image in seen.images()[4:] if image.shape[0] > 1)
    assert "largest 0.9, pattern 8" in words_of(seen)
    zoom = 900 / WIDTH
    corner = np.add(recon.origin, (TOP, LEFT))
    first, second, third, unknown = (dots[y, x] for y, x in ((positions - corner + 0.5) * zoom).astype(int))
    for dot, value in ((first, 0.1), (second, 0.9), (third, 0.2)):
        most = colour_limits(np.array([0.1, 0.9, 0.2, np.nan]), np.ones(4))[1]
        assert dot[:3] == pytest.approx(coloured(np.array([[value]]), (0, most), "viridis")[0, 0, :3] / 255, abs=0.01)
    assert unknown[3] == dots[0, 0, 3] == 0  # the page shows through
    assert light.shape[:2] == (HEIGHT, WIDTH)
    assert light[20, 20, :3] == pytest.approx([0.993, 0.906, 0.144], abs=0.01)  # the end of viridis
    assert light[0, 0, 3] == 0


def test_an_even_misfit_is_shown_in_one_colour(reconstruction, tmp_path):
    scores = {"misfit_R_per_pattern": np.linspace(0.100, 0.101, 25)}
    dots = page_of(tmp_path, replace(reconstruction, scores=scores)).images()[4]
    colours = dots[dots[..., 3] == 1][:, :3]
    centre = coloured(np.array([[0.5]]), (0, 1), "viridis")[0, 0, :3] / 255
    assert np.mean(np.abs(colours - centre).max(1) < 0.02) > 0.5


def test_the_power_of_each_mode_is_said_and_its_phase_is_a_hue(told):
    plates = list(probe_plates(told))
    power = np.square(np.abs(told.probe)).sum((1, 2))
    assert [plate.note for plate in plates[::2]] == [
        f"{share:.3g} % of the power" for share in 100 * power / power.sum()
    ]
    assert [plate.title for plate in plates[1::2]] == ["Mode 1 phase", "Mode 2 phase"]
    wave = np.array([[1, 1j, -1, -1j, 0.5]])
    one = list(probe_plates(replace(told, probe=wave[None])))[1]
    seen = imread(io.BytesIO(base64.b64decode(one.source.partition(",")[2])))[0, :, :3]
    hue = [[1, 0, 0], [0.5, 1, 0], [0, 1, 1], [0.5, 0, 1], [0.5, 0, 0]]
    assert seen == pytest.approx(np.array(hue), abs=0.06)  # 256 hues


def test_differences_are_in_units_of_photon_noise():
    counts = np.random.default_rng(0).poisson(200.0, (64, 64))
    found = difference(counts, np.full((64, 64), 200.0))
    assert found.std() == pytest.approx(1, abs=0.03)
    assert most_shown(found) == 3
    assert most_shown(0.1 * found) == pytest.approx(0.3)
    assert most_shown(np.zeros((4, 4))) == most_shown(np.full((4, 4), np.nan)) == 1


def test_measured_and_predicted_share_a_range_and_masked_pixels_are_grey(told):
    (name, plates), *_ = pattern_rows(told.examples)
    assert name == "mean of 25"
    most = told.examples.predicted[0][told.examples.valid[0]].max()
    assert [plate.colours.high for plate in plates[:2]] == [in_short(most)] * 2
    for plate in plates:
        seen = imread(io.BytesIO(base64.b64decode(plate.source.partition(",")[2])))
        assert seen[4] == pytest.approx(np.tile([0x8C, 0x95, 0x9F, 255], (16, 1)) / 255, abs=1e-3)
    measured = imread(io.BytesIO(base64.b64decode(plates[0].source.partition(",")[2])))
    value = np.log1p(told.examples.measured[0])
    assert np.array_equal(np.rint(255 * measured[5]), coloured(value, (0, np.log1p(most)), "magma")[5])


def test_arrows_are_as_long_as_the_pitch_allows():
    given = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), -1).reshape(-1, 2) * 10
    assert magnification(given, given + np.array([0.03, 0.04])) == 100  # pitch 9, moves 0.05
    assert magnification(given, given + np.array([30, 40])) == 1
    assert magnification(given, given) == 1


def test_the_curve_of_a_refinement_falls_and_marks_its_best():
    curve = curve_of({"likelihood_per_pixel": [4.0, 2.0, 1.0, 2.0], "best_sweep": 2})
    assert curve.points == "0.0,0.0 100.0,90.0 200.0,180.0 300.0,90.0"
    assert (curve.best, curve.last) == (200, 3)
    assert curve.note == "4 → 1, best after 2 of 3 sweeps"
    below = curve_of({"likelihood_per_pixel": [1.0, -2.0, -3.0], "best_sweep": 2})  # an own likelihood
    assert below.points == "0.0,0.0 150.0,135.0 300.0,180.0"
    assert curve_of({}) is None


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (0.0123, "0.0123"),
        (-1.25, "−1.25"),
        (98765.4, "98,800"),
        (999999, "1,000,000"),
        (4.4583e7, "4.46 × 10⁷"),
        (-2e-5, "−2 × 10⁻⁵"),
    ],
)
def test_numbers_are_short(value, text):
    assert in_short(value) == text


def test_a_report_that_fails_leaves_the_last_one_whole(told, tmp_path):
    (tmp_path / "report.html").write_text("the last one")
    with pytest.raises(IndexError):
        write_report(tmp_path, replace(told, pattern_indices=np.arange(3)), title="")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "the last one"


def test_figures_of_steps_that_did_not_happen_are_removed(told, tmp_path):
    history = {**told.scores["refinement"], "rounds": [3]}
    write_steps(tmp_path, replace(told, scores={"refinement": history}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["denoising.png", "refinement.png"]
    write_steps(tmp_path, replace(told, scores={"refinement": history}, undenoised=None))
    assert [path.name for path in tmp_path.iterdir()] == ["refinement.png"]
    (tmp_path / "denoising.png").mkdir()  # not ours
    write_steps(tmp_path, replace(told, scores={}, undenoised=None))
    assert [path.name for path in tmp_path.iterdir()] == ["denoising.png"]


# --- noise is no structure --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photons", [30.0, 1e3, 1e5])
def test_the_noise_of_photons_is_what_a_wave_of_poisson_counts_has(photons):
    rng = np.random.default_rng(0)
    sigma = photon_noise(np.full((200, 200), photons))
    assert sigma == pytest.approx(1 / (2 * np.sqrt(photons)))
    root = np.sqrt(rng.poisson(photons, 40000) / photons)
    assert root.std() == pytest.approx(sigma, rel=0.03)
    assert photon_noise(np.array([np.nan, photons])) == pytest.approx(sigma)
    assert photon_noise(np.zeros(3)) == 0


@pytest.mark.parametrize("photons", [100.0, 1e4])
def test_a_picture_of_nothing_is_even_and_weak_structure_is_seen(photons):
    rng = np.random.default_rng(0)
    sigma, weight = 1 / (2 * np.sqrt(photons)), np.full((64, 64), photons, np.float32)
    noise = sigma * (rng.normal(size=(64, 64)) + 1j * rng.normal(size=(64, 64)))
    weak = np.zeros((64, 64))
    weak[20:40, 20:40] = 3 * sigma

    def contrast(obj: np.ndarray) -> np.ndarray:
        made = Reconstruction(obj, weight, (0, 0), np.zeros((1, 2)), np.zeros(1, int), 1.0)
        panel = object_panels(made)[1]
        assert panel.limits[1] - panel.limits[0] == pytest.approx(min(NOISE_SPAN * sigma, FULL_CONTRAST), rel=0.1)
        return panel.image / (panel.limits[1] - panel.limits[0])

    assert contrast(1 + 0.1 * noise).std() < 0.02
    assert contrast(1 + noise).std() < 0.15
    seen = contrast((1 + noise) * np.exp(1j * weak))
    assert seen[22:38, 22:38].mean() - seen[:16].mean() > 0.2


def test_real_contrast_keeps_its_range_and_no_dose_hides_it(reconstruction):
    shown = for_display(reconstruction.object, reconstruction.weight)
    bright = object_panels(replace(reconstruction, weight=reconstruction.weight * 1e4))
    for panel, image in zip(bright, shown[:2], strict=True):
        assert panel.limits == pytest.approx(colour_limits(image, reconstruction.weight[shown.box]))
    for panel in object_panels(replace(reconstruction, weight=reconstruction.weight * 1e-6)):
        assert np.ptp(panel.limits) <= max(FULL_CONTRAST, np.nanmax(panel.image) - np.nanmin(panel.image)) + 1e-6


def test_importing_is_light():
    names = "('torch', 'matplotlib', 'jinja2')"
    modules = "ptycho_torch.report, ptycho_torch.report.patch_statistics"
    code = f"import sys, {modules}; print([m for m in {names} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("side", [16, 100, 148, 241])
def test_a_small_image_is_as_long_as_the_colour_bar_beside_it(side: int) -> None:
    image, bar = draw([Panel(np.zeros((side, side)), (0, 1), "amplitude")], side_px=240).axes
    assert image.get_position().height == pytest.approx(bar.get_position().height)


def test_positions_that_did_not_move_are_not_shown(told, tmp_path) -> None:
    assert "Moves of the positions" in page_of(tmp_path, told).words
    for given in (None, told.positions + 1e-12):
        assert "Moves of the positions" not in page_of(tmp_path, replace(told, given_positions=given)).words


def test_names_in_bytes_that_python_cannot_decode_are_shown(reconstruction, tmp_path) -> None:
    name = "ü".encode().decode("ascii", "surrogateescape") + b"\xff".decode("ascii", "surrogateescape")
    write_report(tmp_path, reconstruction, title=f"Reconstruction of {name}")
    assert "Reconstruction of ü\N{REPLACEMENT CHARACTER}" in (tmp_path / "report.html").read_text(encoding="utf-8")
