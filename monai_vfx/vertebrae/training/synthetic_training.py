"""Train the segmentation's networks on synthetic samples without end: samples, curve, weights."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.engines import Workflow
from monai.transforms import Compose
from monai.utils import MAX_SEED
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import read_json, write_json, writing
from monai_vfx.core.hashing import sha256_of
from monai_vfx.vertebrae.segmentation.networks import NETWORKS, bundle_root
from monai_vfx.vertebrae.training.bank import HELD_OUT, AnatomyBank, BankItem, RealAnatomy
from monai_vfx.vertebrae.training.checkpoints import (
    HistoryWriter,
    epoch_of,
    load_state,
    newest_checkpoint,
    read_history,
)

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class SyntheticSamples(Dataset[Json]):
    """Numbered synthetic samples; each depends on the seed and its number alone."""

    bank: AnatomyBank  # label maps
    transform: Compose  # from a label map to `image` and `label`; it is seeded for each sample
    samples: int  # how many there are
    first: int = 0  # number of the first, for a training that is resumed
    seed: int = 0  # of the run
    # sample n is made of the n-th held-out map, instead of any one for training
    held_out: bool = False
    real: RealAnatomy | None = None  # a real label map, None: none
    real_share: float = 0.3  # share of the samples that are made of it

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
    """Return the number of the sample with which a training begins or resumes."""
    newest = newest_checkpoint(output_dir) if resume else None
    return (epoch_of(newest) if newest else 0) * epoch_length * batch_size


def hardest_class(output: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return prediction and truth of a step, one-hot by their largest class, (B, C, x, y, z)."""
    both = (output["pred"], output["label"])
    pred, label = (
        nn.functional.one_hot(x.argmax(1), x.shape[1]).movedim(-1, 1).float() for x in both
    )
    return pred, label


def dice_of(engine: Workflow, structures: Sequence[str]) -> dict[str, float | None]:
    """Return ``mean_dice`` and the Dice of each structure, None for one that no sample showed.

    The engine has the metrics ``mean_dice`` and ``dice``; the first structure is the background.
    """
    metrics = engine.state.metrics
    values = [float(metrics["mean_dice"]), *torch.as_tensor(metrics["dice"]).tolist()]
    names = ("mean_dice", *structures[1:])
    return {n: d if math.isfinite(d) else None for n, d in zip(names, values, strict=True)}


def write_dice(path: str | Path, engine: Workflow, structures: Sequence[str], sha256: str) -> None:
    """Write what an evaluation of weights with this SHA-256 measured as JSON."""
    facts = {"samples": engine.state.iteration, "weights_sha256": sha256}
    write_json(Path(path), {**facts, **dice_of(engine, structures)})


class CurveWriter(HistoryWriter):
    """Write the learning curve, and log it; cells are empty where nothing was validated.

    Columns: epoch, iteration, seconds (of the training's steps and their data), train_loss,
    mean_dice, and the Dice of each structure but the background, the first.
    """

    def __init__(
        self, path: str | Path, validator: Workflow, structures: Sequence[str], resume: bool = False
    ) -> None:
        super().__init__(path, validator, resume)
        self.structures = list(structures)

    def row(self, engine: Workflow, validated: bool) -> dict[str, str]:
        """Return the cells of an epoch that has ended, without its number."""
        row = {
            "iteration": str(engine.state.iteration),
            "seconds": f"{self.ended - self.started:.1f}",
            "train_loss": f"{np.mean([loss for loss, _ in self.losses]):.4f}",
            **dict.fromkeys(("mean_dice", *self.structures[1:]), ""),
        }
        if validated:
            found = dice_of(self.validator, self.structures)
            row |= {name: "" if d is None else f"{d:.4f}" for name, d in found.items()}
        shown = {"epoch": engine.state.epoch, **row}
        _LOG.info("%s", ", ".join(f"{name} {value}" for name, value in shown.items() if value))
        return row


def save_half(network: nn.Module, path: str | Path) -> None:
    """Write a network's weights as safetensors in half precision; refuse what does not fit it."""
    state = {k: v.detach().cpu().contiguous().half() for k, v in network.state_dict().items()}
    broken = [k for k, v in state.items() if not bool(torch.isfinite(v).all())]
    if broken:
        raise SettingError(f"{broken[0]} of the network holds values beyond half precision")
    with writing(Path(path)) as partial:
        save_file(state, partial)


def export_checkpoint(output_dir: str | Path, network: nn.Module, path: str | Path) -> None:
    """Write the weights of the newest checkpoint of a training, finished or not."""
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
    document: Json = read_json(meta)
    for name, training in trainings.items():
        weights = Path(training) / f"{name}.safetensors"
        newest = newest_checkpoint(training)
        if name not in NETWORKS or newest is None or not weights.is_file():
            raise SettingError(f"{training} holds no {name}.safetensors: finish the training first")
        document["eval_metrics"] |= _last_dice(name, Path(training))
        settings = read_json(Path(training) / "settings.json")
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
    rows = [row for row in read_history(training / "metrics_history.csv") if row["mean_dice"]]
    if not rows:
        raise SettingError(f"{training} was never validated: lower val_interval")
    first = list(rows[-1]).index("mean_dice")
    return {f"{name}_{key}": float(value) for key, value in list(rows[-1].items())[first:] if value}


_STATED = ("batch_size", "learning_rate", "bank_size", "real_share", "seed")
