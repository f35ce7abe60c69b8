"""STUDY.yaml: what is wrong is named before anything is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_vfx.core.errors import SettingError
from monai_vfx.workflows.study.plan import Plan, read_plan

LEAST = "name: N\ndevelopment: {table: home.csv}\n"


def plan(folder: Path, text: str) -> Plan:
    """Read a STUDY.yaml beside which home.csv and away.csv lie."""
    for name in ("home.csv", "away.csv"):
        (folder / name).write_text("case_id,fracture\n")
    path = folder / "STUDY.yaml"
    path.write_text(text, encoding="utf-8")
    return read_plan(path)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(SettingError) as caught:
        plan(folder, text)
    return str(caught.value)


def test_the_smallest_plan_has_the_papers_settings(tmp_path: Path) -> None:
    made = plan(tmp_path, LEAST)
    assert (made.name, made.seed, made.folds, made.external) == ("N", 0, 10, None)
    assert made.development.table == tmp_path / "home.csv"
    assert made.clinical == ("A", "B", "C", "D")
    assert made.images.models == {"bone": ("bone_only",), "bone_muscle": ()}
    assert (made.images.main, made.images.hazard) == ("bone_muscle", True)
    assert (made.eligibility.min_age, made.eligibility.max_age) == (50, 80)
    assert (made.matching.method, made.matching.ratio, made.matching.caliper) == (
        "propensity",
        1,
        0.2,
    )
    assert made.bootstrap == 2000


def test_every_setting_is_read(tmp_path: Path) -> None:
    made = plan(
        tmp_path,
        """
name: N
seed: 3
folds: 5
development: {table: home.csv}
external: {simulate: {hospital: external, patients: 40, seed: 2, signal: strong}}
eligibility: {min_age: 60}
matching: {ratio: 2, caliper: null, variables: [age, sex]}
clinical: [A]
images:
  models: {one: [a_name], two: []}
  main: one
  fusion: [A]
  hazard: false
  epochs: 2
  further_seeds: [1, 2]
  workers: 1
subgroups: [sex]
bootstrap: 100
gallery: 0
""",
    )
    assert made.eligibility.min_age == 60
    assert (made.matching.caliper, made.matching.variables) == (None, ("age", "sex"))
    assert made.external is not None
    assert made.external.simulate == {
        "hospital": "external",
        "patients": 40,
        "seed": 2,
        "signal": "strong",
    }
    assert made.images.models == {"one": ("a_name",), "two": ()}
    assert made.images.further_seeds == (1, 2)
    assert (made.subgroups, made.gallery, made.clinical) == (("sex",), 0, ("A",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LEAST + "fold: 5\n", ["'fold' was unexpected"]),
        (LEAST + "folds: 2\n", ["folds", "2 is less than the minimum of 3"]),
        (LEAST + "folds: ten\n", ["folds", "'ten' is not of type 'integer'"]),
        (LEAST + "seed: -1\n", ["seed", "-1"]),
        (LEAST + "clinical: [A, E]\n", ["clinical/1", "'E'"]),
        (LEAST + "clinical: [A, A]\n", ["clinical", "non-unique"]),
        (LEAST + "bootstrap: 10\n", ["bootstrap", "10"]),
        (LEAST + "images: {main: other}\n", ["images", "'other'", "bone, bone_muscle"]),
        (LEAST + "images: {model: {}}\n", ["images", "'model' was unexpected"]),
        (LEAST + "images: {models: {Bone: []}}\n", ["images/models", "Bone"]),
        (LEAST + "images: {epochs: 0}\n", ["images/epochs", "0"]),
        (LEAST + "eligibility: {min_aeg: 55}\n", ["eligibility", "min_aeg", "min_age"]),
        (LEAST + "eligibility: 55\n", ["eligibility", "55"]),
        (LEAST + "matching: {ration: 2}\n", ["matching", "ration", "ratio"]),
        (LEAST + "matching: {ratio: 0}\n", ["ratio", "0", "at least 1"]),
        (LEAST + "matching: {ratio: two}\n", ["matching", "two"]),
        (LEAST + "matching: {method: nearest}\n", ["method", "'nearest'", "propensity"]),
        ("name: N\n", ["'development' is a required property"]),
        ("development: {table: home.csv}\n", ["'name' is a required property"]),
        ("name: N\ndevelopment: {table: gone.csv}\n", ["development", "'gone.csv'", "exist"]),
        (
            "name: N\ndevelopment: {table: home.csv, simulate: {hospital: registry, patients: 30}}",
            ["development"],
        ),
        ("name: N\ndevelopment: {}\n", ["development"]),
        (
            "name: N\ndevelopment: {simulate: {hospital: moon, patients: 30}}",
            ["development", "'moon'"],
        ),
        ("- a\n- b\n", ["(top)", "is not of type 'object'"]),
        ("", ["(top)", "None is not of type 'object'"]),
        ("name: [unclosed\n", ["is not YAML"]),
        ("name: &a [*a]\n", ["name"]),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, text: str, words: list[str]) -> None:
    message = refusal(tmp_path, text)
    assert "STUDY.yaml" in message or "must" in message or "exist" in message
    for word in words:
        assert word in message


def test_all_broken_rules_are_named_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, LEAST + "folds: 2\nseed: -1\nclinical: [Z]\n")
    assert all(name in message for name in ("folds", "seed", "clinical/0"))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "STUDY.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(SettingError, match=r"STUDY\.yaml is not YAML"):
        read_plan(tmp_path / "STUDY.yaml")


def test_tables_and_overlay_files_are_looked_for_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    text = LEAST + "images: {overlays: [cpu_small, own.yaml], models: {bone_muscle: [sub/b.json]}}"
    made = plan(folder, text)
    assert made.development.table == folder / "home.csv"
    assert made.images.overlays == ("cpu_small", str(folder / "own.yaml"))
    assert made.images.models["bone_muscle"] == (str(folder / "sub" / "b.json"),)
    weights = plan(folder, LEAST + "images: {pretrained: first.pt}").images.pretrained
    assert weights == str(folder / "first.pt")
    for name in ("none", "imagenet", "timm/resnet18", "IMAGENET1K_V2"):
        assert plan(folder, LEAST + f"images: {{pretrained: {name}}}").images.pretrained == name


def test_settings_are_plain_and_say_nothing_of_where_tables_lie(tmp_path: Path) -> None:
    folder = tmp_path / "Doe^Jane"
    folder.mkdir()
    made = plan(folder, LEAST + "external: {table: away.csv}\nmatching: {variables: [age]}\n")
    document = made.to_json()
    assert json.loads(json.dumps(document)) == document
    assert "Jane" not in json.dumps(document)
    assert document["development"] == {"table": "home.csv", "simulate": None}
    assert document["external"]["table"] == "away.csv"
    assert document["matching"]["variables"] == ["age"]
    assert document["images"]["models"] == {"bone": ["bone_only"], "bone_muscle": []}


def test_overlay_files_are_named_without_their_folder_in_the_settings(tmp_path: Path) -> None:
    folder = tmp_path / "Doe^Jane"
    folder.mkdir()
    text = LEAST + "images: {overlays: [own.yaml], models: {bone_muscle: [b.yaml]}, "
    document = plan(folder, text + "pretrained: first.pt}").to_json()
    assert "Jane" not in json.dumps(document)
    assert document["images"]["overlays"] == ["own.yaml"]
    assert document["images"]["models"] == {"bone_muscle": ["b.yaml"]}
    assert document["images"]["pretrained"] == "first.pt"
    document = plan(folder, LEAST + "images: {pretrained: timm/resnet18}").to_json()
    assert document["images"]["pretrained"] == "timm/resnet18"
    (folder / "encoder").touch()  # a file without an ending is a file where it exists
    made = plan(folder, LEAST + "images: {pretrained: encoder}")
    assert made.images.pretrained == str(folder / "encoder")


def test_the_quick_example_is_a_plan() -> None:
    made = read_plan(Path(__file__).parents[2] / "examples" / "quick_study.yaml")
    assert made.external is not None
    assert made.folds == 3


def test_a_study_without_networks_is_a_plan(tmp_path: Path) -> None:
    assert plan(tmp_path, LEAST + "images: {models: {}}").images.models == {}
