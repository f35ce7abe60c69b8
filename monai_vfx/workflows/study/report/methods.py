"""The methods of a study in sentences, with the settings that were in force, and its model card."""

from __future__ import annotations

from typing import Any

from monai_vfx.core.arrays import Json
from monai_vfx.workflows.study.report.data import StudyFolder, estimate, label_of, number
from monai_vfx.workflows.study.report.text import short_set


def methods(study: StudyFolder) -> list[tuple[str, list[str]]]:
    """Return the methods with the study's own settings: (heading, paragraphs)."""
    parts = [
        ("Participants", _participants_methods(study)),
        ("Controls", _matching_methods(study)),
        ("Images and networks", _image_methods(study)),
        ("Clinical models", _clinical_methods(study)),
        ("Validation", _validation_methods(study)),
        ("Statistics", _statistics_methods(study)),
        ("Absolute risk", _risk_methods(study)),
    ]
    return [(heading, paragraphs) for heading, paragraphs in parts if paragraphs]


def _participants_methods(study: StudyFolder) -> list[str]:
    rules = study.settings.get("eligibility") or {}
    if not rules:
        return []
    parts = [
        f"People aged {number(rules.get('min_age'), 0)} to {number(rules.get('max_age'), 0)} years "
        f"with at least {number(rules.get('min_follow_up_years'), 1)} years of follow-up could "
        "take part."
    ]
    for key, sentence in (
        ("exclude_baseline_fracture", "A vertebral fracture at baseline excluded."),
        ("exclude_spinal_surgery", "Earlier spinal surgery excluded."),
        ("first_scan_only", "Of several CTs of one patient the earliest was used."),
        ("need_image_quality", "CTs that were judged inadequate were dropped, and counted."),
    ):
        if rules.get(key):
            parts.append(sentence)
    outcome = (
        "The outcome is an incident vertebral fracture from T12 to L4, without trauma, within five "
        "years of the CT, as the patient table states it. A value that a rule needs and that is "
        "not known excludes; such exclusions are counted apart. No missing value was filled in "
        "before the models' own steps."
    )
    return [" ".join(parts), outcome]


def _matching_methods(study: StudyFolder) -> list[str]:
    rules = study.settings.get("matching") or {}
    method = rules.get("method")
    if method is None:
        return []
    if method == "none":
        return ["Controls were not matched: every eligible patient was analysed."]
    ratio = rules.get("ratio", 1)
    again = "with" if rules.get("replacement") else "without"
    if method == "risk_set":
        return [
            f"For each case {ratio} control(s) were drawn at random, {again} replacement, from "
            "patients of the same sex still under observation and free of fracture at the time of "
            f"the case's fracture (age within {number(rules.get('age_tolerance_years'), 1)} years, "
            f"CT within {rules.get('year_tolerance')} year(s)). The external set was not matched."
        ]
    variables = ", ".join(str(v).replace("_", " ") for v in rules.get("variables", ()))
    caliper = rules.get("caliper")
    limit = (
        "without a caliper"
        if caliper is None
        else f"within a caliper of {caliper:g} standard deviations of the logit"
    )
    return [
        f"Cases were matched 1:{ratio} to controls by the nearest propensity score on the logit "
        f"({variables}), {again} replacement, {limit}. Follow-up, where it is among the variables, "
        "is no part of the score but a rule: the control was followed without fracture at least as "
        "long as its case. The external set was not matched."
    ]


def _image_methods(study: StudyFolder) -> list[str]:
    if not study.sidecars:
        return []
    paragraphs = []
    for name, sidecar in study.sidecars.items():
        if name.startswith(("fusion_", "hazard")) or "_seed_" in name:
            continue
        paragraphs.append(f"“{label_of(f'image_{name}')}”: {_image_model(sidecar)}")
    paragraphs += [_mask_sentence(side, facts) for side, facts in study.made_masks.items()]
    others = [n for n in study.sidecars if n.startswith("fusion_")]
    if others:
        letters = ", ".join(n.removeprefix("fusion_") for n in others)
        paragraphs.append(
            f"Fusion ({letters}): the variables of the clinical model, standardised with the "
            "training patients' mean and SD, join the image's vector before the last layer."
        )
    if "hazard" in study.sidecars:
        paragraphs.append(
            "A further network learned yearly hazards for years 1 to 5 beside the binary outcome, "
            "with censoring and death taken into account."
        )
    return paragraphs


def _mask_sentence(side: str, facts: Json) -> str:
    """Say where masks come from that the table did not name."""
    makers = {
        "auto": "the vertebra segmentation of this package",
        "totalsegmentator": "TotalSegmentator",
        "spine-segment": "spine-segment",
    }
    return (
        f"Set “{side}”: for {facts['made'] + facts['refused']} CTs without a mask of their own the "
        f"vertebrae were found and named by {makers[facts['made_by']]}; {facts['refused']} of "
        "these CTs were refused and have no score. Names were not checked by eye unless the "
        "authors say so."
    )


def _image_model(sidecar: Json) -> str:
    """Return input, network and training of one image model."""
    config, training = sidecar["config"], sidecar["training"]
    rows, columns = config["crop_size"]
    low, high = (number(bound, 0) for bound in config["window_hu"])
    blanked = ", everything outside the bodies blanked" if config["masked"] else ""
    image = (
        f"{config['slices']} axial slices, evenly spread from T12 to L4, at "
        f"{config['pixel_mm']:g} mm in plane; {rows} × {columns} pixels (antero-posterior × "
        f"left-right) around the vertebral body, moved {config['posterior_mm']:g} mm to the "
        f"back{blanked}; {low} to {high} HU scaled to −1 to 1."
    )
    network = (
        f"Encoder {config['backbone']}, attention “{config['attention']}” on "
        f"{', '.join(config['attention_layers'])}, decoder {config['decoder']} "
        f"({config['rnn_hidden']} states), dropout {config['dropout']:g}."
    )
    fitting = (
        f"{_optimizer(training)}, batches of "
        f"{_setting(training, 'batch_size')} patients, {_setting(training, 'max_epochs')} epochs "
        f"at most, first weights: {_setting(training, 'pretrained')}; {_loss(training)}. "
        f"{_further(training)}The epoch with the best AUROC on the validation fold was kept."
    )
    return f"{image} {network} {fitting}"


def _optimizer(training: Json) -> str:
    """Say how steps were taken; weights from before a setting existed were trained without it."""
    decay, factor = training.get("weight_decay", 0), training.get("encoder_rate", 1)
    parts = [f"AdamW, weight decay {decay:g}" if decay else "Adam"]
    parts.append(f"learning rate {_setting(training, 'learning_rate')}")
    parts += [f"times {factor:g} in the encoder"] if factor != 1 else []
    if training.get("warmup_epochs"):
        parts.append(f"risen to linearly over {training['warmup_epochs']} epoch(s)")
    schedule = training.get("schedule", "none")
    if schedule == "cosine":
        parts.append("then lowered to 0 along a cosine")
    if schedule == "plateau":
        parts.append(
            f"a tenth of it after {training['plateau_epochs']} epochs without a better AUROC"
        )
    if training.get("gradient_clip"):
        parts.append(f"gradients of a norm up to {training['gradient_clip']:g}")
    return ", ".join(parts)


def _loss(training: Json) -> str:
    weights, smoothing = training.get("class_weights"), training.get("label_smoothing", 0)
    words = "cross-entropy"
    if weights == "balanced":
        words += " with weights that balance the classes"
    elif weights is not None:
        words += f" with weights {weights[0]:g} (no fracture) and {weights[1]:g} (fracture)"
    return words + (f", labels smoothed by {smoothing:g}" if smoothing else "")


def _further(training: Json) -> str:
    """Name what else was done to train on few patients, in sentences with a blank behind."""
    sentences = {
        "frozen_norms": "The encoder's batch norms stayed as they began.",
        "mixup": "Pairs of patients were mixed (MixUp, alpha {:g}).",
        "averaging": "The validated weights are a moving average (decay {:g} a step).",
        "bfloat16": "Training was in mixed precision (bfloat16).",
        "stop_after": "Training ended after {} epochs without a better AUROC.",
    }
    augmented = {
        "augment_shift_mm": "shifts up to {:g} mm",
        "augment_rotate_deg": "turns up to {:g}°",
        "augment_flip": "left and right exchanged with probability {:g}",
        "augment_hu": "HU shifted by up to {:g}",
        "augment_noise_hu": "noise with an SD of up to {:g} HU",
    }
    used = [words.format(training[n]) for n, words in augmented.items() if training.get(n)]
    said = [words.format(training[n]) for n, words in sentences.items() if training.get(n)]
    said += [f"Images were varied in training: {', '.join(used)}."] if used else []
    return "".join(f"{sentence} " for sentence in said)


def _setting(settings: Json, name: str) -> str:
    value: Any = settings.get(name)
    if value is None:
        return "none" if name == "pretrained" else "not stated"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _clinical_methods(study: StudyFolder) -> list[str]:
    letters = study.settings.get("clinical") or []
    if not letters:
        return []
    contents = {
        "A": "age and sex",
        "B": "A and BMI",
        "C": "B and glucocorticoids, drinking, smoking, possible secondary osteoporosis",
        "D": "C and type 2 diabetes, HIV, hepatitis C, renal failure",
    }
    listed = "; ".join(f"{letter}: {contents[letter]}" for letter in letters)
    return [
        f"Nested models ({listed}), each as gradient-boosted trees (XGBoost) and as penalised "
        "logistic regression, tuned inside the training folds only. FRAX scores were taken as the "
        "table gives them; the formula is not public."
    ]


def _validation_methods(study: StudyFolder) -> list[str]:
    folds = study.settings.get("folds")
    if folds is None:
        return []
    return [
        f"{folds}-fold cross-validation on the development set; all CTs of a patient and all "
        "members of a matched pair lie in one fold. Of the folds one is tested on, the next "
        "chooses a network's epoch and thresholds, the others train; models without images choose "
        "theirs on inner folds. Out-of-fold scores of all patients are "
        "pooled.",
        "The external set was scored once: by the mean probability of the models of all folds, "
        "at frozen thresholds."
        if "external" in study.evaluations
        else "There was no external set.",
        f"Seed {study.about.get('seed', study.settings.get('seed'))}.",
    ]


def _statistics_methods(study: StudyFolder) -> list[str]:
    samples = sorted(
        {
            entry["bootstrap_samples"]
            for evaluation in study.evaluations.values()
            for entry in evaluation["scores"].values()
            if entry.get("bootstrap_samples")
        }
    )
    if not study.evaluations:
        return []
    boot = (
        f" A second interval comes from {', '.join(f'{n:,}' for n in samples)} stratified "
        "bootstrap samples of patients."
        if samples
        else ""
    )
    return [
        "The patient is the unit. AUROC with DeLong's 95 % interval on the logit scale, compared "
        f"by DeLong's paired test.{boot} Accuracy, sensitivity and specificity with Wilson "
        "intervals, compared by the exact McNemar test. Holm's method corrects the p-values of a "
        "set, apart for AUROC and for each threshold rule and quantity. "
        "Where DeLong's interval has no answer (a perfect score, say) the file names what took its "
        "place.",
        "Tables 1 and 2: Student's t and chi-square test, Fisher's exact test where an expected "
        "count is below 5, with standardised mean differences.",
    ]


def _risk_methods(study: StudyFolder) -> list[str]:
    calibration = study.json("calibration/calibration.json")
    if calibration is None:
        return []
    censored = _censored(study)
    how = {
        "random_controls": "a constant offset of the logit (King and Zeng): the controls are taken "
        "as a random sample",
        "matched_controls": "an offset of the logit that depends on the matched variables, whose "
        "risk comes from the whole cohort's table",
    }[calibration["kind"]]
    return [
        f"Controls were sampled, so the score was turned into an absolute five-year risk by {how}; "
        "it rests on the share of fractures in the whole eligible cohort with adequate images. "
        "Slope and intercept were fitted on out-of-fold scores. "
        f"{censored}"
    ]


YEARS = 5


def _censored(study: StudyFolder) -> str:
    """Say how many of the whole cohort left early, which makes the risk too low."""
    table = study.table("cohort/development/analysed.csv")
    if table is None or "follow_up_years" not in table:
        return ""
    early = (table["follow_up_years"].astype(float) < YEARS) & (table["fracture"].astype(int) == 0)
    return (
        f"Of {len(table):,} patients {int(early.sum()):,} were followed for less than {YEARS} "
        "years without a fracture and count as free of one, which makes the risk rather too low."
    )


def model_card(study: StudyFolder) -> list[tuple[str, str]]:
    """Return what a user of the weights must know, as name and text."""
    pairs = [
        ("Model", f"{label_of(study.main)}; {len(study.sidecars)} image models in this study"),
        ("Purpose", "Research on the five-year risk of a vertebral fracture from T12 to L4."),
        (
            "Not for",
            "Diagnosis, treatment or any decision about a patient. It finds no fracture that is "
            "there today and replaces no reading of the CT.",
        ),
        (
            "Input",
            "A routine abdominal CT that covers T12 to L4, with a mask of the vertebral bodies or "
            "one that the package's segmentation makes; for the fused models also clinical "
            "variables.",
        ),
        ("Output", "A score between 0 and 1; an absolute risk only with a calibration."),
    ]
    sidecar = study.sidecars.get(study.main.removeprefix("image_"))
    if sidecar is not None:
        trained = sidecar["trained_on"]
        pairs += [
            (
                "Trained on (fold 0)",
                f"{trained['patients']:,} patients, {trained['fractures']:,} with a fracture"
                + (", simulated" if sidecar["simulated"] else ""),
            ),
            ("Bundle", f"{sidecar['bundle']} {sidecar['version']}"),
            ("Weights of fold 0, SHA-256", sidecar["weights_sha256"]),
        ]
    pairs += [
        (f"Performance, {short_set(name)}", estimate_words(evaluation["scores"].get(study.main)))
        for name, evaluation in study.evaluations.items()
    ]
    pairs.append(
        (
            "Limits",
            "Holds for people like those in Table 1, for CTs like those in the methods. Subgroups "
            "with few fractures are not known. Scores of another scanner, contrast phase or "
            "population need a calibration of their own.",
        )
    )
    if study.simulated:
        pairs.append(
            ("Data", "Simulated patients. Nothing in this study says anything about real people.")
        )
    return pairs


def estimate_words(entry: Json | None) -> str:
    """Return an AUROC with interval and counts, or that there is none."""
    if entry is None or entry["auroc"] is None:
        return "not estimated"
    return (
        f"AUROC {estimate(entry['auroc'], entry['auroc_ci'])}, {entry['events']:,} fractures of "
        f"{entry['n']:,} patients"
    )
