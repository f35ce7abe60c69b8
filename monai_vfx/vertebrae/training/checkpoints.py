"""Checkpoints of a training, written after each epoch and resumed from, and its learning curve.

Both bundles train with these parts; their configs name them.
"""

from __future__ import annotations

import csv
import re
import time
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from ignite.engine import Events
from monai.engines import Trainer, Workflow
from monai.handlers import CheckpointLoader, CheckpointSaver
from monai.inferers import SimpleInferer
from torch import Tensor

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.files import read_json, write_csv, write_json

NETWORK_KEY = "network"  # Key of the network's state in a checkpoint
CHECKPOINT = re.compile(r"last_checkpoint_epoch=(\d+)\.pt")
KEPT = 2  # Number of checkpoints to resume from that a folder keeps


def load_state(weights: str | Path) -> Json:
    """Read a network's state dictionary from a checkpoint, without un-pickling objects.

    Raises:
        CaseRefused: ``weights_unreadable``.
    """
    name = Path(weights).name
    try:
        checkpoint = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise almost anything
        raise CaseRefused(
            "weights_unreadable", f"{name} is not a checkpoint of plain tensors"
        ) from error
    state = checkpoint.get(NETWORK_KEY, checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise CaseRefused("weights_unreadable", f"{name} holds no state dictionary")
    if not all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point()):
        raise CaseRefused("weights_unreadable", f"{name} holds values that are not finite")
    return cast(Json, state)


def check_output_dir(output_dir: str | Path, bundle_root: str | Path) -> None:
    """Create the output folder; refuse one inside the bundle, which is installed with the code."""
    folder, bundle = Path(output_dir).resolve(), Path(bundle_root).resolve()
    if folder.is_relative_to(bundle):
        raise SettingError(
            f"output_dir ({folder}) must not lie in the bundle: give --output_dir another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)


def check_resumable(
    output_dir: str | Path, resume: bool, config: Json, training: Json, cohort_sha256: str
) -> None:
    """Refuse to mix two trainings in one folder; record the settings of this one.

    The list of refused cases of an earlier run is removed: this run writes its own.

    Args:
        output_dir: folder of the training.
        resume: whether an earlier training in it may be continued.
        config: merged settings of network and preprocessing, plain values.
        training: merged settings of the training; ``max_epochs`` may be raised, unless the
            learning rate falls towards it.
        cohort_sha256: of what is trained on.

    Raises:
        SettingError: the folder holds a training that is not to be resumed, one with other
            settings or patients, or one of more epochs than ``max_epochs``.
    """
    folder = Path(output_dir)
    record = folder / "settings.json"
    free = () if training.get("schedule") == "cosine" else ("max_epochs",)
    fixed = {name: value for name, value in training.items() if name not in free}
    settings: Json = {**config, **fixed, "cohort_sha256": cohort_sha256}
    newest = newest_checkpoint(folder)
    if newest is not None:
        if not resume:
            raise SettingError(
                f"{folder} holds an earlier training ({newest.name}): set resume to true to "
                "continue it, or give another output_dir"
            )
        earlier = read_json(record) if record.is_file() else settings
        changed = sorted(name for name in settings if settings[name] != earlier.get(name))
        if changed:
            raise SettingError(
                f"{folder} holds a training with another {', '.join(changed)}: give another "
                "output_dir"
            )
        if training["max_epochs"] < epoch_of(newest):
            raise SettingError(
                f"max_epochs ({training['max_epochs']}) must be at least {epoch_of(newest)}, the "
                f"epochs that {folder} holds: raise it, or give another output_dir"
            )
    write_json(record, settings)
    (folder / "refused.jsonl").unlink(missing_ok=True)


def newest_checkpoint(folder: str | Path) -> Path | None:
    """Return the newest whole ``last_checkpoint_epoch=N.pt`` of a folder, or None.

    A file that was cut short, as when the machine lost power while writing it, is passed over.
    """
    return next((path for path in reversed(_checkpoints(folder)) if _is_whole(path)), None)


def epoch_of(checkpoint: Path) -> int:
    """Return the number of epochs after which a checkpoint was saved."""
    return int(CHECKPOINT.sub(r"\1", checkpoint.name))


def _checkpoints(folder: str | Path) -> list[Path]:
    """Return all checkpoints to resume from, whole or not, oldest first."""
    found = Path(folder).glob("last_checkpoint_epoch=*.pt")
    return sorted((path for path in found if CHECKPOINT.fullmatch(path.name)), key=epoch_of)


def _is_whole(path: Path) -> bool:
    """Return whether a checkpoint's archive is complete and its checksums hold."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError, ValueError):
        return False


class TrainingCheckpoints:
    """Save network, optimizer and trainer after each epoch; resume from the newest.

    The newest two are kept, so that one is whole whenever the machine stops. What an epoch leaves
    besides (best checkpoint, sidecar, curve) must be written before, by handlers attached earlier:
    an epoch without its checkpoint is run again, and gives the same.

    Args:
        save_dir: folder of ``last_checkpoint_epoch=N.pt``.
        save_dict: what to save besides the trainer.
        resume: continue from what the folder holds.
        on_resume: called once the checkpoint to resume from is found.
    """

    def __init__(
        self,
        save_dir: str | Path,
        save_dict: Mapping[str, Any],
        resume: bool = False,
        on_resume: Callable[[], object] = lambda: None,
    ) -> None:
        self.save_dir = Path(save_dir)
        self.save_dict = dict(save_dict)
        self.resume = resume
        self.on_resume = on_resume

    def attach(self, engine: Workflow) -> None:
        """Register with the trainer; only the first of several processes saves."""
        everything = {**self.save_dict, "trainer": engine, "scaler": _Scaler(cast(Trainer, engine))}
        newest = newest_checkpoint(self.save_dir) if self.resume else None
        if newest is not None:
            anywhere = cast(Any, "cpu")  # torch.load takes a name too; MONAI's hint is narrower
            CheckpointLoader(str(newest), everything, map_location=anywhere).attach(engine)
            self.on_resume()
        if engine.state.rank == 0:
            CheckpointSaver(
                save_dir=str(self.save_dir),
                save_dict=everything,
                file_prefix="last",
                save_interval=1,
            ).attach(engine)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._remove_old)

    def _remove_old(self, engine: Workflow) -> None:
        """Remove all checkpoints but the newest two, those of an earlier process too."""
        for path in _checkpoints(self.save_dir)[:-KEPT]:
            path.unlink()


class _Scaler:
    """The state of mixed precision's loss scaling, which MONAI creates anew for each run."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def state_dict(self) -> Json:
        """Return the state; empty without mixed precision."""
        return {} if self.trainer.scaler is None else dict(self.trainer.scaler.state_dict())

    def load_state_dict(self, state: Json) -> None:
        """Continue with this state."""
        if self.trainer.scaler is not None and state:
            self.trainer.scaler.load_state_dict(state)


class HistoryWriter(ABC):
    """Write the learning curve as a table, a row an epoch; subclasses say what a row holds.

    Attach it to the trainer, after the validation. A resumed training keeps earlier epochs' rows.
    """

    def __init__(self, path: str | Path, validator: Workflow, resume: bool = False) -> None:
        self.path = Path(path)
        self.validator = validator
        self.resume = resume

    @abstractmethod
    def row(self, engine: Workflow, validated: bool) -> dict[str, str]:
        """Return the cells of an epoch that has ended, without its number."""

    def attach(self, engine: Workflow) -> None:
        """Register with the trainer; only the first of several processes writes."""
        if engine.state.rank == 0:
            engine.add_event_handler(Events.EPOCH_STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self, engine: Workflow) -> None:
        self.losses: list[tuple[float, int]] = []  # of each step, and how many items it was of
        self.started = self.ended = time.monotonic()

    def _add(self, engine: Workflow) -> None:
        output = engine.state.output
        self.losses.append((float(output["loss"].detach()), len(output["label"])))
        self.ended = time.monotonic()

    def _write(self, engine: Workflow) -> None:
        epoch = engine.state.epoch
        row = {"epoch": str(epoch), **self.row(engine, self.validator.state.epoch == epoch)}
        kept = read_history(self.path) if self.resume or epoch > 1 else []
        write_csv(self.path, list(row), [*(r for r in kept if int(r["epoch"]) < epoch), row])


def read_history(path: Path) -> list[dict[str, str]]:
    """Return the rows of a learning curve, none where it does not exist."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Bfloat16Inferer(SimpleInferer):
    """Run a network in mixed precision with bfloat16, on a CPU as on a GPU; logits are float32.

    MONAI's ``amp`` is for CUDA alone. Processors with AVX512-BF16 or AMX convolve about twice as
    fast in bfloat16; others compute the same, slower. bfloat16 has float32's range, so no loss is
    scaled. Not ``enabled``, it leaves the arithmetic to the caller.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        self.enabled = enabled

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the network's output for images (B, C, x, y, z)."""
        if not self.enabled:
            return super().__call__(inputs, network, *args, **kwargs)
        inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            logits = super().__call__(inputs, network, *args, **kwargs)
        return logits.float()
