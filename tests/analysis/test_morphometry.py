"""Heights of analytic bodies on any grid; ratios, cuts, grades, normal values; tables."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from monai_vfx.analysis.morphometry.agreement import reader_agreement
from monai_vfx.analysis.morphometry.heights import measure_body, measure_heights
from monai_vfx.analysis.morphometry.normals import (
    GENANT,
    MIN_N,
    PAPER,
    Normal,
    NormalValues,
    fit_normals,
    load_normals,
    trim,
)
from monai_vfx.analysis.morphometry.ratios import HEIGHTS, RATIOS, add_ratios, ratios_of
from monai_vfx.analysis.morphometry.readings import read_heights, write_heights
from monai_vfx.analysis.morphometry.rules import (
    classify,
    genant_grade,
    incident_fractures,
    patient_statuses,
)
from monai_vfx.core.errors import SettingError
from monai_vfx.core.schemas import violations
from monai_vfx.core.tables import FaultyTable

LEVELS = ("T12", "L1", "L2", "L3", "L4")
ALL = ("T11", *LEVELS)
DEPTH, WIDTH = 32.0, 44.0
AT = (0.925, 0.5, 0.075)  # middles of the anterior, middle and posterior 15 % of the depth


def grid_points(shape, affine):
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def box_grid(spacing, order=(0, 1, 2), flips=(1, 1, 1), shift=(0.0, 0.0, 0.0), oblique=None):
    """Return shape and affine of a 66 mm cube around the origin; axes permuted, flipped, turned."""
    edges = np.zeros((3, 3))
    shape = []
    for axis, world in enumerate(order):
        edges[world, axis] = spacing[world] * flips[world]
        shape.append(int(66 / spacing[world]))
    if oblique is not None:
        edges = oblique.as_matrix() @ edges
    affine = np.eye(4)
    affine[:3, :3] = edges
    affine[:3, 3] = np.asarray(shift) - edges @ ((np.array(shape) - 1) / 2)
    return tuple(shape), affine


def wedge(anterior, posterior, turn, shape, affine, centre=(0.0, 0.0, 0.0)):
    """Rasterise a body whose height runs linearly from the front to the back wall."""
    place = turn.inv().apply((grid_points(shape, affine) - centre).reshape(-1, 3))
    height = posterior + (anterior - posterior) * (place[:, 1] / DEPTH + 0.5)
    inside = (np.abs(place[:, 0]) < WIDTH / 2) & (np.abs(place[:, 1]) < DEPTH / 2)
    return (inside & (np.abs(place[:, 2]) < height / 2)).reshape(shape)


def expected(anterior, posterior):
    return np.array([posterior + (anterior - posterior) * share for share in AT])


def measured(body):
    return np.array([body.anterior_mm, body.middle_mm, body.posterior_mm])


def turned(x, y=0.0, z=0.0):
    return Rotation.from_euler("xyz", [x, y, z], degrees=True)


@pytest.mark.parametrize(
    "grid",
    [
        {},
        {"order": (2, 0, 1)},
        {"flips": (-1, -1, -1)},
        {"order": (1, 2, 0), "flips": (1, -1, -1)},
        {"oblique": turned(4, 3, -6)},
        {"shift": (0.3, -0.2, 0.4)},
    ],
    ids=["plain", "permuted", "flipped", "permuted and flipped", "oblique", "shifted"],
)
def test_a_tilted_wedge_is_measured_on_any_grid(grid):
    shape, affine = box_grid((0.8, 0.9, 1.0), **grid)
    body = wedge(20.0, 28.0, turned(18, 6, 8), shape, affine)
    found = measure_body(body, affine)
    np.testing.assert_allclose(measured(found), expected(20.0, 28.0), atol=0.5)
    # The axis is the bisector of the endplates, wherever the grid's axes run.
    assert found.up @ turned(18, 6, 8).apply([0, 0, 1]) > np.cos(np.radians(1.5))
    # Lines run from the lower to the upper endplate, the anterior one in front.
    assert (found.lines[:, 1] - found.lines[:, 0]) @ found.up == pytest.approx(measured(found))
    assert found.lines[0, 0, 1] > found.lines[1, 0, 1] > found.lines[2, 0, 1]


def test_a_biconcave_body_has_a_low_middle():
    shape, affine = box_grid((1.0, 1.0, 1.0))
    place = grid_points(shape, affine)
    height = 18.0 + 8.0 * (place[..., 1] / (DEPTH / 2)) ** 2
    body = (np.abs(place[..., 0]) < 22) & (np.abs(place[..., 1]) < 16)
    body &= np.abs(place[..., 2]) < height / 2
    share = 0.85  # middle of the outer bands, of the half depth
    np.testing.assert_allclose(
        measured(measure_body(body, affine)),
        [18 + 8 * share**2, 18.0, 18 + 8 * share**2],
        atol=0.6,
    )


@pytest.mark.parametrize(
    ("step", "height_sd", "ratio_sd"), [(1.0, 0.3, 0.02), (2.5, 0.8, 0.055), (5.0, 1.8, 0.10)]
)
def test_error_grows_with_the_slices_and_stays_below_the_limits(step, height_sd, ratio_sd):
    rng = np.random.default_rng(3)
    errors, ratios = [], []
    for _ in range(8):
        anterior, posterior = rng.uniform(18, 30), rng.uniform(24, 32)
        shape, affine = box_grid((0.9, 0.9, step), shift=rng.uniform(-0.5, 0.5, 3) * step)
        turn = turned(rng.uniform(-20, 20), rng.uniform(-8, 8), rng.uniform(-10, 10))
        found = measured(measure_body(wedge(anterior, posterior, turn, shape, affine), affine))
        true = expected(anterior, posterior)
        errors.append(found - true)
        ratios.append(found[0] / found[2] - true[0] / true[2])
    assert np.std(errors, axis=0).max() < height_sd
    assert np.std(ratios) < ratio_sd


def spine(step=1.0, drop=()):
    """Return labels of six upright bodies 30 mm apart, heights known, on a cranially cut grid."""
    shape, affine = (60, 50, int(190 / step)), np.diag([1.0, 1.0, step, 1.0])
    affine[:3, 3] = (-29.5, -24.5, -95.0 + step / 2)
    labels = np.zeros(shape, np.uint8)
    for number, level in enumerate(ALL):
        if level not in drop:
            centre = (0, 0, 75.0 - 30 * number)
            body = wedge(22.0 + number, 24.0, turned(0), shape, affine, centre)
            labels[body] = 18 + number
    return labels, affine


def test_levels_are_measured_or_have_a_reason():
    labels, affine = spine(drop=("L2",))
    labels = labels[:, :, :175]  # the field of view ends within T11
    heights, reasons = measure_heights(labels, affine, cut=("L4",))
    assert set(heights) == {"T12", "L1", "L3"}
    assert reasons == {
        "T11": "cut by the field of view",
        "L2": "not in the mask",
        "L4": "cut by the field of view",
    }
    np.testing.assert_allclose(measured(heights["L3"]), expected(26.0, 24.0), atol=0.5)


def test_what_is_no_body_is_not_measured():
    affine = np.eye(4)
    assert measure_body(np.zeros((9, 9, 9), bool), affine) is None
    assert measure_body(np.ones((40, 30, 3), bool), affine) is None  # 3 mm high
    assert measure_body(np.ones((40, 30, 70), bool), affine) is None  # 70 mm high


# ratios, cuts, grades


def table_of(**heights):
    """Return a table of heights of one case from level=(Ha, Hm, Hp)."""
    rows = [("a", level, *values) for level, values in heights.items()]
    return pd.DataFrame(rows, columns=["case_id", "level", *HEIGHTS])


def healthy(case_id="a", height=25.0):
    return pd.DataFrame([(case_id, level, *[height] * 3) for level in ALL], columns=NAMES)


NAMES = ["case_id", "level", *HEIGHTS]


def judged(frame, normal=GENANT):
    return classify(add_ratios(frame), normal).set_index("level")


def test_ratios_by_hand():
    frame = add_ratios(
        table_of(T11=(20, 21, 22), T12=(21, 22, 24), L1=(24, 23, 30), L4=(20, 20, 25))
    ).set_index("level")
    assert list(frame.index) == list(LEVELS)
    t12 = frame.loc["T12"]
    assert t12["wedge"] == 21 / 24
    assert t12["biconcavity"] == 22 / 24
    assert t12["crush_below"] == 24 / 30
    assert t12["crush_above"] == 24 / 22
    assert frame.loc["L1", "crush_above"] == 30 / 24
    assert np.isnan(frame.loc["L1", "crush_below"])
    assert frame.loc["L2", list(RATIOS)].isna().all()
    assert np.isnan(frame.loc["L4", "crush_above"])
    assert "crush_below" not in ratios_of("L4")


def test_a_missing_neighbour_is_not_assessable_but_a_low_ratio_is_a_fracture_all_the_same():
    heights = healthy()
    heights = heights[heights["level"] != "T11"]
    frame = judged(heights)
    assert frame.loc["T12", "status"] == "not_assessable"
    assert frame.loc["T12", "missing"] == "crush_above"
    assert np.isnan(frame.loc["T12", "grade"])
    assert list(frame["status"][1:]) == ["normal"] * 4  # L4 has no lower neighbour by design
    heights.loc[heights["level"] == "T12", "anterior_mm"] = 15.0
    frame = judged(heights)
    assert frame.loc["T12", ["status", "below", "grade"]].tolist() == ["fractured", "wedge", 2.0]


def test_a_missing_height_of_a_neighbour_reaches_both_sides():
    heights = healthy()
    heights.loc[heights["level"] == "L2", "posterior_mm"] = np.nan
    frame = judged(heights)
    assert list(frame["status"]) == ["normal", *["not_assessable"] * 3, "normal"]
    assert frame.loc["L2", "missing"] == "wedge;biconcavity;crush_below;crush_above"
    assert frame.loc["L1", "missing"] == "crush_below"


def test_the_cut_is_strict_and_three_sd_below_the_mean():
    values = {
        (sex, level, name): Normal(mean, 0.0625)
        for sex, mean in (("all", 1.0), ("F", 0.875))
        for level in LEVELS
        for name in ratios_of(level)
    }
    normal = NormalValues("fitted", values)
    heights = healthy(height=32.0)
    heights.loc[heights["level"] == "L2", "anterior_mm"] = 26.0  # 0.8125, the cut itself
    assert judged(heights, normal).loc["L2", "status"] == "normal"
    heights.loc[heights["level"] == "L2", "anterior_mm"] = 25.99
    row = judged(heights, normal).loc["L2"]
    assert row[["status", "below", "normal_group"]].tolist() == ["fractured", "wedge", "all"]
    assert row["z_wedge"] == pytest.approx((25.99 / 32 - 1) / 0.0625)
    women = judged(heights.assign(sex="F"), normal).loc["L2"]  # their cut is 0.6875
    assert women[["status", "normal_group"]].tolist() == ["normal", "F"]
    men = judged(heights.assign(sex="M"), normal).loc["L2"]
    assert men[["status", "normal_group"]].tolist() == ["fractured", "all"]


def test_the_paper_has_one_cut_of_067():
    assert {round(value.cut, 9) for value in PAPER.values.values()} == {0.67}
    heights = healthy(height=30.0)
    for height, status in ((20.2, "normal"), (20.0, "fractured")):
        heights.loc[heights["level"] == "L3", "middle_mm"] = height
        assert judged(heights, PAPER).loc["L3", "status"] == status


@pytest.mark.parametrize(
    ("ratio", "grade"),
    [(1.2, 0), (0.801, 0), (0.8, 1), (0.751, 1), (0.75, 2), (0.6, 2), (0.599, 3), (0.2, 3)],
)
def test_grades_at_their_borders(ratio, grade):
    assert genant_grade(ratio) == grade


def test_genant_calls_a_crush_against_either_neighbour():
    heights = healthy()
    heights.loc[heights["level"] == "L1", list(HEIGHTS)] = 17.0
    frame = judged(heights)
    assert frame.loc["L1", ["below", "grade"]].tolist() == ["crush_below;crush_above", 2.0]
    assert (frame.drop("L1")["status"] == "normal").all()  # it makes no fracture of its neighbours


def test_patients_sum_up_their_vertebrae():
    ok, broken, unknown = healthy("ok"), healthy("broken"), healthy("unknown")
    broken.loc[2, "anterior_mm"] = 10.0
    broken = broken.drop(index=0)
    unknown.loc[3, "middle_mm"] = np.nan
    frame = patient_statuses(classify(add_ratios(pd.concat([ok, broken, unknown])), GENANT))
    frame = frame.set_index("case_id")
    assert frame["status"].tolist() == ["normal", "fractured", "not_assessable"]
    assert frame["fracture"].tolist()[:2] == [0.0, 1.0]
    assert np.isnan(frame.loc["unknown", "fracture"])
    assert frame.loc["broken", "fractured_levels"] == "L1"
    assert frame.loc["broken", "not_assessable_levels"] == "T12"
    assert frame.loc["broken", "worst_grade"] == 3


def test_incident_fractures_level_by_level():
    def reading(**changes):
        heights = healthy()
        for level, height in changes.items():
            heights.loc[heights["level"] == level, "anterior_mm"] = height
        return classify(add_ratios(heights), GENANT)

    def outcome(first, second):
        frame, patients = incident_fractures(first, second)
        return dict(zip(frame["level"], frame["incident"], strict=True)), patients.iloc[0]

    levels, patient = outcome(reading(L1=15.0), reading(L1=15.0, L3=15.0))
    assert levels == {"T12": "none", "L1": "prevalent", "L2": "none", "L3": "new", "L4": "none"}
    assert patient[["baseline_fracture", "incident_fracture", "new_levels"]].tolist() == [
        1,
        1,
        "L3",
    ]
    _, patient = outcome(reading(L1=15.0), reading(L1=12.0))
    assert (patient["baseline_fracture"], patient["incident_fracture"]) == (1, 0)
    levels, patient = outcome(reading(L2=np.nan), reading(L2=15.0))
    assert levels["L2"] == "not_assessable"
    assert np.isnan(patient["incident_fracture"])
    assert np.isnan(patient["baseline_fracture"])
    levels, patient = outcome(reading(L2=np.nan), reading())
    assert levels["L2"] == "none"  # who has no fracture now has no new one
    assert patient["incident_fracture"] == 0
    _, patient = outcome(reading(), reading(L4=np.nan))
    assert np.isnan(patient["incident_fracture"])


# normal values


def naive_trim(values):
    kept = list(values)
    middle = float(np.median(kept))
    spread = 1.4826 * float(np.median([abs(v - middle) for v in kept]))
    if spread > 0:
        kept = [v for v in kept if abs(v - middle) <= 3 * spread]
    while len(kept) > 1:
        mean = sum(kept) / len(kept)
        sd = (sum((v - mean) ** 2 for v in kept) / (len(kept) - 1)) ** 0.5
        inside = [v for v in kept if abs(v - mean) <= 3 * sd + 1e-12]
        if len(inside) == len(kept):
            break
        kept = inside
    return kept


@given(
    st.integers(1, 80), st.integers(0, 30), st.sampled_from([0.2, 0.5, 0.7]), st.integers(0, 10**6)
)
def test_trimming_agrees_with_plain_loops(n, outliers, low, seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0.95, 0.05, n), rng.normal(low, 0.05, outliers)])
    assert trim(values).tolist() == naive_trim(values.tolist())


def population(n, seed=0, fractured=0, sex=True):
    """Return heights of simulated people; the first ``fractured`` have a wedge at L1."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        size = rng.normal(1.0, 0.06)
        for place, level in enumerate(ALL):
            posterior = (25 + place * 0.6) * size * rng.normal(1, 0.01)
            anterior = posterior * rng.normal(0.93 + 0.02 * place, 0.04)
            if number < fractured and level == "L1":
                anterior = posterior * rng.uniform(0.45, 0.6)
            middle = posterior * rng.normal(0.92, 0.03)
            label = ("F", "M")[number % 2] if sex else np.nan
            rows.append((f"p{number:03d}", level, anterior, middle, posterior, label))
    return pd.DataFrame(rows, columns=[*NAMES, "sex"])


def test_planted_fractures_neither_spoil_the_fit_nor_escape():
    heights = population(300, fractured=30)
    ratios = add_ratios(heights)
    normal = fit_normals(ratios)
    clean = normal.values["all", "L1", "wedge"]
    assert clean.mean == pytest.approx(0.97, abs=0.01)
    assert clean.sd == pytest.approx(0.04, abs=0.006)
    assert clean.trimmed >= 30
    assert clean.n + clean.trimmed == 300
    patients = patient_statuses(classify(ratios, normal)).set_index("case_id")
    planted = [f"p{number:03d}" for number in range(30)]
    assert patients.loc[planted, "fractured_levels"].str.contains("L1").all()
    # Nineteen ratios a patient, each with 0.13 % below 3 SD: 2.5 % by chance.
    assert patients.drop(planted)["fracture"].mean() < 0.06
    assert {key[0] for key in normal.values} == {"all", "F", "M"}


def test_normal_values_need_thirty_a_level():
    few = add_ratios(population(MIN_N - 1))
    with pytest.raises(SettingError, match=r"need 30 .* T12 Ha/Hp: 2\d"):
        fit_normals(few)
    # Enough together but not for either sex: one set for all.
    together = fit_normals(add_ratios(population(50, seed=2)))
    assert {key[0] for key in together.values} == {"all"}


def test_normal_values_go_through_their_file(tmp_path):
    normal = fit_normals(add_ratios(population(90)), simulated=True)
    document = normal.to_json()
    assert violations(document, "normal_values") == []
    path = tmp_path / "normal.json"
    path.write_text(json.dumps(document))
    assert load_normals(path) == normal
    assert load_normals("paper") is PAPER
    assert load_normals("genant") is GENANT
    for preset in (PAPER, GENANT):
        path.write_text(json.dumps(preset.to_json()))
        assert load_normals(path) == preset
    document["values"] = document["values"][1:]
    path.write_text(json.dumps(document))
    with pytest.raises(SettingError, match="lacks all T12 wedge"):
        load_normals(path)
    path.write_text("{}")
    with pytest.raises(SettingError, match="schema"):
        load_normals(path)
    with pytest.raises(SettingError, match="paper, genant"):
        load_normals(tmp_path / "none.json")


# tables


def test_every_fault_of_a_table_is_named(tmp_path):
    path = tmp_path / "heights.csv"
    path.write_text(
        "case_id,level,anterior_mm,middle_mm,posterior_mm,reader,sex\n"
        "a,T12,24.1,23.0,27.0,R1,F\n"
        "a,L1,2.4,23.0,270,R1,F\n"
        "a,L1,24,23,25,R1,F\n"
        'a,L9,24,"23,5",25,R2,M\n'
        ",L2,24,23,n/a,R1,female\n"
        "../x,L3,24,,25,R1,\n"
    )
    with pytest.raises(FaultyTable) as caught:
        read_heights(path)
    found = {(fault.row, fault.column) for fault in caught.value.faults}
    assert found == {
        *((3, "anterior_mm"), (3, "posterior_mm"), (4, "level"), (5, "level"), (5, "middle_mm")),
        *(
            (5, "reader"),
            (5, "sex"),
            (6, "case_id"),
            (6, "posterior_mm"),
            (6, "sex"),
            (7, "case_id"),
        ),
    }
    assert caught.value.code == "cohort_invalid"


def test_a_table_without_its_columns_says_which(tmp_path):
    path = tmp_path / "heights.csv"
    path.write_text("case_id,level,anterior_mm\na,L1,24\n")
    with pytest.raises(FaultyTable, match="middle_mm: the column is missing"):
        read_heights(path)


def test_a_table_comes_back_as_it_was_written(tmp_path):
    heights = population(4)
    heights.loc[3, "middle_mm"] = np.nan
    write_heights(heights, tmp_path / "a.csv")
    back = read_heights(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(
        back[[*NAMES, "sex"]].astype({"level": object}), heights.round(2), check_dtype=False
    )


# agreement


def test_agreement_of_a_reader_with_himself_and_with_another():
    heights = population(40, fractured=12)
    one = classify(add_ratios(heights), GENANT)
    same = reader_agreement(one, one)
    assert same["vertebrae"] == 200
    assert same["fracture"]["value"] == 1
    assert same["grade"]["value"] == 1
    assert same["heights"]["anterior_mm"]["icc"]["value"] == pytest.approx(1)
    shifted = heights.copy()
    shifted[list(HEIGHTS)] += 0.5
    shifted = shifted[~((shifted["case_id"] == "p039") & (shifted["level"] == "L4"))]
    other = reader_agreement(one, classify(add_ratios(shifted), GENANT))
    limits = other["heights"]["posterior_mm"]["limits_mm"]
    assert limits["bias"] == pytest.approx(-0.5)
    assert limits["sd"] == pytest.approx(0, abs=1e-9)
    assert (limits["n"], limits["left_out"]) == (199, 1)
    assert other["fracture"]["left_out"] == 2  # L4 and its upper neighbour


def test_agreement_without_a_value_says_why():
    one = classify(add_ratios(healthy()), GENANT)
    found = reader_agreement(one, one)
    assert found["fracture"]["value"] is None
    assert "same grade" in found["fracture"]["note"]
    stranger = reader_agreement(one, classify(add_ratios(healthy("b")), GENANT))
    assert (stranger["vertebrae"], stranger["only_first"], stranger["only_second"]) == (0, 1, 1)
