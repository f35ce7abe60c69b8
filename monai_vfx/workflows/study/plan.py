"""STUDY.yaml: what a study does, checked before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from monai_vfx.analysis.cohort.check_table import read_gate
from monai_vfx.analysis.cohort.flow import Eligibility
from monai_vfx.analysis.cohort.matching import Matching
from monai_vfx.analysis.cohort.settings import read_section
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.schemas import violations

TIMM = "timm/"
"""Begins the name of a network of timm: no path."""


@dataclass(frozen=True)
class ImagePlan:
    """The networks of a study.

    Args:
        models: name → overlays of its training, beside ``overlays``. A study compares them, as
            the paper does bone-only with bone + muscle.
        main: the model that is calibrated, explained and fused with clinical variables.
        fusion: clinical models whose variables join the main model before its last layer.
        hazard: also train the main model with yearly hazards.
        overlays: of every training.
        epochs: of every training; the configs' number by default.
        pretrained: weights that the encoder starts from: ``imagenet``, ``timm/NAME``, ``none``
            or a local file; the configs' by default.
        further_seeds: the models are trained anew from these, to show the spread over seeds.
        workers: processes that load images for evaluation.
    """

    models: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"bone": ("bone_only",), "bone_muscle": ()}
    )
    main: str = "bone_muscle"
    fusion: tuple[str, ...] = ("A", "B", "C", "D")
    hazard: bool = True
    overlays: tuple[str, ...] = ()
    epochs: int | None = None
    pretrained: str | None = None
    further_seeds: tuple[int, ...] = ()
    workers: int = 0


@dataclass(frozen=True)
class Hospital:
    """Where patients come from: a table, or a simulation with these settings.

    The ``gate`` is a check.csv of the table's CTs: refused cases, and those with a warning of
    ``exclude_warnings``, are left out and counted.
    """

    table: Path | None = None
    simulate: Json | None = None
    gate: Path | None = None
    exclude_warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A whole study.

    Args:
        name: heads the report.
        development: patients to train and cross-validate on.
        external: patients to test on once; None for none.
        seed: of matching, folds, weights and draws.
        folds: at least 3: one is tested on, the next chooses epoch and thresholds.
        eligibility: who is analysed.
        matching: how controls are chosen; never applied to the external hospital.
        clinical: models of the clinical variables, by the paper's letters.
        images: the networks.
        subgroups: columns by which discrimination is shown apart.
        bootstrap: samples of every bootstrap interval.
        gallery: patients whose heat maps are shown.
    """

    name: str
    development: Hospital
    external: Hospital | None = None
    seed: int = 0
    folds: int = 10
    eligibility: Eligibility = field(default_factory=Eligibility)
    matching: Matching = field(default_factory=Matching)
    clinical: tuple[str, ...] = ("A", "B", "C", "D")
    images: ImagePlan = field(default_factory=ImagePlan)
    subgroups: tuple[str, ...] = ("sex", "age", "scanner", "contrast_phase")
    bootstrap: int = 2000
    gallery: int = 4

    def to_json(self) -> Json:
        """Return all settings in force, as plain values; files by their names alone."""
        document: Json = asdict(self)
        for hospital in (document["development"], document["external"] or {}):
            for name in ("table", "gate"):
                if hospital.get(name) is not None:
                    hospital[name] = Path(hospital[name]).name
            if hospital and hospital["gate"] is None:  # as in studies before there were gates
                del hospital["gate"], hospital["exclude_warnings"]
        networks = document["images"]
        networks["overlays"] = [Path(name).name for name in networks["overlays"]]
        networks["models"] = {
            model: [Path(name).name for name in names]
            for model, names in networks["models"].items()
        }
        if not (networks["pretrained"] or TIMM).startswith(TIMM):
            networks["pretrained"] = Path(networks["pretrained"]).name
        plain: Json = _plain(document)
        return plain


def read_plan(path: str | Path) -> Plan:
    """Read a STUDY.yaml; tables and overlay files in it are looked for from its folder.

    Raises:
        SettingError: names every setting that breaks a rule.
    """
    path = Path(path)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"{path.name} is not YAML: {str(error).splitlines()[0]}") from error
    broken = violations(document, "study")
    if broken:
        raise SettingError(f"{path.name}: " + "; ".join(broken))
    settings: dict[str, Any] = dict(document)
    folder = path.resolve().parent
    for site in ("development", "external"):
        if site in settings:
            settings[site] = _hospital(site, settings[site], folder)
    for name, kind in (("eligibility", Eligibility), ("matching", Matching)):
        if name in settings:
            settings[name] = read_section(f"{path.name}: {name}", kind, settings[name])
    if "images" in settings:
        settings["images"] = _images(path.name, settings["images"], folder)
    plan = Plan(**{name: _frozen(value) for name, value in settings.items()})
    if not plan.images.models and not plan.clinical:
        raise SettingError(f"{path.name}: there must be a model: in images, clinical or both")
    return plan


def _hospital(site: str, settings: Json, folder: Path) -> Hospital:
    if "simulate" in settings:
        return Hospital(simulate=dict(settings["simulate"]))
    table = folder / settings["table"]
    if not table.is_file():
        raise SettingError(f"{site}: table {settings['table']!r} does not exist")
    if "gate" not in settings:
        return Hospital(table=table)
    gate, codes = folder / settings["gate"], tuple(settings.get("exclude_warnings", ()))
    if not gate.is_file():
        raise SettingError(f"{site}: gate {settings['gate']!r} does not exist")
    read_gate(gate, codes)  # before hours of work
    return Hospital(table=table, gate=gate, exclude_warnings=codes)


def _images(file: str, settings: Json, folder: Path) -> ImagePlan:
    values: dict[str, Any] = {key: _frozen(value) for key, value in settings.items()}
    if "models" in values:
        values["models"] = {
            name: tuple(_overlay(o, folder) for o in overlays)
            for name, overlays in settings["models"].items()
        }
    values["overlays"] = tuple(_overlay(o, folder) for o in settings.get("overlays", ()))
    if values.get("pretrained") is not None:
        values["pretrained"] = _pretrained(values["pretrained"], folder)
    plan = ImagePlan(**values)
    if plan.models and plan.main not in plan.models:
        raise SettingError(
            f"{file}: images: main ({plan.main!r}) must be one of {', '.join(plan.models)}"
        )
    return plan


def _pretrained(name: str, folder: Path) -> str:
    """Return the name of pretrained weights, or the path of a file beside STUDY.yaml."""
    if name in ("none", "imagenet") or name.startswith(TIMM):
        return name
    file = folder.absolute() / name
    # What might be a name is one, unless there is such a file: the training says what is known.
    return name if name.isidentifier() and not file.is_file() else str(file)


def _overlay(name: str, folder: Path) -> str:
    """Return an overlay's name, or the path of a file beside STUDY.yaml."""
    return str(folder / name) if Path(name).suffix in (".yaml", ".yml", ".json") else name


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
