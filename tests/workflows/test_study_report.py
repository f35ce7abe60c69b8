"""The report of a study: numbers as in the files, nothing from outside, nothing left unsaid."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from monai_vfx.core.errors import MissingDependencyError, SettingError
from monai_vfx.outputs.report.page import Table
from monai_vfx.workflows.study.report import report as study_report
from monai_vfx.workflows.study.report.folder import StudyFolder
from monai_vfx.workflows.study.report.network_figure import architecture
from monai_vfx.workflows.study.report.prose import cautions, methods, summary
from monai_vfx.workflows.study.report.report import (
    CHECKLISTS,
    STATUSES,
    checklist_table,
    write_study_report,
)
from monai_vfx.workflows.study.report.tables import read_data
from study_folder import build_study

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return build_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def page(study):
    return Page(write_study_report(study))


@pytest.fixture
def bare(tmp_path, study):
    """A copy of a study's numbers, to be changed; without what only takes time to draw."""
    for part in ("study.json", "evaluation", "audit", "calibration", "image"):
        source = study / part
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / part)
    for path in tmp_path.glob("evaluation/*/evaluation.json"):
        change(path, undrawn)
    return tmp_path


def undrawn(document):
    document["cumulative_incidence"] = None
    for entry in document["scores"].values():
        entry.update(calibration=None, decision_curve=None, subgroups=[])


class Page(HTMLParser):
    """Tags with their attributes, tables as cells, and the words of a page."""

    def __init__(self, path):
        super().__init__()
        self.path, self.text = path, path.read_text(encoding="utf-8")
        self.tags, self.words, self.tables = [], [], {}
        self._rows = self._cell = None
        self.feed(self.text)
        self.said = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "figure" and attributes["id"].startswith("table-"):
            self._rows = self.tables[attributes["id"].removeprefix("table-")] = []
        if tag == "tr":
            self._rows.append([])
        if tag in ("th", "td"):
            self._cell = ""

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self._rows[-1].append(self._cell)
            self._cell = None

    def handle_data(self, data):
        self.words.append(data)
        if self._cell is not None:
            self._cell += data

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def evaluation(root, side):
    return json.loads((root / "evaluation" / side / "evaluation.json").read_text())


def change(path, edit):
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


# the page


def test_the_page_asks_for_nothing(page):
    policy = next(a["content"] for a in page.attributes("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert {name for name, _ in page.tags}.isdisjoint(
        {"script", "link", "iframe", "object", "form"}
    )
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    outside_images = re.sub(r'src="data:[^"]*"', "", page.text)
    assert not re.search(r"https?://|url\(|@import", outside_images)


def test_every_image_says_what_it_shows(page):
    images = page.attributes("img")
    assert len(images) >= 14
    assert all(len(image["alt"]) > 20 for image in images)
    assert len({image["alt"] for image in images}) == len(images)


def test_ids_are_unique_and_links_lead_to_them(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for a in page.attributes("a")]
    assert len(links) > 20
    assert set(links) <= set(ids)


def test_headings_do_not_skip_a_level(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_tables_of_the_page_are_those_of_the_files(study, page):
    files = {path.stem: path for path in (study / "report" / "tables").glob("*.csv")}
    assert set(files) == set(page.tables)
    assert {"table1", "table2", "table3", "table4", "supplement_table1"} <= set(files)
    for name, path in files.items():
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        shown = [row for row in page.tables[name] if len(row) > 1]
        body = shown[-len(rows) :]
        grouped = header[0] == "Set"
        assert body == [row[1:] if grouped else row for row in rows], name
        headings = {cell for row in shown[: -len(rows)] for cell in row}
        wanted = {part for column in header[grouped:] for part in column.split(": ")}
        assert headings == wanted, name
        if grouped:
            groups = [row[0] for row in page.tables[name] if len(row) == 1]
            assert groups == list(dict.fromkeys(row[0] for row in rows))


def test_figures_of_the_page_are_files_too(study, page):
    names = {a["id"].removeprefix("figure-") for a in page.attributes("figure")} - {
        f"table-{name}" for name in page.tables
    }
    folder = study / "report" / "figures"
    assert names == {path.stem for path in folder.iterdir()}
    for name in ("architecture", "roc", "flow_development", "love"):
        assert (folder / f"{name}.svg").read_bytes().startswith(b"<?xml")
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_folder_gives_the_same_bytes(study, page, tmp_path):
    again = write_study_report(study, out=tmp_path)
    assert again.read_text(encoding="utf-8") == page.text
    first = {p.name: p.read_bytes() for p in (study / "report").glob("*/*")}
    assert first == {p.name: p.read_bytes() for p in tmp_path.glob("*/*")}


# the numbers


@pytest.mark.parametrize("side", ["development", "external"])
def test_summary_has_the_numbers_of_the_evaluation(study, page, side):
    entry = evaluation(study, side)["scores"]["image_bone_muscle"]
    low, high = entry["auroc_ci"]
    assert (
        f"“Image, bone + muscle” reached an AUROC of {entry['auroc']:.3f} (95 % interval "
        f"{low:.3f} to {high:.3f}) in the {side} set, from {entry['events']} fractures among "
        f"{entry['n']} patients." in page.said
    )


def test_key_results_have_the_numbers_of_the_evaluation(study, page):
    rows = {row[0]: row[1:] for row in page.tables["key_results"] if len(row) == 5}
    for column, side in ((0, "development"), (2, "external")):
        for name, label in (("clinical_A", "Clinical A (XGBoost)"), ("frax_hip", "FRAX hip")):
            entry = evaluation(study, side)["scores"][name]
            low, high = entry["auroc_ci"]
            assert rows[label][column] == f"{entry['auroc']:.3f} ({low:.3f}–{high:.3f})"
            assert rows[label][column + 1] == f"{entry['n']} ({entry['events']})"


def test_table_3_has_models_tests_and_both_sets(study, page):
    rows = {row[0]: row[1:] for row in page.tables["table3"]}
    for offset, side in ((0, "development"), (4, "external")):
        document = evaluation(study, side)
        bone, both = (document["scores"][f"image_{n}"] for n in ("bone", "bone_muscle"))
        assert rows["Patients (fractures)"][offset + 1] == f"{both['n']} ({both['events']})"
        tests = {
            (t.get("quantity"), t.get("rule")): t
            for t in document["comparisons"]
            if {t["a"], t["b"]} == {"image_bone", "image_bone_muscle"}
        }
        auroc = rows["AUROC (DeLong interval)"][offset : offset + 4]
        assert auroc[0].startswith(f"{bone['auroc']:.3f} (")
        assert auroc[2] == f"{tests[None, None]['p']:.3f}"
        point = both["operating_points"][0]
        assert point["rule"] == "youden"
        low, high = point["specificity"]["ci"]
        cells = rows["Specificity"][offset : offset + 4]
        assert cells[1] == f"{point['specificity']['value']:.3f} ({low:.3f}–{high:.3f})"
        p = tests["specificity", "youden"]["p_holm"]
        assert cells[3] == ("<0.001" if p < 0.001 else f"{p:.3f}")


def test_every_test_of_the_evaluation_is_listed(study, page):
    tests = [
        t for side in ("development", "external") for t in evaluation(study, side)["comparisons"]
    ]
    auroc = [row for row in page.tables["auroc_comparisons"][1:] if len(row) > 1]
    assert len(auroc) == sum(t["test"] == "delong" for t in tests)
    calls = [row for row in page.tables["decision_comparisons"] if len(row) == 12]
    mcnemar = [t for t in tests if t["test"] == "mcnemar"]
    assert 3 * len(calls) == len(mcnemar)
    first = next(t for t in mcnemar if t["quantity"] == "sensitivity" and t["rule"] == "youden")
    assert f"{first['only_a']} / {first['only_b']} of {first['n']}" == calls[0][6]


def test_no_score_is_left_out_of_the_tables(study, page):
    shown = {row[0] for rows in page.tables.values() for row in rows if row}
    for label in (
        "Image, yearly hazards",
        "Five-year risk (image, bone + muscle)",
        "Image + clinical A (late fusion)",
        "Imaging baseline (logistic, mask features)",
        "Matched variables only (negative control)",
    ):
        assert label in shown


def test_missing_scores_and_refusals_are_stated(page):
    assert "patients without a score, not counted: Image, bone + muscle 1." in page.said
    steps = {row[0] for row in page.tables["refused"][1:]}
    assert steps == {"Measuring, development", "Image, bone + muscle, development"}
    assert "case_3" not in page.said  # the name of a case stays in the study's files


def test_every_table_and_figure_says_where_it_comes_from(page):
    origins = [row for row in page.tables["origins"][1:]]
    captions = len(page.tables) + len(page.attributes("img"))
    assert len(origins) == captions - 2  # all but the two tables of origins themselves
    assert all(cell for row in origins for cell in row)
    files = dict(page.tables["files"][1:])
    assert len(files["evaluation/external/evaluation.json"]) == 64


def test_methods_carry_the_settings(page):
    for words in (
        "aged 50 to 80 years",
        "caliper of 0.2 standard deviations",
        "5-fold cross-validation",
        "96 × 96 pixels",
        "everything outside the bodies blanked",
        "learning rate 1e-05",
        "100 stratified bootstrap samples",
        "an offset of the logit that depends on the matched variables",
    ):
        assert words in page.said


def test_methods_say_how_the_network_was_trained(bare):
    def said(**settings):
        for path in (bare / "image").glob("*/fold_0/model.json"):
            change(path, lambda d: d["training"].update(settings))
        return dict(methods(StudyFolder(bare)))["Images and networks"][0]

    plain = said()
    assert "dropout 0.5. Adam, learning rate 1e-05, batches of 128 patients" in plain
    assert "pretrained weights: imagenet; cross-entropy. The epoch with" in plain
    off = {"weight_decay": 0.0, "encoder_rate": 1.0, "schedule": "none", "warmup_epochs": 0}
    assert said(**off, gradient_clip=0.0, augment_flip=0.0, bfloat16=False) == plain
    changed = said(
        **{"weight_decay": 0.01, "encoder_rate": 0.3, "schedule": "cosine", "warmup_epochs": 1},
        **{"gradient_clip": 1.0, "augment_shift_mm": 4.0, "augment_flip": 0.5, "bfloat16": True},
    )
    for words in (
        "AdamW, weight decay 0.01, learning rate 1e-05, times 0.3 in the encoder, with a",
        "linear warm-up over 1 epoch(s), then lowered to 0 along a cosine, gradients clipped to a",
        "cross-entropy. Training used mixed precision (bfloat16). Images were augmented in",
        "in training: shifts up to 4 mm, left-right flips with probability 0.5. The epoch",
    ):
        assert words in changed


def test_sampled_controls_are_said_to_be(page):
    assert "Controls were sampled: this proportion is not a risk." in page.said
    assert page.said.count("this is not the incidence among all patients") == 1


def test_figure_2_shows_the_settings(page, bare):
    (alt,) = [a["alt"] for a in page.attributes("img") if a["alt"].startswith("Network")]
    assert "14 axial slices 96 × 144 pixels of 1 mm" in alt
    assert "GRU, 256" in alt
    assert "layer 2 and layer 3" in alt
    change(bare / "image/bone_muscle/fold_0/model.json", lambda d: d["config"].update(slices=9))
    assert "9 axial slices" in architecture(StudyFolder(bare)).alt


# what stays true in any case


def test_noise_is_called_no_better_than_chance(bare):
    def useless(document):
        document["scores"]["image_bone_muscle"].update(auroc=0.51, auroc_ci=[0.44, 0.58])

    change(bare / "evaluation/development/evaluation.json", useless)
    said = " ".join(summary(StudyFolder(bare)))
    assert "0.440 to 0.580" in said
    assert "The interval includes 0.5: no better than chance has not been ruled out." in said


def test_a_reversed_score_and_a_lower_auroc_are_called_so(bare):
    def reverse(document):
        document["scores"]["image_bone_muscle"].update(auroc=0.3, auroc_ci=[0.2, 0.4])
        for test in document["comparisons"]:
            if test["test"] == "delong" and test["b"] == "image_bone":
                test.update(difference=-0.2, difference_ci=[-0.3, -0.1], p=1e-5, p_holm=1e-4)

    change(bare / "evaluation/development/evaluation.json", reverse)
    said = " ".join(summary(StudyFolder(bare)))
    assert "the score ranks patients in the wrong order" in said
    assert "is lower by 0.200 than that of “Image, bone only”" in said
    assert "The difference is statistically significant after Holm's correction." in said


def test_a_set_without_fractures_is_said_to_be_one(bare):
    def empty(document):
        document["events"] = 0
        for entry in document["scores"].values():
            entry.update(
                events=0, auroc=None, auroc_ci=None, bootstrap_ci=None, operating_points=[],
                calibration=None, decision_curve=None, adjusted_auroc=None, time=None, subgroups=[],
            )  # fmt: skip
        document.update(comparisons=[], cumulative_incidence=None)

    change(bare / "evaluation/external/evaluation.json", empty)
    text = write_study_report(bare).read_text(encoding="utf-8")
    assert "The external set has no fracture: discrimination cannot be assessed." in text
    assert "cannot be estimated: 199 (0) patients (fractures)" in text
    assert "nan" not in re.sub(r'src="data:[^"]*"', "", text).lower().split()


def test_failed_audit_stands_first(bare):
    def fail(document):
        document["checks"].append({"name": "pairs in one fold", "passed": False, "detail": "p7"})

    change(bare / "audit/leakage.json", fail)
    page = Page(write_study_report(bare))
    assert page.said.index("The leakage audit failed.") < page.said.index("Key results")
    assert ["pairs in one fold", "FAILED", "1", "1", "p7"] in page.tables["leakage"]


def test_real_patients_are_not_called_simulated_and_high_values_are_doubted(bare):
    change(bare / "study.json", lambda d: d.update(simulated=False))

    def high(document):
        document["scores"]["image_bone_muscle"].update(auroc=0.9, auroc_ci=[0.85, 0.94])

    change(bare / "evaluation/external/evaluation.json", high)
    text = write_study_report(bare).read_text(encoding="utf-8")
    assert "Simulated patients." not in text
    assert "look for leakage and selection first" in text


def test_few_fractures_bring_a_caution(study):
    found = " ".join(cautions(StudyFolder(study)))
    assert "The external set has only 30 patients in its smaller class" in found


# parts without data


def test_parts_without_data_are_named(bare):
    shutil.rmtree(bare / "evaluation" / "external")
    shutil.rmtree(bare / "calibration")
    shutil.rmtree(bare / "image")
    page = Page(write_study_report(bare))
    absent = {row[0] for row in page.tables["absent"][1:]}
    assert {"Figure 2, architecture", "Participant flow", "Table 1", "Spread over seeds"} <= absent
    assert (
        "There is no external set: this study does not show how well the models generalise."
        in page.said
    )
    assert "table1" not in page.tables


def test_a_study_with_nothing_but_its_name(tmp_path):
    (tmp_path / "study.json").write_text(json.dumps({"name": "<Début> & Co", "simulated": True}))
    text = write_study_report(tmp_path).read_text(encoding="utf-8")
    assert "&lt;Début&gt; &amp; Co" in text
    assert "Simulated patients. Not a clinical result." in text


def test_a_study_without_images(bare):
    def without(document):
        scores = document["scores"]
        document["scores"] = {k: v for k, v in scores.items() if "image" not in k}
        document["comparisons"] = []

    for path in bare.glob("evaluation/*/evaluation.json"):
        change(path, without)
    shutil.rmtree(bare / "image")
    page = Page(write_study_report(bare))
    models = [row[0] for row in page.tables["table4"] if len(row) == 12]
    assert models.count("Clinical A (XGBoost)") == 2  # once a set
    assert "Table 4. Clinical models, FRAX and imaging baseline" in page.said
    assert "Table 3" in {row[0] for row in page.tables["absent"]}


def test_not_a_study(tmp_path):
    with pytest.raises(SettingError, match=r"holds no study\.json"):
        write_study_report(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(SettingError, match=r"study\.json of the study is not JSON"):
        write_study_report(tmp_path)


# checklists


@pytest.mark.parametrize("name", CHECKLISTS)
def test_checklists_are_whole_and_point_to_sections_that_exist(page, name):
    document = read_data(name)
    numbers = [item["item"] for item in document["items"]]
    assert len(numbers) == len(set(numbers))
    roots = {int(re.match(r"\d+", number).group()) for number in numbers}
    assert roots == set(range(1, 28 if name == "tripod_ai" else 45))
    known = {heading["id"] for heading in page.attributes("h2")} | {"external"}
    for item in document["items"]:
        assert item["status"] in STATUSES
        assert set(item.get("where", ())) <= known, item["item"]
        assert bool(item.get("where")) == (item["status"] != "author"), item["item"]


def test_checklist_items_fall_back_when_the_report_lacks_their_sections():
    def status(sections):
        frame = checklist_table("tripod_ai", sections).frame.set_index("Item")
        return frame.loc["12a", ["Status", "Answered in"]].tolist()

    assert status({"methods": "Methods", "audit": "Audit"}) == ["auto", "Methods; Audit"]
    assert status({"methods": "Methods"}) == ["partial", "Methods"]
    assert status({}) == ["author", "not in this report"]


def test_checklist_counts_in_its_title_are_those_of_its_rows(page):
    (title,) = re.findall(r"TRIPOD\+AI: (\d+) auto, (\d+) partial, (\d+) author", page.said)[:1]
    shown = [row[3] for row in page.tables["checklist_tripod_ai"][1:]]
    assert [int(n) for n in title] == [shown.count(status) for status in STATUSES]


# tables as such


def test_headings_group_columns_of_one_name():
    import pandas as pd

    frame = pd.DataFrame(columns=["Set", "Model", "A: x", "A: y", "n", "B: x"])
    table = Table("k", "t", frame, "s", group="Set")
    assert table.headings() == [
        ("", 1, ["Model"]),
        ("A", 2, ["x", "y"]),
        ("", 1, ["n"]),
        ("B", 1, ["x"]),
    ]


# PDF


def test_pdf_without_weasyprint_names_the_command(bare, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "weasyprint", None)
    with pytest.raises(MissingDependencyError, match=re.escape("pip install 'monai_vfx[pdf]'")):
        write_study_report(bare, pdf=True)
    assert (bare / "report" / "index.html").is_file()


@pytest.mark.slow
def test_pdf_has_pages_and_asks_for_nothing(study, tmp_path):
    weasyprint = pytest.importorskip("weasyprint")
    write_study_report(study, out=tmp_path, pdf=True)
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    outside = tmp_path / "outside.pdf"
    with pytest.raises(weasyprint.urls.FatalURLFetchingError):
        study_report._write_pdf('<img src="http://localhost/x.png" alt="x">', outside)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1280, 400])
def test_no_overflow_and_no_console_error_in_a_browser(page, tmp_path, width):
    """The page in a frame of the given width: a window itself cannot be made so narrow."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" width="{width}" height="900" src="{page.path.as_uri()}"></iframe>'
        "<p id=out></p><script>f.onload=()=>{const d=f.contentDocument,w=d.documentElement;"
        "out.textContent='width '+w.scrollWidth+' '+w.clientWidth+' wide '+"
        "[...d.querySelectorAll('main *')].filter(e=>!e.closest('.box,.frame,pre')&&"
        "e.getBoundingClientRect().right>w.clientWidth+1).map(e=>e.tagName+'.'+e.className)"
        ".join(',')+' images '+[...d.images].filter(i=>!i.naturalWidth).length+' end'}</script>"
    )
    job = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--allow-file-access-from-files", "--enable-logging=stderr", "--log-level=0",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000",
         "--window-size=1400,1000", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    found = re.search(r"width (\d+) (\d+) wide (.*?) ?images (\d+) end", job.stdout)
    assert found is not None
    assert int(found[1]) <= int(found[2])
    assert int(found[2]) == pytest.approx(width, abs=20)
    assert found[3] == ""
    assert found[4] == "0"
    assert "CONSOLE" not in job.stderr
