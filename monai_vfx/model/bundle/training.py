"""Training: first weights, checkpoints to resume from, the sidecar, the learning curve."""

from __future__ import annotations

import csv
import json
import logging
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from ignite.engine import Events
from monai.engines import Trainer, Workflow
from monai.handlers import CheckpointLoader, CheckpointSaver
from monai.transforms import Compose
from monai.utils import MAX_SEED, set_determinism
from torch.utils.data import DistributedSampler

from monai_vfx.analysis.cohort import CohortItem, table_sha256
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.files import write_json
from monai_vfx.model.backbones import load_backbone
from monai_vfx.model.checkpoint import read_sidecar, write_sidecar
from monai_vfx.model.network import AttentionCNNRNN
from monai_vfx.model.pretrained import known_sha256

_LOG = logging.getLogger(__name__)
CHECKPOINT = re.compile(r"last_checkpoint_epoch=(\d+)\.pt")
KEPT = 2
"""Checkpoints to resume from that a folder keeps."""


def check_resumable(
    output_dir: str | Path, resume: bool, config: Json, training: Json, cohort: str | Path
) -> None:
    """Refuse to mix two trainings in one folder; note the settings of this one.

    The list of refused cases of an earlier run is removed: this run writes its own.

    Args:
        output_dir: folder of the training.
        resume: whether an earlier training may be gone on with.
        config: merged settings of network and preprocessing, plain values.
        training: merged settings of the training; ``max_epochs`` may be raised, unless the
            learning rate falls towards it.
        cohort: the table.

    Raises:
        SettingError: the folder holds a training that is not to be resumed, one with other
            settings or patients, or one of more epochs than ``max_epochs``.
    """
    record = Path(output_dir) / "settings.json"
    free = () if training.get("schedule") == "cosine" else ("max_epochs",)
    fixed = {name: value for name, value in training.items() if name not in free}
    settings: Json = {**config, **fixed, "cohort_sha256": table_sha256(cohort)}
    newest = newest_checkpoint(output_dir)
    if newest is not None and not resume:
        raise SettingError(
            f"{output_dir} holds an earlier training ({newest.name}): set resume to true to go on "
            "with it, or give another output_dir"
        )
    if newest is not None and record.is_file():
        earlier = json.loads(record.read_text(encoding="utf-8"))
        changed = sorted(name for name in settings if settings[name] != earlier.get(name))
        if changed:
            raise SettingError(
                f"{output_dir} holds a training with another {', '.join(changed)}: give another "
                "output_dir"
            )
    if newest is not None and training["max_epochs"] < _epoch_of(newest):
        raise SettingError(
            f"max_epochs ({training['max_epochs']}) must be at least {_epoch_of(newest)}, the "
            f"epochs that {output_dir} holds: raise it, or give another output_dir"
        )
    write_json(record, settings)
    (Path(output_dir) / "refused.jsonl").unlink(missing_ok=True)


def start_from(
    network: AttentionCNNRNN,
    backbone: str,
    pretrained: str | Path | None,
    output_dir: str | Path,
    sha256: str | None = None,
) -> None:
    """Give the encoder its first weights; None leaves the random ones.

    Kept out of ``network_def`` so that this builds without a download; nothing is fetched when the
    folder holds a checkpoint to resume from.

    Raises:
        SettingError: the weights are neither cached nor reachable.
    """
    if pretrained is not None and newest_checkpoint(output_dir) is None:
        network.load_encoder(load_backbone(backbone, pretrained, sha256))


def hash_of_pretrained(
    pretrained: str | Path | None, backbone: str, output_dir: str | Path
) -> str | None:
    """Return the SHA-256 of the encoder's first weights, for the record.

    Of weights that torchvision downloads, the digits that it knows. A file that a training began
    with may be gone when it is resumed: what ``settings.json`` noted then is returned.
    """
    found = known_sha256(pretrained, backbone)
    record = Path(output_dir) / "settings.json"
    if found is None and pretrained is not None and record.is_file():
        noted = json.loads(record.read_text(encoding="utf-8")).get("pretrained_sha256")
        return None if noted is None else str(noted)
    return found


def newest_checkpoint(folder: str | Path) -> Path | None:
    """Return the newest whole ``last_checkpoint_epoch=N.pt`` of a folder, or None.

    A file that was cut short, as when the machine lost power while writing it, is passed over.
    """
    newest_first = sorted(_checkpoints(folder), key=_epoch_of, reverse=True)
    return next((path for path in newest_first if _is_whole(path)), None)


def _checkpoints(folder: str | Path) -> list[Path]:
    """Return all checkpoints to resume from, whole or not."""
    found = Path(folder).glob("last_checkpoint_epoch=*.pt")
    return [path for path in found if CHECKPOINT.fullmatch(path.name)]


def _is_whole(path: Path) -> bool:
    """Tell whether a checkpoint's archive ends as it should and its checksums hold."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError, ValueError):
        return False


def _epoch_of(checkpoint: Path) -> int:
    """Return the number of epochs after which a checkpoint was saved."""
    return int(CHECKPOINT.sub(r"\1", checkpoint.name))


class EpochSeeds:
    """Seed every random draw of an epoch by the run's seed and the epoch's number.

    An epoch then draws the same whether the epochs before it ran in this process or in one that
    was killed: order of patients, first slices, dropout. Attach it to the trainer.

    Args:
        seed: of the run.
        transform: chain of the training images, with its random parts.
    """

    def __init__(self, seed: int, transform: Compose) -> None:
        self.seed = seed
        self.transform = transform

    def attach(self, engine: Workflow) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        """Seed the epoch that begins; each of several processes draws its own."""
        key = [self.seed % MAX_SEED, engine.state.epoch, engine.state.rank]
        draws, slices = np.random.SeedSequence(key).generate_state(2).tolist()
        # Worker processes take their seeds from torch's generator when an epoch's loader starts.
        set_determinism(seed=draws)
        self.transform.set_random_state(seed=slices % MAX_SEED)
        sampler = getattr(engine.data_loader, "sampler", None)
        if isinstance(sampler, DistributedSampler):
            sampler.set_epoch(engine.state.epoch)


class TrainingCheckpoints:
    """Save network, optimizer and trainer after each epoch; resume from the newest.

    The newest two are kept, so that one is whole whenever the machine stops. What an epoch leaves
    besides (best checkpoint, sidecar, curve) must be written before, by handlers attached earlier:
    an epoch without its checkpoint is run again, and gives the same.

    Args:
        save_dir: folder of ``last_checkpoint_epoch=N.pt``.
        save_dict: what to save besides the trainer.
        resume: go on from what the folder holds.
        best: saver of the best checkpoint; a resumed run replaces it only by a better one.
        best_path: file of the best checkpoint. One whose sidecar is missing or of another file, as
            when the run was killed between the two, is passed over with a warning.
    """

    def __init__(
        self,
        save_dir: str | Path,
        save_dict: Mapping[str, Any],
        resume: bool = False,
        best: CheckpointSaver | None = None,
        best_path: str | Path | None = None,
    ) -> None:
        self.save_dir = Path(save_dir)
        self.save_dict = dict(save_dict)
        self.resume = resume
        self.best = best
        self.best_path = best_path

    def attach(self, engine: Workflow) -> None:
        """Register with the trainer; only the first of several processes saves."""
        everything = {**self.save_dict, "trainer": engine, "scaler": _Scaler(cast(Trainer, engine))}
        newest = newest_checkpoint(self.save_dir) if self.resume else None
        if newest is not None:
            anywhere = cast(Any, "cpu")  # torch.load takes a name too; MONAI's hint is narrower
            CheckpointLoader(str(newest), everything, map_location=anywhere).attach(engine)
            self._remember_best()
        if engine.state.rank == 0:
            CheckpointSaver(
                save_dir=str(self.save_dir),
                save_dict=everything,
                file_prefix="last",
                save_interval=1,
            ).attach(engine)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._tidy)

    def _tidy(self, engine: Workflow) -> None:
        """Remove all checkpoints but the newest two, those of an earlier process too."""
        for path in sorted(_checkpoints(self.save_dir), key=_epoch_of)[:-KEPT]:
            path.unlink()

    def _remember_best(self) -> None:
        """Tell the saver of the best checkpoint what the earlier run reached."""
        if self.best is None or self.best_path is None or not Path(self.best_path).is_file():
            return
        try:
            reached = read_sidecar(self.best_path)["validation"]["auroc"]
        except CaseRefused as refusal:
            _LOG.warning("the best checkpoint so far is not used: %s", refusal.message)
            return
        self.best.load_state_dict({"_saved": [(reached, Path(self.best_path).name)]})


class _Scaler:
    """The state of mixed precision's loss scaling, which MONAI makes anew at each run."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def state_dict(self) -> Json:
        """Return the state; empty without mixed precision."""
        return {} if self.trainer.scaler is None else dict(self.trainer.scaler.state_dict())

    def load_state_dict(self, state: Json) -> None:
        """Go on with this state."""
        if self.trainer.scaler is not None and state:
            self.trainer.scaler.load_state_dict(state)


class SidecarWriter:
    """Write the sidecar, and ``split.json``, whenever the best checkpoint was saved anew.

    ``split.json`` holds the cases' names by part, so that anybody can check that no patient
    trained on is tested on: ``train`` and ``validation`` as the table gives them, ``test`` of the
    fold left out, ``refused`` those of the first two whose images were not accepted.

    Attach it to the validation engine, after the saver.

    Args:
        weights: file of the best checkpoint.
        bundle: name and version of the bundle.
        config: merged settings of network and preprocessing, plain values.
        training: merged settings of the training, plain values.
        cohort: the table.
        split: patients by part, ``train``, ``validate`` and ``test``.
        train_items: patients trained on.
        validation_items: patients validated on.
        metric: name of the validation AUROC.
    """

    def __init__(
        self,
        weights: str | Path,
        bundle: Mapping[str, str],
        config: Json,
        training: Json,
        cohort: str | Path,
        split: Mapping[str, Sequence[CohortItem]],
        train_items: Sequence[CohortItem],
        validation_items: Sequence[CohortItem],
        metric: str = "val_auroc",
    ) -> None:
        self.weights = Path(weights)
        self.metric = metric
        self.validation = _counts(validation_items)
        accepted = {item["case_id"] for item in (*train_items, *validation_items)}
        used = [item["case_id"] for part in ("train", "validate") for item in split[part]]
        self.split: Json = {
            **{name: training.get(name) for name in ("folds", "fold", "test_fold", "seed")},
            "train": [item["case_id"] for item in split["train"]],
            "validation": [item["case_id"] for item in split["validate"]],
            "test": [item["case_id"] for item in split["test"]],
            "refused": [case for case in used if case not in accepted],
        }
        self.document: Json = {
            "bundle": bundle["name"],
            "version": bundle["version"],
            "image_class": config["image_class"],
            "config": config,
            "training": training,
            "trained_on": {"cohort_sha256": table_sha256(cohort), **_counts(train_items)},
            "simulated": any(item["simulated"] for item in (*train_items, *validation_items)),
            "calibration": None,
        }
        self._written = self._stamp()

    def attach(self, engine: Workflow) -> None:
        """Register with the validation engine."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Write, if the checkpoint is new."""
        if self._stamp() == self._written:
            return
        write_json(self.weights.with_name("split.json"), self.split)
        facts = {"epoch": engine.state.epoch, "auroc": float(engine.state.metrics[self.metric])}
        write_sidecar(self.weights, {**self.document, "validation": {**facts, **self.validation}})
        self._written = self._stamp()

    def _stamp(self) -> tuple[int, int] | None:
        if not self.weights.is_file():
            return None
        status = self.weights.stat()
        return status.st_mtime_ns, status.st_size


class HistoryWriter:
    """Write the learning curve as a table: epoch, train_loss, val_auroc.

    Attach it to the trainer, after the validation.

    Args:
        path: CSV to write.
        validator: engine whose metrics hold the AUROC.
        metric: its name there.
        resume: keep the rows of earlier epochs.
    """

    COLUMNS = ("epoch", "train_loss", "val_auroc")

    def __init__(
        self, path: str | Path, validator: Workflow, metric: str = "val_auroc", resume: bool = False
    ) -> None:
        self.path = Path(path)
        self.validator = validator
        self.metric = metric
        self.resume = resume
        self._loss = self._patients = 0.0

    def attach(self, engine: Workflow) -> None:
        """Register with the trainer; only the first of several processes writes."""
        if engine.state.rank != 0:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self, engine: Workflow) -> None:
        self._loss = self._patients = 0.0

    def _add(self, engine: Workflow) -> None:
        patients = len(engine.state.output["label"])
        self._loss += float(engine.state.output["loss"].detach()) * patients
        self._patients += patients

    def _write(self, engine: Workflow) -> None:
        epoch = engine.state.epoch
        earlier = self._earlier(epoch) if self.resume or epoch > 1 else []
        validated = self.validator.state.epoch == epoch
        row = {
            "epoch": epoch,
            "train_loss": f"{self._loss / self._patients:.6f}",
            "val_auroc": f"{self.validator.state.metrics[self.metric]:.6f}" if validated else "",
        }
        partial = self.path.with_name(self.path.name + ".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, self.COLUMNS)
            table.writeheader()
            table.writerows([*earlier, row])
        partial.replace(self.path)

    def _earlier(self, epoch: int) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]


def _counts(items: Sequence[CohortItem]) -> dict[str, int]:
    return {"patients": len(items), "fractures": sum(item["label"] for item in items)}
