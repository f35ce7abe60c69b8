"""How a training goes on small data: loss, optimizer, rates over time, averaging, early stopping.

Every part is off in the study's settings, and then leaves its training as it is, bit by bit. What
a part remembers is saved with each checkpoint, so that a resumed training ends as one that was
never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from ignite.engine import Events
from ignite.handlers import EarlyStopping
from monai.engines import SupervisedTrainer, Trainer, Workflow
from monai.optimizers import WarmupCosineSchedule
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from monai_vfx.analysis.cohort.training_items import CohortItem
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.model.backbones import one_of
from monai_vfx.model.bundle.data import prepare_batch
from monai_vfx.model.bundle.hazards import CLASSES, JointLoss
from monai_vfx.model.network import AttentionCNNRNN

SCHEDULES = ("none", "cosine", "plateau")


def make_loss(
    hazard_years: int,
    class_weights: str | Sequence[float] | None,
    label_smoothing: float,
    items: Sequence[CohortItem],
    device: torch.device,
) -> nn.Module:
    """Return the loss of the two classes, joined by that of the hazards where there are any.

    Args:
        hazard_years: of the network.
        class_weights: None; two weights, no fracture first; or ``balanced``, n / (2 · n_class).
        label_smoothing: in [0, 1), share of the target spread over both classes.
        items: patients trained on, whom ``balanced`` counts.
        device: of the logits.

    Raises:
        SettingError: a value breaks its rule.
    """
    _check_range("label_smoothing", label_smoothing, 1.0)
    weights = _class_weights(class_weights, items)
    weight = None if weights is None else torch.tensor(weights, device=device)
    binary = nn.CrossEntropyLoss(weight, label_smoothing=label_smoothing)
    return JointLoss(binary=binary) if hazard_years else binary


def _class_weights(
    given: str | Sequence[float] | None, items: Sequence[CohortItem]
) -> list[float] | None:
    if given is None:
        return None
    if given == "balanced":
        fractures = sum(item["label"] for item in items)
        counts = (len(items) - fractures, fractures)
        if min(counts) == 0:
            raise SettingError("class_weights ('balanced') needs patients of both classes")
        return [len(items) / (CLASSES * count) for count in counts]
    if isinstance(given, str) or len(given) != CLASSES or min(given) <= 0:
        raise SettingError(
            f"class_weights ({given!r}) must be null, 'balanced' or two weights above 0"
        )
    return [float(value) for value in given]


def make_optimizer(
    network: AttentionCNNRNN,
    learning_rate: float,
    weight_decay: float = 0.0,
    encoder_rate: float = 1.0,
    frozen_norms: bool = False,
    gradient_clip: float = 0.0,
) -> Optimizer:
    """Return Adam as in the study; with weight decay, AdamW (Loshchilov & Hutter 2019).

    Args:
        network: to train; ``frozen_norms`` is noted on it.
        learning_rate: of decoder and heads.
        weight_decay: decoupled; biases, norms and other vectors are left out.
        encoder_rate: factor of the learning rate in the encoder's stem and stages.
        frozen_norms: keep statistics and scale of the encoder's batch norms as they are.
        gradient_clip: largest L2 norm of all gradients of a step; 0 leaves them as they are.

    Raises:
        SettingError: a value is negative.
    """
    for name, value in (("weight_decay", weight_decay), ("encoder_rate", encoder_rate)):
        _check_range(name, value)
    _check_range("gradient_clip", gradient_clip)
    network.frozen_norms = frozen_norms
    groups = _parameter_groups(network, learning_rate, weight_decay, encoder_rate, frozen_norms)
    optimizer: Optimizer = (
        AdamW(groups, lr=learning_rate, weight_decay=weight_decay)
        if weight_decay
        else Adam(groups, lr=learning_rate)
    )
    if gradient_clip:
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        # With mixed precision the scaler has divided by its factor by then.
        optimizer.register_step_pre_hook(lambda *_: _clip(trained, gradient_clip))
    return optimizer


def _clip(parameters: Sequence[nn.Parameter], largest: float) -> None:
    nn.utils.clip_grad_norm_(parameters, largest)


def _parameter_groups(
    network: AttentionCNNRNN, rate: float, decay: float, encoder_rate: float, frozen: bool
) -> list[Json]:
    """Sort parameters by rate and decay: a single group where all are alike."""
    norms = {id(p) for module in network.encoder_norms() for p in module.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if frozen and id(parameter) in norms:
            continue
        inside = name.split(".")[0] in ("stem", "stages")
        key = (rate * (encoder_rate if inside else 1.0), decay if parameter.dim() > 1 else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": members, "lr": lr, "weight_decay": wd} for (lr, wd), members in groups.items()
    ]


def moving_average(
    network: nn.Module, optimizer: Optimizer, decay: float, device: torch.device
) -> AveragedModel | None:
    """Return an exponential moving average of the weights, taken after each step; 0: None.

    The averaged network is the one that is validated and kept.

    Raises:
        SettingError: the decay does not lie in [0, 1).
    """
    _check_range("averaging", decay, 1.0)
    if decay == 0:
        return None
    average = AveragedModel(
        network, device=device, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True
    )
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(network))
    return average


class Stateful(Protocol):
    """What a checkpoint can hold."""

    def state_dict(self) -> Json:
        """Return the state."""
        ...

    def load_state_dict(self, state: Json) -> Any:
        """Go on with this state."""
        ...


class RecipeState:
    """The states of several parts as one entry of a checkpoint.

    Args:
        parts: in a fixed order; None for one that is off.
    """

    def __init__(self, parts: Sequence[Stateful | None]) -> None:
        self.parts = tuple(parts)

    def state_dict(self) -> Json:
        """Return the parts' states by their place."""
        return {str(n): part.state_dict() for n, part in enumerate(self.parts) if part is not None}

    def load_state_dict(self, state: Json) -> None:
        """Go on with these states."""
        for n, part in enumerate(self.parts):
            if part is not None:
                part.load_state_dict(state[str(n)])


class RateSchedule:
    """Change the learning rate over a training: warm-up, then constant, cosine or by plateaus.

    Attach it to the trainer, after the validation and before the checkpoints.

    Args:
        optimizer: whose rates change.
        schedule: ``none``; ``cosine``, down to 0 at the last step; ``plateau``, a tenth whenever
            the validation AUROC has not risen for ``plateau_epochs``.
        warmup_epochs: the rate rises linearly over so many; not with ``plateau``.
        plateau_epochs: see above.
        max_epochs: of the training.
        validator: engine whose metrics hold the AUROC.
        metric: its name there.

    Raises:
        SettingError: a value breaks its rule.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: str,
        warmup_epochs: int,
        plateau_epochs: int,
        max_epochs: int,
        validator: Workflow,
        metric: str = "val_auroc",
    ) -> None:
        one_of("schedule", schedule, SCHEDULES)
        _check_range("warmup_epochs", warmup_epochs)
        if schedule == "plateau" and warmup_epochs:
            raise SettingError("warmup_epochs must be 0 with schedule 'plateau'")
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup_epochs = warmup_epochs
        self.plateau_epochs = plateau_epochs
        self.max_epochs = max_epochs
        self.validator = validator
        self.metric = metric
        self.scheduler: WarmupCosineSchedule | ReduceLROnPlateau | None = None

    def attach(self, engine: Workflow) -> None:
        """Register with the trainer."""
        if self.schedule == "plateau":
            self.scheduler = ReduceLROnPlateau(
                self.optimizer, mode="max", patience=self.plateau_epochs
            )
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._by_plateau)
        elif self.schedule == "cosine" or self.warmup_epochs:
            # The trainer knows its accumulation only once it is built; a checkpoint is loaded by a
            # later handler of the same event.
            engine.add_event_handler(Events.STARTED, self._by_step)

    def _by_step(self, engine: Workflow) -> None:
        if self.scheduler is not None:
            return
        together = cast(SupervisedTrainer, engine).accumulation_steps
        steps = math.ceil(int(engine.state.epoch_length) / together)  # of the optimizer, an epoch
        warmup = self.warmup_epochs * steps
        scheduler = self.scheduler = WarmupCosineSchedule(
            self.optimizer,
            warmup_steps=warmup,
            t_total=self.max_epochs * steps,
            cycles=0.5 if self.schedule == "cosine" else 0.0,
            warmup_multiplier=1 / max(warmup, 1),
        )
        self.optimizer.register_step_post_hook(lambda *_: scheduler.step())

    def _by_plateau(self, engine: Workflow) -> None:
        if self.validator.state.epoch == engine.state.epoch:
            cast(ReduceLROnPlateau, self.scheduler).step(
                float(self.validator.state.metrics[self.metric])
            )

    def state_dict(self) -> Json:
        """Return the scheduler's state; empty without one."""
        return {} if self.scheduler is None else dict(self.scheduler.state_dict())

    def load_state_dict(self, state: Json) -> None:
        """Go on with this state."""
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state)


class EarlyStop:
    """End a training whose validation AUROC has not risen for a number of validations.

    Attach it to the trainer, after the validation and before the checkpoints.

    Args:
        patience: that number; 0 never stops.
        validator: engine whose metrics hold the AUROC.
        metric: its name there.

    Raises:
        SettingError: the patience is negative.
    """

    def __init__(self, patience: int, validator: Workflow, metric: str = "val_auroc") -> None:
        _check_range("stop_after", patience)
        self.patience = patience
        self.validator = validator
        self.metric = metric
        self.stopper: EarlyStopping | None = None

    def attach(self, engine: Workflow) -> None:
        """Register with the trainer."""
        if self.patience:
            self.stopper = EarlyStopping(self.patience, self._score, cast(Trainer, engine))
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._judge)

    def _score(self, engine: Workflow) -> float:
        return float(self.validator.state.metrics[self.metric])

    def _judge(self, engine: Workflow) -> None:
        if self.validator.state.epoch == engine.state.epoch:
            cast(EarlyStopping, self.stopper)(engine)

    def state_dict(self) -> Json:
        """Return what was reached and for how long; empty if it never stops."""
        return {} if self.stopper is None else dict(self.stopper.state_dict())

    def load_state_dict(self, state: Json) -> None:
        """Go on with this state; a training that had been ended stays so."""
        if self.stopper is None:
            return
        self.stopper.load_state_dict(state)
        if self.stopper.counter >= self.patience:
            self.stopper.trainer.terminate()


class MixUp:
    """Mix each patient of a batch with another one (Zhang et al. 2018, arXiv 1710.09412).

    A ``prepare_batch`` of the trainer. One share λ ~ Beta(α, α) a batch, of torch's generator.

    Args:
        alpha: above 0.

    Raises:
        SettingError: alpha is negative.
    """

    def __init__(self, alpha: float) -> None:
        _check_range("mixup", alpha)
        self.alpha = alpha

    def __call__(
        self,
        batch: dict[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, tuple[Any, ...], dict[str, Tensor]]:
        """Return what ``prepare_batch`` does, mixed; the target is a probability a class (B, 2).

        Raises:
            SettingError: the batch holds times to event, which cannot be mixed.
        """
        image, target, others, named = prepare_batch(batch, device, non_blocking, **kwargs)
        if target.dim() > 1:
            raise SettingError(f"mixup ({self.alpha}) must be 0 with hazard_years above 0")
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        order = torch.randperm(len(image)).to(image.device)
        classes = F.one_hot(target.long(), CLASSES).to(image.dtype)
        mix: Callable[[Tensor], Tensor] = lambda x: share * x + (1 - share) * x[order]  # noqa: E731
        mixed: Mapping[str, Tensor] = {name: mix(value) for name, value in named.items()}
        return mix(image), mix(classes), others, dict(mixed)


def _check_range(name: str, value: float, below: float = float("inf")) -> None:
    if not 0 <= value < below:
        rule = "be at least 0" if below == float("inf") else f"lie in [0, {below:g})"
        raise SettingError(f"{name} ({value!r}) must {rule}")
