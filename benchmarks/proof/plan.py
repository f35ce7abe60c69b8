"""What the experiment consists of: sizes, sets of patients, models, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from monai_vfx.core.errors import SettingError
from monai_vfx.simulation.hazard import Signal
from monai_vfx.simulation.populations import Hospital

HERE = Path(__file__).resolve().parent
NO_MUSCLE: Signal = "no_muscle"
"""Signal of the simulation in which the muscle does not count, and prefix of its sets."""
FULL = "development"
FRESH = "confirmation"
"""A third draw of the development hospital, for which nothing was chosen; maps are taken there."""
KEPT = (FULL, "held_out", f"{NO_MUSCLE}_{FULL}")
"""Sets whose crops are read again and again; the others are scored block by block."""
SEED_OF_SET = {"development": 11, "held_out": 12, "external": 13, "confirmation": 14}
"""Far enough apart that no two sets share a patient: chunk k of a set has the seed 1000 s + k."""


@dataclass(frozen=True)
class PatientSet:
    """Patients drawn from one simulated hospital with one signal.

    Args:
        name: its folder.
        hospital: whose population, sampling and scanner, ``development`` or ``external``.
        signal: of the simulation.
        patients: number.
        seed: of the first chunk.
        tested: False for those that train.
        kept: whether its crops stay on the disk; those of other sets go when they are scored.
        field_of_view: ``quick`` (2 mm pixels) or ``full``.
    """

    name: str
    hospital: Hospital
    signal: Signal
    patients: int
    seed: int
    tested: bool
    kept: bool = True
    field_of_view: str = "quick"


@dataclass(frozen=True)
class Model:
    """A network to train, once a seed.

    Args:
        name: of its folder and score.
        overlays: of its training, in order.
        train_on: table within the folder of the training set, without ending.
        training_set: name of the set.
        test_on: sets that it is scored on.
        seeds: one training each.
        sees: class of models whose attainable AUROC it is held against, a name of
            :data:`monai_vfx.simulation.attainable.CLASSES`; None for none.
        longer: factor of the epochs: a part of the training set is trained for as many steps.
    """

    name: str
    overlays: tuple[str, ...]
    train_on: str
    training_set: str
    test_on: tuple[str, ...]
    seeds: tuple[int, ...]
    sees: str | None
    longer: float = 1.0


def read_plan(size: str, path: Path = HERE / "plan.yaml") -> dict[str, Any]:
    """Return the settings of one size.

    Raises:
        SettingError: the file has no such size.
    """
    sizes: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if size not in sizes:
        raise SettingError(f"size {size!r} is not one of {', '.join(sizes)}")
    return sizes[size]


def patient_sets(plan: dict[str, Any]) -> list[PatientSet]:
    """List the sets of the plan's signal, then those without muscle signal."""
    groups = [("", plan["signal"], plan["hospitals"])]
    groups.append((f"{NO_MUSCLE}_", NO_MUSCLE, plan["no_muscle"]))
    return [
        PatientSet(
            name=prefix + name,
            hospital="external" if name == "external" else "development",
            signal=signal,
            patients=int(count),
            seed=1000 * (SEED_OF_SET[name] + (100 if prefix else 0)),
            tested=name != FULL,
            kept=prefix + name in KEPT,
            field_of_view=plan["field_of_view"],
        )
        for prefix, signal, sets in groups
        for name, count in sets.items()
    ]


def overlays_of(plan: dict[str, Any], *, bone: bool = False, more: tuple[str, ...] = ()) -> Any:
    """Return the overlays of an image class, files of this folder as paths."""
    names = [*(["bone_only"] if bone else []), *plan["overlays"]]
    names += [*(plan["bone_overlays"] if bone else []), *more]
    return tuple(str(HERE / name) if (HERE / name).is_file() else name for name in names)


def models(plan: dict[str, Any]) -> list[Model]:
    """List the networks, those first that the claims rest on."""
    both = {"bone": overlays_of(plan, bone=True), "bone_muscle": overlays_of(plan)}
    sees = {"bone": "image_bone", "bone_muscle": "image_bone_muscle"}
    seeds, first = tuple(plan["seeds"]), tuple(plan["seeds"][:1])
    tests = tuple(name for name in plan["hospitals"] if name != FULL)
    found = [
        Model(name, overlays, "cohort", FULL, tests, seeds, sees[name])
        for name, overlays in both.items()
    ]
    permuted = [("permuted", first[0])]
    permuted += [(f"permuted_{n}", n // 2) for n in range(plan["permutations"])]
    found += [
        Model(name, both["bone_muscle"], name, FULL, ("held_out",), (seed,), None)
        for name, seed in permuted
    ]
    if any(item.name.startswith(NO_MUSCLE) for item in patient_sets(plan)):
        found += [
            Model(
                f"{NO_MUSCLE}_{name}",
                overlays,
                "cohort",
                f"{NO_MUSCLE}_{FULL}",
                (f"{NO_MUSCLE}_held_out",),
                seeds,
                sees[name],
            )
            for name, overlays in both.items()
        ]
    found += [
        Model(
            f"{name}_of_{n}",
            overlays,
            f"first_{n}",
            FULL,
            ("held_out",),
            seeds,
            sees[name],
            longer=plan["hospitals"][FULL] / n,
        )
        for n in plan["learning_curve"]
        for name, overlays in both.items()
    ]
    found += [
        Model(
            f"fusion_{letter}",
            overlays_of(plan, more=(f"clinical_{letter}",)),
            "cohort",
            FULL,
            tests,
            first,
            f"image_{letter}",
        )
        for letter in plan["fusion"]
    ]
    return found
