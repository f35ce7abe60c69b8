"""Figures of an evaluation: what they say, that nothing overlaps, that curves can be told apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.axis import Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from monai_vfx.analysis.evaluation.calibration_curve import calibration_summary
from monai_vfx.analysis.evaluation.decision_curve import decision_curve
from monai_vfx.analysis.evaluation.discrimination import auroc, auroc_json
from monai_vfx.analysis.evaluation.figures import (
    calibration_figure,
    decision_figure,
    incidence_figure,
    roc_data,
    roc_panels,
)
from monai_vfx.analysis.evaluation.forest import auroc_forest, forest_figure
from monai_vfx.analysis.evaluation.incidence import cumulative_incidence
from monai_vfx.outputs.report.figures import save_figure

NAMES = (
    "image, bone",
    "image, bone + muscle",
    "clinical A",
    "clinical B",
    "clinical C",
    "clinical D",
    "FRAX major osteoporotic",
    "FRAX hip",
    "one too many",
)


def panel(title, n, count):
    rng = np.random.default_rng(n)
    x = rng.normal(size=n)
    y = rng.random(n) < 1 / (1 + np.exp(1 - x))
    curves = []
    for number, name in enumerate(NAMES[:count]):
        score = x + rng.normal(size=n) * (0.7 + 0.2 * number)
        curves.append(roc_data(name, y, score, auroc_json(auroc(y, score))))
    return {"title": title, "curves": curves}


def risks(count):
    rng = np.random.default_rng(3)
    x = rng.normal(size=300)
    y = rng.random(300) < 1 / (1 + np.exp(2 - x))
    return y, {
        name: 1 / (1 + np.exp(2 - x * (0.5 + 0.2 * number)))
        for number, name in enumerate(NAMES[:count])
    }


def incidence():
    rng = np.random.default_rng(4)
    time = np.round(np.minimum(rng.exponential(12, 200), rng.uniform(2, 8, 200)), 1)
    return cumulative_incidence(time, rng.integers(0, 3, 200))


def forest_row(variable, value, area, note=None):
    ci = None if area is None else [area - 0.07, area + 0.07]
    return {
        "variable": variable,
        "value": value,
        "n": 1250,
        "events": 160,
        "auroc": area,
        "ci": ci,
        "note": note,
    }


FOREST = [
    forest_row("sex", "female", 0.72),
    forest_row("sex", "male", 0.44),
    forest_row("scanner", "Philips Brilliance 64, second site", None, "fewer than 5 fractures"),
]


LONG = "image_bone_muscle_resnext50_attention_gru_seed_3_without_augmentation"


def renamed(rows):
    """The first of some named rows under a very long name."""
    first, *rest = rows
    return {LONG: rows[first]} | {name: rows[name] for name in rest}


def calibrations(count):
    y, named = risks(count)
    return {name: calibration_summary(y, risk) for name, risk in named.items()}


def decisions(count):
    y, named = risks(count)
    return {name: decision_curve(y, risk) for name, risk in named.items()}


FIGURES = {
    "roc, two panels of eight": lambda: roc_panels(
        [panel("Development", 400, 8), panel("External", 300, 8)]
    ),
    "roc, one curve": lambda: roc_panels([panel("External", 300, 1)]),
    "calibration, five": lambda: calibration_figure(calibrations(5)),
    "calibration, one": lambda: calibration_figure(calibrations(1)),
    "decision, eight": lambda: decision_figure(decisions(8)),
    "roc, long name": lambda: roc_panels(
        [{"title": LONG, "curves": [row | {"name": LONG} for row in panel("", 300, 1)["curves"]]}]
    ),
    "calibration, long name": lambda: calibration_figure(renamed(calibrations(3))),
    "decision, long name": lambda: decision_figure(renamed(decisions(2))),
    "forest, long name": lambda: forest_figure([forest_row("", LONG, 0.7), *FOREST]),
    "incidence": lambda: incidence_figure(incidence()),
    "forest": lambda: forest_figure(FOREST),
    "forest of scores": lambda: auroc_forest(
        {curve["name"]: curve for curve in panel("External", 300, 8)["curves"]}
    ),
}


def texts(figure):
    """All words that are drawn, as (text, box in pixels, points)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    # Ticks outside the axes, and of axes without any, keep labels that are never drawn.
    unseen = {label for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
    for axes in figure.axes:
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            unseen -= {
                tick.label1
                for tick in axis.get_major_ticks()
                if min(limits) <= tick.get_loc() <= max(limits)
            }
        if not axes.get_visible():
            unseen |= set(axes.findobj(Text))
    return [
        (text.get_text(), text.get_window_extent(renderer), text.get_fontsize())
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and text not in unseen
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_words_are_large_enough_apart_and_inside(name):
    figure = FIGURES[name]()
    found = texts(figure)
    assert len(found) > 5
    width, height = figure.canvas.get_width_height()
    for text, box, points in found:
        assert points >= 7, text
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text
    for (one, a, _), (other, b, _) in combinations(found, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        down = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert not (across > 1 and down > 1.5), f"{one!r} on {other!r}"


@pytest.mark.parametrize("name", ["roc, one curve", "forest", "incidence"])
def test_same_figure_same_bytes(name, tmp_path):
    first = save_figure(FIGURES[name](), tmp_path / "a")
    second = save_figure(FIGURES[name](), tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_curve_looks_the_same_in_both_panels_and_unlike_the_others():
    external = panel("External", 300, 8)
    external["curves"] = external["curves"][::-1][:5]
    figure = roc_panels([panel("Development", 400, 8), external])
    looks = []
    for axes in figure.axes[:2]:
        lines, labels = axes.get_legend_handles_labels()
        looks.append(
            {
                label.rsplit(":", 1)[0]: (line.get_color(), str(line._dash_pattern))
                for line, label in zip(lines, labels, strict=True)
            }
        )
    assert len(set(looks[0].values())) == 8
    assert len({dash for _, dash in looks[0].values()}) == 8
    assert looks[1].items() <= looks[0].items()


def test_roc_states_auroc_interval_and_patients():
    data = panel("External", 300, 2)
    axes = roc_panels([data]).axes[0]
    low, high = data["curves"][0]["auroc_ci"]
    labels = axes.get_legend_handles_labels()[1]
    value = data["curves"][0]["auroc"]
    assert labels[0] == f"image, bone: {value:.3f} ({low:.3f} to {high:.3f})"
    assert axes.get_title("left") == f"{data['curves'][0]['events']} fractures of 300 patients"
    data["curves"][1]["n"] = 290
    axes = roc_panels([data]).axes[0]
    assert axes.get_legend_handles_labels()[1][1].endswith("of 290")
    assert "see legend" in axes.get_title("left")


def test_calibration_draws_every_bin_and_says_what_is_not_estimable():
    found = calibrations(1)["image, bone"]
    found |= {"slope": None, "slope_ci": None, "ici": None}
    axes = calibration_figure({"x": found}).axes[0]
    points = axes.lines[1].get_xydata()
    assert points.tolist() == [[row["predicted"], row["observed"]] for row in found["bins"]]
    assert "slope not estimable" in axes.get_title("left")
    assert "ICI not estimable" in axes.get_title("left")
    assert axes.get_xlabel() == "predicted risk"
    assert calibration_figure({"x": found | {"kind": "score"}}).axes[0].get_xlabel() == (
        "score, not a risk"
    )


def test_decision_says_whose_patients_are_all_treated():
    curves = decisions(2)
    first, second = curves
    labels = decision_figure(curves).axes[0].get_legend_handles_labels()[1]
    assert labels == ["treat nobody", "treat everybody", first, second]
    curves[second] = [row | {"treat_all": row["treat_all"] - 0.1} for row in curves[second]]
    labels = decision_figure(curves).axes[0].get_legend_handles_labels()[1]
    assert labels[1] == f"treat everybody\n(patients of {first})"


def test_incidence_gives_patients_at_risk_below_the_years():
    curve = incidence()
    axes = incidence_figure(curve).axes[0]
    left = dict(zip(curve["times"], curve["at_risk"], strict=True))
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[0] == "0\n200"
    assert len(labels) > 2
    assert all(
        label == f"{float(label.split()[0]):.0f}\n{left[float(label.split()[0])]}"
        for label in labels
    )


def test_incidence_of_a_short_follow_up():
    figure = incidence_figure(cumulative_incidence([0.2, 0.4, 0.4], [0, 1, 2]))
    assert figure.axes[0].get_xticklabels()[0].get_text() == "0\n3"


def test_forest_keeps_a_group_without_an_auroc():
    words = [text for text, *_ in texts(forest_figure(FOREST))]
    assert "fewer than 5 fractures" in words
    assert words.count("160 of 1250") == 3
    assert words.count("scanner") == 1
    assert "0.440 (0.370 to 0.510)" in words


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: roc_panels([]), "0 entries"),
        (lambda: roc_panels([{"title": "a", "curves": []}]), "with curves"),
        (lambda: roc_panels([panel("a", 300, 9)]), "9 curves"),
        (lambda: calibration_figure({}), "0 entries"),
        (lambda: decision_figure({}), "0 curves"),
        (lambda: forest_figure([]), "empty"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
