"""The command: a CT with its mask, a table of heights, and what becomes of faults."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from monai_vfx.analysis.morphometry.chart import ratio_figure
from monai_vfx.analysis.morphometry.figures import sagittal_figure, sagittal_view
from monai_vfx.analysis.morphometry.heights import BodyHeights
from monai_vfx.analysis.morphometry.normals import GENANT
from monai_vfx.analysis.morphometry.ratios import HEIGHTS, RATIOS, add_ratios
from monai_vfx.analysis.morphometry.readings import read_heights
from monai_vfx.analysis.morphometry.rules import classify
from monai_vfx.cli import main
from monai_vfx.core.schemas import violations
from monai_vfx.io.volume import open_volume
from phantoms import grid, make_phantom

ALL = ("T11", "T12", "L1", "L2", "L3", "L4")


def vfx(*arguments):
    return CliRunner().invoke(main, ["morphometry", *(str(a) for a in arguments)])


def only_line(done):
    (line,) = done.stdout.splitlines()
    return json.loads(line)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A phantom in 1.5 mm slices; its bodies are 21 mm high."""
    return make_phantom(*grid((1.0, 1.1, 1.5), (150.0, 140.0, 240.0))).save(
        tmp_path_factory.mktemp("case_id")
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Forty patients; p0's L1 is wedged, p1's T11 is missing."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        for level in ALL:
            posterior = rng.normal(27, 1.0)
            row = posterior * rng.normal([0.95, 0.93, 1.0], [0.03, 0.03, 0.0])
            rows.append((f"p{number}", level, *row, number % 8 == 0))
    frame = pd.DataFrame(rows, columns=["case_id", "level", *HEIGHTS, "fracture"])
    frame["fracture"] = frame["fracture"].astype(int)
    frame.loc[2, "anterior_mm"] = 14.0
    frame = frame.drop(index=6)
    path = tmp_path_factory.mktemp("table") / "heights.csv"
    frame.round(2).to_csv(path, index=False)
    return path


def test_a_case_is_measured_judged_and_drawn(case, tmp_path):
    image, mask = case
    done = vfx(image, "--mask", mask, "--out", tmp_path, "--case-id", "ph")
    assert done.exit_code == 0, done.output
    document = only_line(done)
    assert document == json.loads((tmp_path / "morphometry.json").read_text())
    assert document["vertebrae"] == {"n": 5, "normal": 5, "fractured": 0, "not_assessable": 0}
    heights = read_heights(tmp_path / "heights.csv")  # a table that the command takes again
    assert list(heights["level"]) == list(ALL)
    # A body of 21 mm fills 14 slices of 1.5 mm; endplates fall anywhere within a slice.
    assert heights[list(HEIGHTS)].to_numpy() == pytest.approx(21.0, abs=1.5)
    rows = pd.read_csv(tmp_path / "morphometry.csv")
    assert rows["status"].tolist() == ["normal"] * 5
    assert rows["case_id"].tolist() == ["ph"] * 5
    normal = json.loads((tmp_path / "normal_values.json").read_text())
    assert violations(normal, "normal_values") == []
    assert (tmp_path / "figures" / "patient_0001.png").stat().st_size > 50_000
    again = vfx(tmp_path / "heights.csv", "--out", tmp_path / "again")
    assert only_line(again)["vertebrae"] == document["vertebrae"]


def test_a_mask_is_compared_with_a_reader_and_an_earlier_time(case, tmp_path):
    image, mask = case
    reader = pd.DataFrame([("ph", level, 21.5, 21.5, 21.5) for level in ALL])
    reader.columns = ["case_id", "level", *HEIGHTS]
    reader.to_csv(tmp_path / "reader.csv", index=False)
    reader.assign(case_id="other").to_csv(tmp_path / "other.csv", index=False)
    options = (image, "--mask", mask, "--case-id", "ph", "--out", tmp_path / "out")
    both = ("--second", tmp_path / "reader.csv", "--baseline", tmp_path / "reader.csv")
    document = only_line(vfx(*options, *both))
    limits = document["agreement"]["heights"]["middle_mm"]["limits_mm"]
    assert limits["n"] == 5
    assert limits["bias"] == pytest.approx(-0.5, abs=1.0)
    # The phantom's bodies are all alike and normal: neither kappa nor ICC has a value.
    assert document["agreement"]["fracture"]["value"] is None
    assert "do not differ" in document["agreement"]["heights"]["middle_mm"]["icc"]["note"]
    assert document["incident"]["no_fracture"] == 1
    done = vfx(*options, "--second", tmp_path / "other.csv")
    assert done.exit_code == 2
    assert "no case" in done.stderr


def test_a_level_at_the_edge_makes_its_neighbour_not_assessable(case, tmp_path):
    image, mask = case
    paths = []
    for path in (image, mask):
        whole = nib.load(path)
        top = nib.load(mask).get_fdata() == 18  # T11
        end = int(np.flatnonzero(top.any(axis=(0, 1))).mean())
        paths.append(tmp_path / path.name)
        nib.save(whole.slicer[:, :, :end], paths[-1])
    done = vfx(paths[0], "--mask", paths[1], "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    document = only_line(done)
    assert document["not_measured"] == [{"level": "T11", "reason": "cut by the field of view"}]
    rows = pd.read_csv(tmp_path / "out" / "morphometry.csv", keep_default_na=False)
    assert rows["status"].tolist() == ["not_assessable", *["normal"] * 4]
    assert rows["missing"].tolist()[0] == "crush_above"
    patients = pd.read_csv(tmp_path / "out" / "patients.csv")
    assert patients["fracture"].isna().all()


def test_thick_slices_are_refused_unless_told_otherwise(phantom, tmp_path):
    image, mask = phantom.save(tmp_path)
    done = vfx(image, "--mask", mask, "--out", tmp_path / "out")
    assert done.exit_code == 3
    answer = only_line(done)
    assert answer["refusal"]["code"] == "heights_too_coarse"
    assert "4.0 mm" in answer["refusal"]["message"]
    assert json.loads((tmp_path / "out" / "refused.json").read_text()) == answer
    done = vfx(image, "--mask", mask, "--out", tmp_path / "out", "--allow-thick")
    assert done.exit_code == 0, done.output
    assert "heights_coarse" in [w["code"] for w in only_line(done)["warnings"]]
    assert not (tmp_path / "out" / "refused.json").exists()


def test_a_table_is_judged_by_its_own_normal_values(table, tmp_path):
    done = vfx(table, "--fit-normal", "--out", tmp_path, "--pictures", 2)
    assert done.exit_code == 0, done.output
    document = only_line(done)
    assert document["patients"]["n"] == 40
    assert document["fitted_on"] == {
        "rule": "patients with fracture 0",
        "patients": 35,
        "left_out": 5,
    }
    assert document["normal"] == {"source": "fitted", "patients": 35, "by_sex": False}
    patients = pd.read_csv(tmp_path / "patients.csv", keep_default_na=False).set_index("case_id")
    assert "L1" in patients.loc["p0", "fractured_levels"]
    assert patients.loc["p1", "not_assessable_levels"] == "T12"
    assert document["missing_ratios"]["crush_above"] == 1
    assert document["pictures"] == 2
    assert len(list((tmp_path / "figures").iterdir())) == 2
    # The file serves the next table, with the same verdicts.
    again = vfx(
        table, "--normal", tmp_path / "normal_values.json", "--out", tmp_path / "b", "--pictures", 0
    )
    assert only_line(again)["vertebrae"] == document["vertebrae"]


def test_the_same_table_gives_the_same_bytes(table, tmp_path):
    for name in ("a", "b"):
        vfx(table, "--normal", "paper", "--out", tmp_path / name, "--pictures", 1)
    files = [f.relative_to(tmp_path / "a") for f in (tmp_path / "a").rglob("*") if f.is_file()]
    assert len(files) == 7
    for file in files:
        if file.name != "run.json":
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_second_reader_and_baseline(table, tmp_path):
    frame = pd.read_csv(table)
    frame["anterior_mm"] += 0.3
    frame.to_csv(tmp_path / "second.csv", index=False)
    frame = frame[frame["case_id"] != "p39"]
    frame.loc[frame["case_id"] == "p0", "anterior_mm"] = 26.0
    frame.to_csv(tmp_path / "baseline.csv", index=False)
    done = vfx(
        *(table, "--second", tmp_path / "second.csv", "--baseline", tmp_path / "baseline.csv"),
        *("--out", tmp_path / "out", "--pictures", 0),
    )
    assert done.exit_code == 0, done.output
    document = only_line(done)
    assert document["agreement"]["vertebrae"] == 200
    limits = document["agreement"]["heights"]["anterior_mm"]["limits_mm"]
    assert limits["bias"] == pytest.approx(-0.3)
    incident = document["incident"]
    assert (incident["n"], incident["fracture"], incident["without_baseline"]) == (40, 1, 1)
    patients = pd.read_csv(tmp_path / "out" / "patients.csv").set_index("case_id")
    assert patients.loc["p0", ["incident_fracture", "new_levels"]].tolist() == [1, "L1"]
    assert patients.loc["p2", "incident_fracture"] == 0


def test_the_paper_preset_is_warned_of(table, tmp_path):
    document = only_line(vfx(table, "--normal", "paper", "--out", tmp_path, "--pictures", 0))
    assert [w["code"] for w in document["warnings"]] == ["normal_values_crude"]


def test_faults_are_listed_at_once(tmp_path):
    path = tmp_path / "heights.csv"
    path.write_text("case_id,level,anterior_mm,middle_mm,posterior_mm\na,L1,2,3,x\na,S1,20,20,20\n")
    done = vfx(path, "--out", tmp_path / "out")
    assert done.exit_code == 3
    assert [fault["column"] for fault in only_line(done)["faults"]] == [*HEIGHTS, "level"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mask", "TABLE"], "image only"),
        (["--fit-normal", "--normal", "paper"], "choose one"),
        (["--normal", "eastell"], "paper, genant"),
    ],
)
def test_wrong_use(table, tmp_path, options, words):
    options = [table if option == "TABLE" else option for option in options]
    done = vfx(table, *options, "--out", tmp_path)
    assert done.exit_code == 2
    assert words in done.stderr


def test_one_ct_is_no_normal_population(case, tmp_path):
    done = vfx(case[0], "--mask", case[1], "--fit-normal", "--out", tmp_path)
    assert done.exit_code == 2


# pictures


def body_at(x, y, z):
    lines = np.array([[[x, y + dy, z - 10], [x, y + dy, z + 10]] for dy in (12, 0, -12)])
    return BodyHeights(20.0, 20.0, 20.0, np.array([x, y, z]), np.array([0.0, 0.0, 1.0]), lines)


def test_the_view_shows_front_left_head_up_and_follows_the_bodies(tmp_path):
    # HU says where a voxel lies: 2 z, and 300 off the path of the bodies' middles.
    spacing, shape = np.array([1.5, 2.0, 2.5]), (60, 80, 70)
    affine = np.diag([*-spacing[:2], spacing[2], 1.0])  # stored right to left, front to back
    affine[:3, 3] = (45.0, 80.0, -90.0)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    x, y, z = np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3], -1, 0)
    hu = 2 * z + y + 3 * np.abs(x - z / 10)
    path = tmp_path / "ct.nii"
    nib.save(nib.Nifti1Image(hu.astype(np.float32), affine), path)
    bodies = {"L1": body_at(2.0, 10.0, 20.0), "L2": body_at(-2.0, 8.0, -20.0)}
    view = sagittal_view(open_volume(path), bodies)
    left, right, bottom, top = view.extent
    assert left > right
    assert top > bottom
    row, column = round((top - 5) / 0.5 - 0.5), round((left - 12) / 0.5 - 0.5)
    place = (left - (column + 0.5) * 0.5, top - (row + 0.5) * 0.5)
    assert view.hu[row, column] == pytest.approx(2 * place[1] + place[0], abs=2.5)
    assert np.nanmean(view.hu[: len(view.hu) // 4]) > np.nanmean(view.hu[-len(view.hu) // 4 :])
    assert view.hu[row, 40] > view.hu[row, -40]  # y grows to the front


def words_of(figure):
    texts = [t.get_text() for axes in figure.axes for t in axes.texts]
    return " | ".join([*texts, *(t.get_text() for t in figure.texts)])


def wedged():
    rows = [("secret name", level, *[25.0] * 3) for level in ALL if level != "T11"]
    frame = pd.DataFrame(rows, columns=["case_id", "level", *HEIGHTS])
    frame.loc[frame["level"] == "L1", "anterior_mm"] = 15.0
    return classify(add_ratios(frame), GENANT)


def test_the_picture_says_in_words_what_colours_say(case):
    volume = open_volume(case[0])
    bodies = {level: body_at(44.0, 130.0, -290.0 - 30 * n) for n, level in enumerate(ALL[1:4])}
    figure = sagittal_figure(sagittal_view(volume, bodies), bodies, wedged(), GENANT)
    words = words_of(figure)
    for text in ("L1  FRACTURED, grade 2", "T12  not assessable", "L2  normal", "not measured"):
        assert text in words
    assert {"A", "P", "H", "F"} <= set(words.split(" | "))
    assert "0.60 (below cut)" in words
    assert "secret" not in words
    axes = figure.axes[0]
    assert axes.xaxis_inverted()  # the front, larger y, is left
    assert not axes.yaxis_inverted()
    assert axes.get_aspect() == 1.0


def test_the_chart_names_what_is_below_and_what_is_missing():
    figure = ratio_figure(wedged(), GENANT)
    words = words_of(figure)
    assert len(figure.axes) == len(RATIOS)
    for text in ("0.60 below", "not\nassessable", "not in\nthe rule"):
        assert text in words
    assert "secret" not in words


@pytest.mark.slow
def test_real_ct_has_plausible_heights(real_data, tcga_series, tmp_path):
    folder = real_data / "totalseg_example"
    for image, mask, measured in (
        (tcga_series, real_data / "tcga_ov_abdomen" / "vertebral_bodies.nii.gz", 6),
        (folder / "ct.nii.gz", folder / "seg_v2_vertebrae.nii.gz", 4),
    ):
        done = vfx(image, "--mask", mask, "--out", tmp_path, "--allow-thick")
        assert done.exit_code == 0, done.output
        heights = read_heights(tmp_path / "heights.csv").dropna()
        assert len(heights) == measured
        values = heights[list(HEIGHTS)].to_numpy()
        assert values.min() > 18
        assert values.max() < 40
