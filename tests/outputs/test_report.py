from __future__ import annotations

import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from matplotlib.image import imread

from monai_vfx.analysis.evaluation.discrimination import auroc, auroc_json
from monai_vfx.analysis.evaluation.figures import roc_data, roc_panels
from monai_vfx.outputs.report import figures
from monai_vfx.outputs.report.case_page import write_case_page
from monai_vfx.outputs.report.page import data_uri
from monai_vfx.outputs.report.slice_montage import (
    HEAT_COLOURS,
    grey,
    montage,
    png,
    score_caption,
    slice_titles,
)

HEIGHT, WIDTH, SLICES = 24, 36, 14
LEVELS = [level for level in ("T12", "L1", "L2", "L3", "L4") for _ in range(3)][:SLICES]


@pytest.fixture
def image():
    return np.random.default_rng(0).uniform(-1, 1, (HEIGHT, WIDTH, SLICES)).astype(np.float32)


@pytest.fixture
def heat():
    out = np.zeros((HEIGHT, WIDTH, SLICES), np.float32)
    out[2:8, 3:9, 0] = 1.0
    out[10:12, 10:12, 5] = 0.5
    return out


@pytest.fixture
def prediction():
    return {
        "case_id": "case-7",
        "status": "ok",
        "score": 0.614,
        "risk_5y": None,
        "risk_5y_interval": None,
        "calibration": None,
        "simulated_weights": True,
        "model": {
            "bundle": "vertebral_fracture_risk_ct_classification",
            "version": "0.1.0",
            "weights_sha256": "ab12" * 16,
        },
        "levels": ["T12", "L1", "L2", "L3", "L4"],
        "spacing_mm": [0.9, 0.9, 5.0],
        "slices": [
            {
                "index": 90 - 3 * n,
                "sop_instance_uid": f"1.2.3.{n}",
                "level": LEVELS[n],
                "centre_mm": [-1.0, 20.25, 1000.0 - 5 * n],
            }
            for n in range(SLICES)
        ],
        "warnings": [{"code": "level_cut", "message": "T12 touches the top slice"}],
        "refusal": None,
    }


HISTORY = [
    {"epoch": 1, "train_loss": 0.7, "validation_loss": None, "validation_auroc": 0.55},
    {"epoch": 2, "train_loss": 0.6, "validation_loss": 0.65, "validation_auroc": 0.71},
    {"epoch": 3, "train_loss": 0.5, "validation_loss": 0.66, "validation_auroc": 0.69},
]


@pytest.fixture
def roc():
    rng = np.random.default_rng(2)
    y = np.repeat([0, 1], [30, 20])
    score = rng.normal(size=50) + y
    return roc_data("image", y, score, auroc_json(auroc(y, score)))


# pixels


def test_grey_levels_of_tissue():
    hu = np.array([-200.0, -150.0, 150.0, 450.0, 1000.0])
    shown = grey((hu + 200) / 600 - 1)
    assert shown.tolist() == [0, 0, 128, 255, 255]


def test_grey_levels_do_not_depend_on_the_window_of_the_network_s_input():
    hu = np.array([-150.0, 150.0, 450.0])
    for low, high in ((-200.0, 1000.0), (-1000.0, 3000.0), (-150.0, 450.0)):
        image = (hu - low) / (high - low) * 2 - 1
        assert grey(image, (low, high)).tolist() == [0, 128, 255]


def test_heat_opacity_grows_with_the_heat():
    colours = HEAT_COLOURS(np.array([[0.0, 0.5, 1.0]]), bytes=True)
    assert colours[0, :, 3].tolist() == [0, 96, 191]
    assert (colours[..., 0] > 4 * colours[..., 1]).all()  # red


def test_png_round_trip():
    levels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    decoded = imread(BytesIO(png(levels)), format="png")
    np.testing.assert_allclose(decoded[..., 0] * 255, levels, atol=0.01)


# montage


def test_montages_take_each_image_s_own_window(tmp_path):
    """One muscle of 50 HU looks alike, whatever windows its two networks read it through."""
    wide, narrow = (-1000.0, 1000.0), (-200.0, 200.0)
    image, second = (
        np.full((HEIGHT, WIDTH, SLICES), (50 - low) / (high - low) * 2 - 1, np.float32)
        for low, high in (wide, narrow)
    )
    settings = {"second": (second, None), "window_hu": wide, "second_window_hu": narrow}
    picture = imread(montage(image, None, [""] * SLICES, tmp_path / "m.png", **settings))
    levels, counts = np.unique(np.rint(picture[..., 0] * 255), return_counts=True)
    level = round(200 / 600 * 255)
    assert counts[levels == level].sum() > 0.5 * picture[..., 0].size
    assert set(levels[counts > 0.1 * picture[..., 0].size]) == {level, 255}


def test_the_page_takes_each_image_s_own_window(tmp_path, prediction):
    image = np.full((HEIGHT, WIDTH, SLICES), 0.05, np.float32)  # 50 HU of -1000…1000
    second = np.full((HEIGHT, WIDTH, SLICES), 0.25, np.float32)  # 50 HU of -200…200
    page = write_case_page(
        tmp_path / "page.html",
        prediction=prediction,
        image=image,
        second=(second, None),
        window_hu=(-1000.0, 1000.0),
        second_window_hu=(-200.0, 200.0),
    ).read_text()
    encoded = data_uri(png(np.full((HEIGHT, WIDTH), 85, np.uint8)))
    assert page.count(encoded) == 2 * SLICES


def red(picture):
    return (picture[..., 0] > picture[..., 1] + 0.15) & (picture[..., 1] < 0.6)


def test_montage_shows_the_heat_where_it_is(tmp_path, image, heat):
    dark = np.full_like(image[..., :1], -1.0)
    path = montage(dark, heat[..., :1], ["T12"], tmp_path / "one.png")
    picture = imread(path)
    black = np.argwhere(picture[..., :3].max(-1) < 0.1)
    top, left = black.min(0)
    bottom, right = black.max(0)
    rows, columns = np.argwhere(red(picture)[: bottom + 1, : right + 1]).mean(0)
    # Heat fills rows 2-7 of 24 and columns 3-8 of 36: its middle is at 5/24 and 6/36.
    assert (rows - top) / (bottom - top) == pytest.approx(5 / 24, abs=0.02)
    assert (columns - left) / (right - left) == pytest.approx(6 / 36, abs=0.02)


def test_montage_without_heat_has_no_red(tmp_path, image):
    titles = [str(n) for n in range(SLICES)]
    assert not red(imread(montage(image, None, titles, tmp_path / "a.png"))).any()


def test_second_block_makes_the_montage_taller(tmp_path, image, heat):
    titles = [str(n) for n in range(SLICES)]
    square = image[:, :HEIGHT], heat[:, :HEIGHT]
    one = imread(montage(image, heat, titles, tmp_path / "1.png"))
    two = imread(montage(image, heat, titles, tmp_path / "2.png", second=square, caption="x"))
    assert one.shape[1] == two.shape[1]
    assert two.shape[0] > 2 * one.shape[0]


def test_montage_carries_no_text_of_its_own_but_the_library(tmp_path, image):
    path = montage(image, None, [""] * SLICES, tmp_path / "a.png", caption="Score 0.61")
    assert re.findall(rb"tEXt(\w+)", path.read_bytes()) == [b"Software"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((3, 4))}, r"image has the shape \(3, 4\)"),
        ({"image": np.full((3, 4, 14), 40.0)}, r"image must hold finite values in \[-1, 1\]"),
        ({"heat": np.zeros((3, 4, 14))}, r"heat of image has the shape \(3, 4, 14\)"),
        ({"heat": np.full((24, 36, 14), np.nan)}, r"heat of image must hold finite values"),
        ({"titles": ["T12"]}, "titles has 1 entries; image has 14 slices"),
        ({"second": (np.zeros((3, 4, 13)), None)}, "titles has 14 entries; second has 13"),
    ],
)
def test_montage_names_what_does_not_fit(tmp_path, image, heat, change, message):
    arguments = {"image": image, "heat": heat, "titles": ["L1"] * SLICES} | change
    with pytest.raises(ValueError, match=message):
        montage(**arguments, path=tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_titles_and_caption_of_a_prediction(prediction):
    assert slice_titles(prediction)[:2] == ["T12 · slice 90", "T12 · slice 87"]
    assert "simulated weights – not a clinical result" in score_caption(prediction)
    honest = score_caption({**prediction, "simulated_weights": False})
    assert "simulated" not in honest
    assert "not a medical device" in honest


# figures


def test_learning_curve_leaves_gaps_for_what_was_not_measured():
    loss, auroc = figures.learning_curve(HISTORY).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert drawn["training"] == [[1, 0.7], [2, 0.6], [3, 0.5]]
    assert drawn["validation"] == [[2, 0.65], [3, 0.66]]
    assert auroc.lines[0].get_xydata().tolist() == [[1, 0.55], [2, 0.71], [3, 0.69]]
    with pytest.raises(ValueError, match="at least one epoch"):
        figures.learning_curve([])


def test_figure_png_is_a_png():
    picture = imread(
        BytesIO(figures.figure_png(figures.learning_curve(HISTORY), dpi=50)), format="png"
    )
    assert picture.shape[:2] == (185, 240)


# page


class Page(HTMLParser):
    """Tags with their attributes, and the text, of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words = [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def find(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join("".join(self.words).split())


@pytest.fixture
def page(tmp_path, prediction, image, heat, roc):
    path = write_case_page(
        tmp_path / "report.html",
        prediction=prediction,
        image=image,
        heat=heat,
        heat_name="GradCAM, layer3",
        history=HISTORY,
        evaluation=roc,
        roc=roc_panels([{"title": "", "curves": [roc]}]),
        evaluated_on="50 unseen simulated patients",
        facts={"Planted signal": "strong"},
    )
    return Page(path)


def test_page_needs_nothing_else(page):
    assert not page.find("script")
    assert not page.find("link")
    for attributes in page.find("img"):
        assert attributes["src"].startswith("data:image/png;base64,")
    assert re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[^\"]+", "", page.source)) is None
    policy = page.find("meta")[2]
    assert policy["content"].startswith("default-src 'none'")


def test_page_is_readable_by_everyone(page):
    assert page.find("html") == [{"lang": "en"}]
    assert len(page.find("h1")) == 1
    assert all(attributes["alt"].strip() for attributes in page.find("img"))
    targets = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    for attributes in page.find("section"):
        assert attributes["aria-labelledby"] in targets
    for attributes in page.find("a"):
        assert attributes["href"].removeprefix("#") in targets
    assert "width=device-width" in page.find("meta")[1]["content"]


def test_page_shows_every_part(page, roc):
    tiles = [a for a in page.find("img") if a.get("class") == "heat"]
    assert len(tiles) == SLICES
    assert tiles[5]["alt"] == "Heat map on slice 75, level L1: maximum 0.50 of 1"
    assert len(page.find("img")) == 2 * SLICES + 2
    low, high = roc["auroc_ci"]
    for words in (
        "case-7",
        "0.61",
        "T12 touches the top slice",
        "not given: this model has no calibration",
        "0.90 × 0.90 × 5.00 mm",
        "1.2.3.13",
        "20.2",
        "ab12" * 16,
        "Planted signal",
        "Best validation AUROC 0.710 in epoch 2",
        f"AUROC {roc['auroc']:.3f}, 95 % interval {low:.3f} to {high:.3f}, from 20 fractures",
        "Not a medical device.",
    ):
        assert words in page.text, words


def test_page_marks_simulated_weights_only_where_they_are(tmp_path, page, prediction):
    assert "Simulated weights – not a clinical result" in page.text
    assert "this is not clinical accuracy" in page.text
    real = {
        **prediction,
        "simulated_weights": False,
        "risk_5y": 0.123,
        "risk_5y_interval": [0.08, 0.19],
    }
    other = Page(write_case_page(tmp_path / "b.html", prediction=real))
    assert "imulated" not in other.text
    assert "12.3 % (8.0 to 19.0 %)" in other.text
    assert "Not a medical device." in other.text


def test_page_escapes_what_it_is_given(tmp_path, prediction):
    nasty = '<img src=x onerror="alert(1)">'
    prediction["case_id"] = nasty
    prediction["warnings"] = [{"code": "level_cut", "message": nasty}]
    page = Page(write_case_page(tmp_path / "a.html", prediction=prediction, facts={nasty: nasty}))
    assert not page.find("img")
    assert page.text.count(nasty) >= 4


def test_page_of_a_refused_case(tmp_path, prediction):
    refused = {
        **prediction,
        **{"status": "refused", "score": None, "simulated_weights": None, "model": None},
        **{"levels": [], "slices": [], "warnings": [], "spacing_mm": None},
        "refusal": {"code": "mask_empty", "message": "no label", "remedy": "Check the mask."},
    }
    page = Page(write_case_page(tmp_path / "a.html", prediction=refused))
    for words in ("was not accepted", "no label", "What to do: Check the mask.", "mask_empty"):
        assert words in page.text
    assert not page.find("table")


def test_page_with_two_image_classes_names_them(tmp_path, prediction, image, heat):
    page = Page(
        write_case_page(
            tmp_path / "a.html",
            prediction=prediction,
            image=image,
            heat=heat,
            second=(image[:, :HEIGHT], None),
        )
    )
    assert "bone + muscle" in page.text
    assert "bone only" in page.text
    assert len(page.find("img")) == 3 * SLICES


def test_page_says_when_chance_is_not_ruled_out(tmp_path, prediction, roc):
    doubtful = {**roc, "auroc": 0.55, "auroc_ci": [0.44, 0.66]}
    page = Page(write_case_page(tmp_path / "a.html", prediction=prediction, evaluation=doubtful))
    assert "no better than chance has not been ruled out" in page.text


def test_page_rejects_pictures_of_other_slices(tmp_path, prediction, image):
    with pytest.raises(ValueError, match=r"bone \+ muscle has 13 slices; prediction has 14"):
        write_case_page(tmp_path / "a.html", prediction=prediction, image=image[..., :13])
    assert not (tmp_path / "a.html").exists()
