"""The experiment of benchmarks/proof: its parts, and the whole of it at toy size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

PROOF = Path(__file__).resolve().parents[2] / "benchmarks" / "proof"


@pytest.fixture
def proof(monkeypatch):
    """Let the scripts of the experiment be imported, as they import each other."""
    monkeypatch.syspath_prepend(str(PROOF))
    names = ("plan", "hospitals", "jobs", "results", "claims", "report", "saliency", "ablations")
    names += ("clinical_curve",)
    before = {name: sys.modules.pop(name, None) for name in (*names, "run")}
    yield
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=PROOF,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.mark.usefixtures("proof")
@pytest.mark.parametrize("size", ["cpu", "gpu", "toy"])
def test_every_overlay_of_every_model_can_be_used(size):
    from plan import models, read_plan

    from monai_vfx.model.bundle.overlays import training_configs
    from monai_vfx.simulation.attainable import CLASSES

    found = models(read_plan(size))
    assert {"bone", "bone_muscle", "permuted"} <= {model.name for model in found}
    assert {model.sees for model in found} <= {*CLASSES, None}
    for overlays in {model.overlays for model in found}:
        training_configs(overlays)


@pytest.mark.usefixtures("proof")
def test_every_ablation_can_be_trained(tmp_path):
    from ablations import ablation_chains
    from plan import read_plan

    from monai_vfx.model.bundle.overlays import training_configs

    trainings = [
        step
        for chain in ablation_chains(tmp_path, read_plan("cpu"))
        for step in chain
        if "train" in step.name
    ]
    assert len(trainings) == 21  # of 23, two are what the size has anyway
    for step in trainings:
        training_configs(step.settings["overlays"])


@pytest.mark.usefixtures("proof")
def test_clinical_models_near_their_ceiling_with_more_patients(tmp_path):
    from clinical_curve import fit_by_size, summarise

    fit_by_size(tmp_path / "clinical" / "curve", "paper", [(200, 2), (6000, 1)], 4000, 20_000)
    rows = pd.read_csv(tmp_path / "clinical" / "curve" / "curve.csv")
    assert len(rows) == 3 * 4 * 2
    assert rows.groupby("model")["attainable"].nunique().max() == 1
    own = rows[(rows["model"] == "clinical_C") & (rows["kind"] == "xgboost")]
    assert own["share"].iloc[-1] > 0.8
    assert own["share"].iloc[-1] > own["share"].iloc[:-1].max()
    summarise(tmp_path, tmp_path)
    found = pd.read_csv(tmp_path / "clinical_curve.csv")
    assert set(found["sets"]) == {1, 2}
    small = found[(found["patients"] == 200) & (found["model"] == "clinical_C")]
    assert small[small["kind"] == "xgboost"]["share"].iloc[0] == pytest.approx(
        own["share"].iloc[:-1].mean(), rel=1e-3
    )


@pytest.mark.usefixtures("proof")
def test_sets_do_not_share_a_seed():
    from hospitals import chunks
    from plan import patient_sets, read_plan

    plan = read_plan("cpu")
    seeds = [
        (patients.hospital, seed)
        for patients in patient_sets(plan)
        for _, _, seed in chunks(patients, plan["chunk"])
    ]
    assert len(seeds) == len(set(seeds))
    external = next(one for one in patient_sets(plan) if one.name == "external")
    assert external.patients >= 7200
    assert sum(count for _, count, _ in chunks(external, 199)) == external.patients


@pytest.mark.usefixtures("proof")
@pytest.mark.parametrize("size", ["cpu", "toy"])
def test_every_block_holds_both_outcomes(size):
    from hospitals import blocks
    from plan import patient_sets, read_plan

    from monai_vfx.simulation.patients import draw_patients

    plan = read_plan(size)
    for patients in patient_sets(plan):
        for block in blocks(patients, plan["chunk"], plan["block"]):
            drawn = [
                person.fracture
                for _, count, seed in block
                for person in draw_patients(count, seed, patients.hospital, patients.signal)
            ]
            assert set(drawn) == {0, 1}


@pytest.mark.usefixtures("proof")
def test_crops_stay_and_images_go(tmp_path):
    from hospitals import make_chunk, merge
    from plan import PatientSet, overlays_of, read_plan

    from monai_vfx.case.case import load_case
    from monai_vfx.core.errors import CaseRefused
    from monai_vfx.model.bundle.overlays import training_configs

    plan = read_plan("toy")
    patients = PatientSet("held_out", "development", "paper", 2, 5, True)
    chains, folder = [overlays_of(plan)], tmp_path / "chunk_000"
    make_chunk(folder, patients, 2, 5, chains, tmp_path / "crops")
    assert len(list((tmp_path / "crops").glob("*.pt"))) == 2
    table = pd.read_csv(folder / "cohort.csv")
    for name in (*table["image"], *table["mask"]):
        state = (folder / name).stat()
        assert state.st_size > 1000
        assert state.st_blocks * 512 < 1000  # of the disk
    with pytest.raises(CaseRefused):  # nobody takes an emptied image for one
        load_case(folder / table["image"][0], folder / table["mask"][0])
    names, _ = training_configs(chains[0])
    assert names[-1].endswith("toy.yaml")
    merge(tmp_path, [0], "cohort.csv", "cohort.csv")
    joined = pd.read_csv(tmp_path / "cohort.csv", dtype={"case_id": str})
    assert all((tmp_path / path).is_file() for path in joined["image"])
    assert joined["case_id"].str.startswith("000_").all()


@pytest.mark.usefixtures("proof")
def test_training_tables_hold_what_their_names_say(tmp_path):
    from hospitals import training_tables

    outcome = np.tile([1, 0, 0, 1, 1], 40)
    table = pd.DataFrame({"case_id": [f"c{n}" for n in range(200)], "fracture": outcome})
    table.to_csv(tmp_path / "cohort.csv", index=False)
    risk = np.random.default_rng(0).random(200)
    truth = table[["case_id"]].assign(five_year_risk=risk)
    truth.sample(frac=1, random_state=1).to_csv(tmp_path / "truth.csv", index=False)
    training_tables(tmp_path, [20, 40], permutations=4)
    twenty, forty = (pd.read_csv(tmp_path / f"first_{n}.csv") for n in (20, 40))
    assert (len(twenty), twenty["fracture"].sum()) == (20, 10)
    assert set(twenty["case_id"]) < set(forty["case_id"])
    permuted = pd.read_csv(tmp_path / "permuted.csv")
    assert permuted["fracture"].sum() == outcome.sum()
    assert (permuted["fracture"] != outcome).mean() > 0.2
    first, mirror, third = (
        pd.read_csv(tmp_path / f"permuted_{n}.csv")["fracture"] for n in range(3)
    )
    assert first.sum() == third.sum() == 100
    assert (mirror == 1 - first).all()
    assert 0.2 < (first != third).mean() < 0.8
    for shuffled in (first, mirror, third):
        in_order = shuffled.to_numpy()[np.argsort(risk)].reshape(-1, 2)
        assert (in_order.sum(axis=1) == 1).all()  # so the risk says nothing of it


@pytest.mark.usefixtures("proof")
def test_claims_follow_their_rules():
    from claims import claims

    def judged(**changes):
        rows = {
            ("held_out", "bone"): {"share": 0.85, "se": 0.0095},
            ("held_out", "bone_muscle"): {"share": 0.79, "se": 0.011},
            ("held_out", "permuted"): {"auroc": 0.40, "score_sd": 0.012},
            ("held_out", "permuted_0"): {"auroc": 0.44},
            ("held_out", "permuted_1"): {"auroc": 0.53},
        }
        rows["held_out", "permuted_0"] |= changes
        aurocs = pd.DataFrame(
            [{"set": test, "model": model} | row for (test, model), row in rows.items()]
        )
        gain = {"set": "no_muscle_held_out", "test": "delong", "a": "bone_muscle", "b": "bone"}
        gain |= {"difference": 0.01, "difference_ci_low": -0.008, "difference_ci_high": 0.031}
        curve = pd.DataFrame(
            {
                "model": ["clinical_A", "clinical_A"],
                "kind": ["xgboost", "xgboost"],
                "patients": [1214, 20000],
                "share": [0.7, 0.95],
            }
        )
        ratio = {"map": "gradcam layer2", "measure": "energy_ratio", "region": "body and muscle"}
        ratio |= {"control": "randomised", "trained_mean": 0.9, "ci_low": 0.2}
        other = [{"control": "cascade_head"}, {"region": "muscle"}, {"measure": "pointing"}]
        other += [{"map": "averaged gradcam layer2"}, {"map": "attention layer2"}]
        saliency = pd.DataFrame([ratio] + [ratio | {"ci_low": -0.5} | row for row in other])
        found = list(claims(aurocs, pd.DataFrame([gain]), saliency, curve))
        return {row["claim"]: row for row in found}

    found = judged()
    assert found["held_out: bone, share of the attainable excess"]["met"] == "yes"
    assert found["held_out: bone_muscle, share of the attainable excess"]["met"] == "no"
    assert found["held_out: bone_muscle, standard error of the AUROC"]["met"] == "no"
    assert found["confirmation: bone, share of the attainable excess"]["met"] == "not measured"
    assert found["clinical A fitted on 1214 patients: mean share of the excess"]["met"] == "no"
    assert found["clinical A fitted on 20000 patients: mean share of the excess"]["met"] == "yes"
    assert found["muscle without signal: larger end of the gain's interval"]["met"] == "no"
    heat = "gradcam layer2: energy ratio in body and muscle"
    assert {k: row["met"] for k, row in found.items() if "gradcam" in k} == {
        heat: "no",
        f"{heat} above that of random weights (lower end)": "yes",
    }
    null = "outcomes permuted between neighbours in risk: mean AUROC"
    assert found[null]["measured"] == "0.485"  # the free shuffle does not count
    assert found[null]["met"] == "yes"
    assert judged(auroc=0.36)[null]["met"] == "no"


@pytest.mark.usefixtures("proof")
def test_maps_are_compared_patient_by_patient_over_seeds_and_draws():
    from saliency import compared

    values = {
        "trained_0": [1.0, 2.0, 3.0],
        "trained_1": [3.0, 2.0, np.nan],  # a map that is zero everywhere
        "randomised_0": [0.5, 0.5, 0.5],
        "randomised_1": [1.5, 0.5, 1.5],
        "cascade_head": [0.0, 0.0, 0.0],
    }
    rows = [
        {"case_id": f"c{n}", "control": control, "energy_ratio": value}
        for control, column in values.items()
        for n, value in enumerate(column)
    ]
    found = {row["control"]: row for row in compared(pd.DataFrame(rows), "energy_ratio")}
    full, cascade = found["randomised"], found["cascade_head"]
    assert (full["trained_mean"], full["control_mean"]) == pytest.approx((7 / 3, 2.5 / 3))
    assert full["difference"] == pytest.approx(1.5)
    assert (full["trained_least"], full["trained_greatest"]) == (2.0, 2.5)
    assert (full["trained_empty"], full["control_empty"]) == pytest.approx((1 / 6, 0.0))
    assert cascade["trained_mean"] == 2.0  # of the seed that it was made from
    assert (full["n"], full["left_out"]) == (3, 0)


@pytest.mark.usefixtures("proof")
def test_variants_change_what_they_say_and_no_more(tmp_path):
    from ablations import VARIANTS
    from hospitals import simulate_chunk
    from plan import PatientSet

    patients = PatientSet("held_out", "development", "paper", 2, 5, True)
    table = simulate_chunk(tmp_path / "chunk", patients, 2, 5)
    image, mask = (Path(table[name][0]) for name in ("image", "mask"))
    hu, labels = (np.asarray(nib.load(path).dataobj).copy() for path in (image, mask))
    muscle = np.isin(labels, (101, 102))
    VARIANTS["occlude"](table, 1)
    changed = np.asarray(nib.load(image).dataobj)
    assert np.array_equal(changed[~muscle], hu[~muscle])
    assert changed[muscle].mean() == pytest.approx(-100, abs=1)
    assert hu[muscle].mean() > 0
    VARIANTS["jitter"](table, 1)
    moved = np.asarray(nib.load(mask).dataobj)
    assert not np.array_equal(moved, labels)
    assert np.array_equal(
        np.unique(moved, return_counts=True), np.unique(labels, return_counts=True)
    )


@pytest.mark.usefixtures("proof")
def test_share_of_the_attainable_excess():
    from results import share

    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 1500)
    ideal = rng.normal(y * 1.0)
    table = pd.DataFrame({"fracture": y, "same": ideal, "noisy": ideal + rng.normal(0, 1, y.size)})
    same = share(table, "same", table["same"], 200)
    assert same["share"] == same["share_low"] == same["share_high"] == 1.0
    noisy = share(table, "noisy", table["same"], 200)
    assert noisy["share_low"] < noisy["share"] < noisy["share_high"] < 1.0
    # Two normal scores 1 apart: AUROC Phi(1 / sqrt 2) = 0.760; with twice the variance Phi(1/2).
    assert noisy["attainable"] == pytest.approx(0.760, abs=0.02)
    assert noisy["share"] == pytest.approx(0.1915 / 0.2602, abs=0.06)
    table.loc[::2, "noisy"] = np.nan  # refused: they count in neither AUROC
    half = share(table, "noisy", table["same"], 200)
    assert half["attainable"] != noisy["attainable"]
    assert half["attainable_se"] == pytest.approx(noisy["attainable_se"] * 2**0.5, rel=0.1)


@pytest.mark.usefixtures("proof")
def test_ideal_scores_belong_to_their_patients(tmp_path):
    from plan import PatientSet
    from results import ideal_scores

    from monai_vfx.analysis.evaluation.discrimination import auroc
    from monai_vfx.simulation.patients import COHORT_COLUMNS, TRUTH_COLUMNS, draw_population

    people = draw_population(600, 3, "external", "no_muscle")
    people[["case_id", *COHORT_COLUMNS]].to_csv(tmp_path / "cohort.csv", index=False)
    shuffled = people[["case_id", *TRUTH_COLUMNS]].sample(frac=1, random_state=0)
    shuffled.to_csv(tmp_path / "truth.csv", index=False)
    patients = PatientSet("external", "external", "no_muscle", 600, 3, True)
    found = ideal_scores(tmp_path, patients, ["image_bone", "image_bone_muscle"], 4000)
    bone = auroc(people["fracture"], found["image_bone"]).value
    assert bone > 0.65
    # Muscle is no part of this hazard: it adds what the regression fits to chance.
    assert auroc(people["fracture"], found["image_bone_muscle"]).value == pytest.approx(
        bone, abs=0.03
    )
    assert auroc(people["fracture"], -people["bone_z"]).value == pytest.approx(bone, abs=0.05)


@pytest.mark.usefixtures("proof")
@pytest.mark.parametrize(
    ("model", "called"),
    [
        ("bone", "image, bone-only"),
        ("bone_muscle_of_400", "image, bone + muscle, 400 patients"),
        ("no_muscle_bone", "image, bone-only"),
        ("clinical_C", "clinical C"),
        ("frax_hip", "FRAX stand-in, hip"),
    ],
)
def test_scores_have_names_in_words_on_the_page(model, called):
    from report import name_of

    assert name_of(model) == called


@pytest.mark.usefixtures("proof")
def test_permuted_outcomes_are_told_by_their_mirrored_pairs():
    from report import permuted_lines

    rows = [("permuted", 0.37), ("bone", 0.7)]
    rows += [("permuted_0", 0.6), ("permuted_1", 0.5), ("permuted_2", 0.4), ("permuted_3", 0.46)]
    table = pd.DataFrame(rows, columns=["model", "auroc"])
    table[["ci_low", "ci_high", "score_sd"]] = 0.35, 0.39, 0.0137
    text = "\n".join(permuted_lines(table))
    assert (
        "Shuffled freely, once: 0.370 (0.350 to 0.390), probabilities with an SD of 0.014" in text
    )
    assert "mean of 4 networks 0.490, standard error over the pairs 0.060" in text  # (0.55, 0.43)
    assert "| 1 | 0.400 | 0.460 | 0.430 |" in text


@pytest.mark.usefixtures("proof")
@pytest.mark.parametrize(("reference", "said"), [(0.7466, False), (0.7614, True)])
def test_ablations_of_another_run_are_told_apart(reference, said):
    from report import ablation_lines

    seeds = pd.DataFrame({"set": "held_out", "model": "bone_muscle", "seed": [0, 1]})
    seeds[["n", "auroc"]] = 3000, 0.74664
    table = pd.DataFrame({"ablation": ["no_attention", "narrow_crop"], "question": "Why?"})
    table[["n", "auroc"]] = [[3000, 0.75], [1000, 0.7]]
    table["against"] = "bone_muscle, seed 0"
    table["reference"] = [reference, 0.72]  # the second's patients are not the page's
    table[["difference", "ci_low", "ci_high", "p"]] = 0.01, 0.0, 0.02, 0.04
    text = "\n".join(ablation_lines(table, seeds))
    assert ("bone muscle, seed 0 had 0.761 in it, here it has 0.747" in text) == said
    assert text.count("| no attention |") == 1


@pytest.mark.slow
def test_the_experiment_at_toy_size(tmp_path):
    out, results = tmp_path / "out", tmp_path / "results"
    run("run.py", str(out), "--size", "toy", "--workers", "1", "--results", str(results))
    chosen = ("*/muscle_occluded/*", "*/no_attention/*")
    run("ablations.py", str(out), "--size", "toy", "--workers", "1", "--only", *chosen)
    again = run("run.py", str(out), "--size", "toy", "--workers", "1", "--results", str(results))
    steps = [line for line in again.splitlines() if line.count("/") > 1]
    assert not list(out.glob("crops_*"))  # of streamed sets
    assert steps
    assert all(line.endswith("done before") for line in steps)
    aurocs = pd.read_csv(results / "aurocs.csv").set_index(["set", "model"])
    assert {("held_out", "bone"), ("confirmation", "bone"), ("external", "bone_muscle")} <= set(
        aurocs.index
    )
    assert aurocs.loc[("held_out", "bone_muscle"), "n"] == 12
    assert set(pd.read_csv(results / "seeds.csv")["seed"]) == {0, 1}
    assert set(pd.read_csv(results / "saliency.csv")["control"]) >= {"randomised"}
    assert set(pd.read_csv(results / "ablations.csv")["ablation"]) == {
        "muscle_occluded",
        "no_attention",
    }
    page = (results / "results.md").read_text()
    for words in ("Table 3", "Table 4", "Table S1", "Learning curve", "Where the network looks"):
        assert words in page
    for name in ("forest_held_out", "forest_external", "learning_curve", "saliency"):
        assert (results / f"{name}.png").stat().st_size > 5000
