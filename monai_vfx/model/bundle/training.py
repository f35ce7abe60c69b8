"""Training: pretrained weights, optimizer, learning rate, seeds, sidecar and learning curve."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Events
from monai.engines import Workflow
from monai.handlers import CheckpointSaver
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import Compose
from monai.utils import MAX_SEED, set_determinism
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.utils.data import DistributedSampler

from monai_vfx.analysis.cohort.training_items import CohortItem, table_sha256
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.files import read_json, write_json
from monai_vfx.model.checkpoint import read_sidecar, write_sidecar
from monai_vfx.model.encoder import load_encoder, sha256_of_pretrained
from monai_vfx.model.network import AttentionCNNRNN, one_of
from monai_vfx.vertebrae.training.checkpoints import HistoryWriter, newest_checkpoint

_LOG = logging.getLogger(__name__)


def start_from(
    network: AttentionCNNRNN,
    backbone: str,
    pretrained: str | Path | None,
    output_dir: str | Path,
    sha256: str | None = None,
) -> None:
    """Give the encoder its pretrained weights; None leaves the random ones.

    Kept out of ``network_def`` so that this builds without a download; nothing is downloaded when
    the folder holds a checkpoint to resume from.
    """
    if pretrained is not None and newest_checkpoint(output_dir) is None:
        network.load_encoder(load_encoder(backbone, pretrained, sha256))


def hash_of_pretrained(pretrained: str | Path | None, output_dir: str | Path) -> str | None:
    """Return the SHA-256 of a file of pretrained weights, for the record.

    A file that a training began with may be gone when it is resumed: what ``settings.json`` noted
    then is returned.
    """
    found = sha256_of_pretrained(pretrained)
    record = Path(output_dir) / "settings.json"
    if found is None and pretrained is not None and record.is_file():
        noted = read_json(record).get("pretrained_sha256")
        return None if noted is None else str(noted)
    return found


def make_optimizer(
    network: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.0,
    encoder_rate: float = 1.0,
    gradient_clip: float = 0.0,
) -> Optimizer:
    """Return Adam as in the study; with weight decay, AdamW (Loshchilov & Hutter 2019).

    Args:
        network: to train.
        learning_rate: of decoder and heads.
        weight_decay: decoupled; biases, norms and other vectors are left out.
        encoder_rate: factor of the learning rate in the encoder's stem and stages.
        gradient_clip: largest L2 norm of all gradients of a step; 0 leaves them as they are.

    Raises:
        SettingError: a value is negative.
    """
    options = {"weight_decay": weight_decay, "encoder_rate": encoder_rate}
    for name, value in {**options, "gradient_clip": gradient_clip}.items():
        if value < 0:
            raise SettingError(f"{name} ({value!r}) must be at least 0")
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        factor = encoder_rate if name.split(".")[0] in ("stem", "stages") else 1.0
        decay = weight_decay if parameter.dim() > 1 else 0.0
        members.setdefault((learning_rate * factor, decay), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": p, "lr": lr, "weight_decay": wd} for (lr, wd), p in members.items()
    ]
    kind = AdamW if weight_decay else Adam
    optimizer: Optimizer = kind(groups, lr=learning_rate, weight_decay=weight_decay)

    def clip(*_: object) -> None:
        # With mixed precision the scaler has divided by its factor by then.
        nn.utils.clip_grad_norm_([p for each in members.values() for p in each], gradient_clip)

    if gradient_clip:
        optimizer.register_step_pre_hook(clip)
    return optimizer


def make_schedule(
    optimizer: Optimizer, schedule: str, warmup_epochs: int, max_epochs: int, epoch_steps: int
) -> WarmupCosineSchedule:
    """Return MONAI's schedule of the learning rate, which advances with each optimizer step.

    Args:
        optimizer: whose rates change.
        schedule: ``none``, constant; ``cosine``, down to 0 at the last step.
        warmup_epochs: the rate rises linearly over so many.
        max_epochs: of the training.
        epoch_steps: steps of the optimizer in an epoch.

    Raises:
        SettingError: a value is out of range.
    """
    one_of("schedule", schedule, ("none", "cosine"))
    if warmup_epochs < 0:
        raise SettingError(f"warmup_epochs ({warmup_epochs!r}) must be at least 0")
    warmup = warmup_epochs * epoch_steps
    scheduler = WarmupCosineSchedule(
        optimizer,
        warmup_steps=warmup,
        t_total=max_epochs * epoch_steps,
        cycles=0.5 if schedule == "cosine" else 0.0,
        warmup_multiplier=1 / max(warmup, 1),
    )
    # Not by MONAI's LrScheduleHandler, which counts batches: gradients of several are accumulated.
    optimizer.register_step_post_hook(lambda *_: scheduler.step())
    return scheduler


class EpochSeeds:
    """Seed every random draw of an epoch by the run's seed and the epoch's number.

    An epoch then draws the same whether the epochs before it ran in this process or in one that
    was killed: order of patients, first slices, dropout. Attach it to the trainer.
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


def remember_best(saver: CheckpointSaver, weights: str | Path) -> None:
    """Tell the saver of the best checkpoint what an earlier run reached (``on_resume``).

    A checkpoint whose sidecar is missing or of another file, as when the run was killed between
    the two, is passed over with a warning.
    """
    if not Path(weights).is_file():
        return
    try:
        reached = read_sidecar(weights)["validation"]["auroc"]
    except CaseRefused as refusal:
        _LOG.warning("the best checkpoint so far is not used: %s", refusal.message)
        return
    saver.load_state_dict({"_saved": [(reached, Path(weights).name)]})


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


class RiskHistoryWriter(HistoryWriter):
    """Write the learning curve: epoch, train_loss (a mean over patients), val_auroc."""

    def row(self, engine: Workflow, validated: bool) -> dict[str, str]:
        """Return the cells of an epoch that has ended, without its number."""
        total = sum(loss * patients for loss, patients in self.losses)
        mean = total / sum(patients for _, patients in self.losses)
        auroc = f"{self.validator.state.metrics['val_auroc']:.6f}" if validated else ""
        return {"train_loss": f"{mean:.6f}", "val_auroc": auroc}


def _counts(items: Sequence[CohortItem]) -> dict[str, int]:
    return {"patients": len(items), "fractures": sum(item["label"] for item in items)}
