"""Training of the segmentation's networks: synthetic samples without end, curve, weights."""

from __future__ import annotations

import csv
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import Workflow
from monai.transforms import Compose
from monai.utils import MAX_SEED
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import write_json
from monai_vfx.core.hashing import sha256_of
from monai_vfx.vertebrae.segmentation.networks import NETWORKS, bundle_root
from monai_vfx.vertebrae.training.bank import HELD_OUT, AnatomyBank, BankItem, RealAnatomy
from monai_vfx.vertebrae.training.checkpoints import epoch_of, load_state, newest_checkpoint

_LOG = logging.getLogger(__name__)


class SyntheticSamples(Dataset[Json]):
    """Numbered synthetic samples; each depends on the seed and its number alone.

    Args:
        bank: label maps.
        transform: from a label map to ``image`` and ``label``; it is seeded for each sample.
        samples: how many there are.
        first: number of the first, for a training that is resumed.
        seed: of the run.
        held_out: sample n is made of the n-th held-out map, instead of any one for training.
        real: a real label map, None: none.
        real_share: share of the samples that are made of it.
    """

    def __init__(
        self,
        bank: AnatomyBank,
        transform: Compose,
        samples: int,
        first: int = 0,
        seed: int = 0,
        held_out: bool = False,
        real: RealAnatomy | None = None,
        real_share: float = 0.3,
    ) -> None:
        self.bank = bank
        self.transform = transform
        self.samples = samples
        self.first = first
        self.seed = seed
        self.held_out = held_out
        self.real = real
        self.real_share = real_share

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.samples

    def __getitem__(self, index: int) -> Json:
        """Make a sample."""
        if not 0 <= index < self.samples:
            raise IndexError(index)
        number = self.first + index
        rng = np.random.default_rng([self.seed, int(self.held_out), number])
        if self.held_out:
            item = self.bank[HELD_OUT + number]
        elif self.real is not None and rng.random() < self.real_share:
            item = self.real.draw(rng)
        else:
            item = self.bank[int(rng.integers(len(self.bank)))]
        self.transform.set_random_state(seed=int(rng.integers(MAX_SEED)))
        return cast(Json, self.transform(tensors(item)))


def tensors(item: BankItem) -> Json:
    """Return a label map as the transforms that paint a CT from it take it."""
    affine = torch.from_numpy(item.affine)
    maps = {"tissues": item.tissues, "vertebrae": item.vertebrae}
    return {
        **{k: MetaTensor(torch.from_numpy(v)[None], affine=affine) for k, v in maps.items()},
        **({} if item.pose is None else {"pose": item.pose}),
        "level": item.level,
    }


def first_sample(output_dir: str | Path, resume: bool, epoch_length: int, batch_size: int) -> int:
    """Return the number of the sample with which a training begins or goes on."""
    newest = newest_checkpoint(output_dir) if resume else None
    return (0 if newest is None else epoch_of(newest)) * epoch_length * batch_size


def hardest_class(output: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return prediction and truth of a step, one-hot by their largest class, (B, C, x, y, z)."""
    both = (output["pred"], output["label"])
    pred, label = (
        nn.functional.one_hot(x.argmax(1), x.shape[1]).movedim(-1, 1).float() for x in both
    )
    return pred, label


def dice_of(engine: Workflow, structures: Sequence[str]) -> dict[str, float | None]:
    """Return what an evaluator measured: ``mean_dice``, and the Dice of each structure.

    Args:
        engine: with the metrics ``mean_dice`` and ``dice``.
        structures: names of the classes but the background.

    Returns:
        Name → Dice, None for a structure that no sample showed.
    """
    metrics = engine.state.metrics
    values = [float(metrics["mean_dice"]), *torch.as_tensor(metrics["dice"]).tolist()]
    names = ("mean_dice", *structures)
    return {n: d if math.isfinite(d) else None for n, d in zip(names, values, strict=True)}


class DiceWriter:
    """Write the Dice of each structure as JSON when an evaluation ends.

    Args:
        path: file to write; an earlier one goes when the evaluation starts.
        structures: names of the classes; the first is the background.
        sha256: of the weights.
    """

    def __init__(self, path: str | Path, structures: Sequence[str], sha256: str) -> None:
        self.path = Path(path)
        self.structures = list(structures)[1:]
        self.sha256 = sha256

    def attach(self, engine: Workflow) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Write."""
        facts = {"samples": engine.state.iteration, "weights_sha256": self.sha256}
        write_json(self.path, {**facts, **dice_of(engine, self.structures)})

    def _start(self, engine: Workflow) -> None:
        self.path.unlink(missing_ok=True)


class CurveWriter:
    """Write the learning curve as a table, a row an epoch, and log it.

    Columns: epoch, iteration, seconds (of the training's steps and their data), train_loss,
    mean_dice, and the Dice of each structure; empty where nothing was validated.

    Attach it to the trainer, after the validation.

    Args:
        path: CSV to write.
        validator: engine with the metrics ``mean_dice`` and ``dice`` (C - 1,).
        structures: names of the classes; the first, the background, has no column.
        resume: keep the rows of earlier epochs.
    """

    def __init__(
        self, path: str | Path, validator: Workflow, structures: Sequence[str], resume: bool = False
    ) -> None:
        self.path = Path(path)
        self.validator = validator
        self.structures = list(structures)[1:]
        self.resume = resume
        self._losses: list[float] = []
        self._start = 0.0

    def attach(self, engine: Workflow) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _begin(self, engine: Workflow) -> None:
        self._losses = []
        self._start = time.monotonic()

    def _add(self, engine: Workflow) -> None:
        self._losses.append(float(engine.state.output["loss"].detach()))
        self._seconds = time.monotonic() - self._start

    def _write(self, engine: Workflow) -> None:
        epoch = engine.state.epoch
        row = {
            "epoch": str(epoch),
            "iteration": str(engine.state.iteration),
            "seconds": f"{self._seconds:.1f}",
            "train_loss": f"{np.mean(self._losses):.4f}",
            **dict.fromkeys(("mean_dice", *self.structures), ""),
        }
        if self.validator.state.epoch == epoch:
            found = dice_of(self.validator, self.structures)
            row |= {name: "" if d is None else f"{d:.4f}" for name, d in found.items()}
        rows = self._earlier(epoch) if self.resume or epoch > 1 else []
        partial = self.path.with_name(self.path.name + ".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(row))
            table.writeheader()
            table.writerows([*rows, row])
        partial.replace(self.path)
        _LOG.info("%s", ", ".join(f"{name} {value}" for name, value in row.items() if value))

    def _earlier(self, epoch: int) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]


def save_half(network: nn.Module, path: str | Path) -> None:
    """Write a network's weights as safetensors in half precision.

    Raises:
        SettingError: a weight does not fit half precision.
    """
    state = {k: v.detach().cpu().contiguous().half() for k, v in network.state_dict().items()}
    broken = [k for k, v in state.items() if not bool(torch.isfinite(v).all())]
    if broken:
        raise SettingError(f"{broken[0]} of the network holds values beyond half precision")
    partial = Path(path).with_suffix(".partial")
    save_file(state, partial)
    partial.replace(path)


def export_checkpoint(output_dir: str | Path, network: nn.Module, path: str | Path) -> None:
    """Write the weights of the newest checkpoint of a training, finished or not.

    Raises:
        SettingError: the folder holds no checkpoint.
    """
    newest = newest_checkpoint(output_dir)
    if newest is None:
        raise SettingError(f"{output_dir} holds no checkpoint")
    network.load_state_dict(load_state(newest))
    save_half(network, path)


def publish(trainings: Mapping[str, str | Path], root: str | Path | None = None) -> None:
    """Put trained weights into the bundle, and how they were trained into its metadata.

    ``weights`` of ``metadata.json`` takes their SHA-256 and settings, ``eval_metrics`` the Dice of
    the last validation.

    Args:
        trainings: network's name (``locator``, ``refiner``) → folder of its training.
        root: the bundle; by default the installed one.

    Raises:
        SettingError: a training has not left its weights, was never validated, or is of no such
            network.
    """
    folder = bundle_root() if root is None else Path(root)
    meta = folder / "configs" / "metadata.json"
    document = cast(Json, json.loads(meta.read_text(encoding="utf-8")))
    for name, training in trainings.items():
        weights = Path(training) / f"{name}.safetensors"
        newest = newest_checkpoint(training)
        if name not in NETWORKS or newest is None or not weights.is_file():
            raise SettingError(f"{training} holds no {name}.safetensors: finish the training first")
        document["eval_metrics"] |= _last_dice(name, Path(training))
        settings = json.loads((Path(training) / "settings.json").read_text(encoding="utf-8"))
        (folder / "models").mkdir(exist_ok=True)
        shutil.copyfile(weights, folder / "models" / weights.name)
        (folder / "models" / weights.name).chmod(0o644)
        document.setdefault("weights", {})[name] = {
            "sha256": sha256_of(weights),
            "iterations": epoch_of(newest) * settings["epoch_length"],
            **{key: settings[key] for key in _STATED},
        }
    write_json(meta, document)


def _last_dice(name: str, training: Path) -> dict[str, float]:
    """Return a training's last Dice as ``eval_metrics`` of the bundle names them."""
    with (training / "metrics_history.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["mean_dice"]]
    if not rows:
        raise SettingError(f"{training} was never validated: lower val_interval")
    first = list(rows[-1]).index("mean_dice")
    return {f"{name}_{key}": float(value) for key, value in list(rows[-1].items())[first:] if value}


_STATED = ("batch_size", "learning_rate", "bank_size", "real_share", "seed")
