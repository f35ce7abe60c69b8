"""The attention CNN-RNN: 14 axial slices of one patient in, two logits (no fracture, fracture) out.

A convolutional encoder sees each slice alone, an attention module on the encoder picks the
positions that matter, a recurrent decoder reads the slices from T12 to L4.

    x (B, C, H, W, D) → slices (B·D, 3, H, W) → encoder stages → attention per stage → (B, D, F)
      → dropout → GRU → (B, R) [+ clinical variables] → linear → logits (B, 2 [+ years])

Sources:
    * the model as a whole: Kong et al., J Med Internet Res 2024;26:e48535
    * encoder: Xie et al. 2017 (ResNeXt), He et al. 2016 (ResNet), or any other network of timm
      that has stages
    * attention: Jetley et al. 2018, "Learn to pay attention", arXiv 1804.02391
    * decoder: Chung et al. 2014 (GRU); Wang et al. 2016 (CNN-RNN)
    * hazard head: Gensheimer & Narasimhan 2019 (discrete time, one logit a year)

A consequence of the formula that users should know: with the score ``pc``, c_i = <u, l_i + g>, the
term <u, g> is the same at every position and cancels in the softmax. The last stage then changes
neither the attention nor the logits unless ``include_global`` or the score ``dot`` lets it in, and
is neither computed nor trained; :attr:`AttentionCNNRNN.influential_layers` says which stages count.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_vfx.core.errors import MissingDependencyError, SettingError
from monai_vfx.model.encoder import STAGES, StagedEncoder, load_encoder
from monai_vfx.model.layers import (
    GRUDecoder,
    MeanDecoder,
    SpatialAttention,
    fold_slices,
    unfold_slices,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)
"""Of the three channels of ImageNet's images in [0, 1], as torchvision and timm take them."""


class AttentionCNNRNN(nn.Module):
    """Vertebral fracture risk from 14 axial slices.

    Weights are initialised from torch's global generator: ``torch.manual_seed`` fixes them.

    Args:
        backbone: name of a network of timm; the study's is ``resnext50_32x4d``.
        num_classes: width of the output; class 1 is the fracture.
        in_channels: 1 (repeated to the encoder's three) or 3 (three windows).
        attention: ``pc``, ``dot`` (:class:`SpatialAttention`) or ``none`` (the average of the last
            stage goes to the decoder).
        attention_layers: the stages that are attended to; their vectors are concatenated.
        include_global: concatenate the average of the last stage too (the study's source leaves it
            out; see the module's note on ``pc``).
        feature_norm: standardise each channel of the stages that are used, by a batch norm without
            weights (Ioffe & Szegedy 2015), before attention and decoder. For pretrained encoders
            whose stages end without activation (EfficientNet, MobileNet): features of SD 8 saturate
            the attention's softmax and the GRU's gates from the first step on.
        decoder: ``gru`` or ``mean`` (the average over slices, without order).
        rnn_hidden: R, width of the GRU's state.
        dropout: probability, on the slice features before the decoder.
        clinical_features: number of standardised clinical variables that join before the head.
        hazard_years: number of yearly hazard logits of a second head, which follow the classes in
            the output; 0 builds none.
        input_range: ``window`` gives the encoder the image in [-1, 1] as it is; ``imagenet`` maps
            it to [0, 1] and standardises it by the mean and SD of ImageNet's channels, as an
            encoder that was trained on ImageNet expects.
        pretrained: weights of the encoder, as for :func:`~monai_vfx.model.encoder.load_encoder`.

    Attributes:
        influential_layers: the stages whose features change the logits, so that a gradient exists:
            all up to the deepest attended one, or up to ``layer4`` where the last stage counts.
            Deeper ones are neither computed nor trained.
        slice_features: F, width of one slice's vector before the decoder.

    Raises:
        ValueError: an argument is out of range.
        SettingError: a choice is unknown, or the pretrained weights cannot be had or do not fit.

    >>> network = AttentionCNNRNN("resnet18", rnn_hidden=8).eval()
    >>> network(torch.zeros(1, 1, 48, 72, 14)).shape
    torch.Size([1, 2])
    """

    if TYPE_CHECKING:  # TorchScript cannot read these hints
        input_scale: Tensor
        input_shift: Tensor

    def __init__(
        self,
        backbone: str = "resnext50_32x4d",
        num_classes: int = 2,
        in_channels: int = 1,
        attention: str = "pc",
        attention_layers: Sequence[str] = ("layer2", "layer3"),
        include_global: bool = False,
        feature_norm: bool = False,
        decoder: str = "gru",
        rnn_hidden: int = 256,
        dropout: float = 0.5,
        clinical_features: int = 0,
        hazard_years: int = 0,
        input_range: str = "window",
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        one_of("in_channels", in_channels, (1, 3))
        one_of("attention", attention, ("pc", "dot", "none"))
        one_of("decoder", decoder, ("gru", "mean"))
        one_of("input_range", input_range, ("window", "imagenet"))
        _check_sizes(num_classes, rnn_hidden, clinical_features, hazard_years, dropout)
        attended = () if attention == "none" else _attended_stages(attention_layers)

        self.in_channels = in_channels
        self.standardise = input_range == "imagenet"
        self._keep_input_range()
        self.clinical_features = clinical_features
        self.include_global = include_global or attention == "none"

        # encoder
        encoder = load_encoder(backbone, pretrained)
        self.stem, self.stages = encoder.stem, encoder.stages
        width = encoder.widths()
        self.pooled_channels = pooled = width[STAGES[-1]]
        self.attention = nn.ModuleDict(
            {name: SpatialAttention(width[name], pooled, attention) for name in attended}
        )
        self.last_counts = self.include_global or attention == "dot"
        deepest = STAGES[-1] if self.last_counts else attended[-1]
        self.influential_layers = STAGES[: STAGES.index(deepest) + 1]
        used = (*attended, *((STAGES[-1],) if self.last_counts else ())) if feature_norm else ()
        self.feature_norms = _feature_norms(width, used)
        self._freeze_what_does_not_count()
        # decoder and heads
        features = sum(width[name] for name in attended) + (pooled if self.include_global else 0)
        self.slice_features = features
        self.dropout = nn.Dropout(dropout)
        self.decoder: nn.Module = MeanDecoder()
        if decoder == "gru":
            self.decoder = GRUDecoder(features, rnn_hidden)
            features = rnn_hidden
        features += clinical_features
        self.head = nn.Linear(features, num_classes)
        self.hazard = _hazard_head(features, hazard_years) if hazard_years else None
        self._start_from_the_image_alone()
        # On a CPU the encoder runs about twice as fast on channels-last memory.
        for part in (self.stem, self.stages):
            part.to(memory_format=torch.channels_last)

    def _keep_input_range(self) -> None:
        """Register ImageNet's range outside the state, so that weights fit with either range."""
        sd = torch.tensor(IMAGENET_SD).reshape(3, 1, 1)
        mean = torch.tensor(IMAGENET_MEAN).reshape(3, 1, 1)
        self.register_buffer("input_scale", 0.5 / sd, persistent=False)
        self.register_buffer("input_shift", (0.5 - mean) / sd, persistent=False)

    def _freeze_what_does_not_count(self) -> None:
        """Exclude from training what has no influence on the logits.

        Adam would scale rounding noise to full steps.
        """
        for name, stage in self.stages.items():
            stage.requires_grad_(name in self.influential_layers)
        for attend in self.attention.values():
            attend.project.requires_grad_(self.last_counts)

    def _start_from_the_image_alone(self) -> None:
        """Give clinical variables weights of zero.

        A rare yes lies many SDs from the mean: with a random weight it could drown the image.
        """
        if self.clinical_features:
            for head in filter(None, (self.head, self.hazard)):
                nn.init.zeros_(head.weight[:, -self.clinical_features :])

    def load_encoder(self, encoder: StagedEncoder) -> None:
        """Copy the weights of an encoder of the same backbone."""
        self.stem.load_state_dict(encoder.stem.state_dict())
        self.stages.load_state_dict(encoder.stages.state_dict())

    def _as_rgb(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] → (N, 3, H, W) in the range that the encoder expects."""
        if self.in_channels == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.standardise:
            x = x * self.input_scale + self.input_shift
        return x

    def encode(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Turn each slice into one vector.

        Args:
            x: (B, C, H, W, D) in [-1, 1]; H antero-posterior, W left-right, D cranial to caudal.

        Returns:
            features (B, D, F), and by attended stage its attention (B, h, w, D), summing to 1 over
            h and w.
        """
        if x.dim() != 5 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"the network takes (B, {self.in_channels}, H, W, D), not {list(x.shape)}"
            )
        depth = x.shape[4]
        h = self._as_rgb(fold_slices(x))  # (B, C, H, W, D) → (B·D, 3, H, W)
        h = self.stem(h.contiguous(memory_format=torch.channels_last))
        local: dict[str, Tensor] = {}
        standardised = h
        parts = zip(self.stages.items(), self.feature_norms.values(), strict=True)
        for (name, stage), norm in parts:
            if name in self.influential_layers:
                h = stage(h)  # (B·D, c, h, w)
                standardised = norm(h)
                local[name] = standardised
        # Where the last stage does not count, any global vector gives the same attention.
        if self.last_counts:
            pooled = F.adaptive_avg_pool2d(standardised, 1).flatten(1)  # (B·D, c)
        else:
            pooled = h.new_zeros(h.shape[0], self.pooled_channels)
        vectors: list[Tensor] = []
        maps: dict[str, Tensor] = {}
        for name, attend in self.attention.items():
            vector, weight = attend(local[name], pooled)
            vectors.append(vector)
            maps[name] = unfold_slices(weight.unsqueeze(1), depth).squeeze(1)
        if self.include_global:
            vectors.append(pooled)
        features = torch.cat(vectors, dim=1)  # (B·D, F)
        return features.reshape(-1, depth, features.shape[1]), maps  # (B·D, F) → (B, D, F)

    def decode(self, features: Tensor, clinical: Tensor | None = None) -> Tensor:
        """Turn the slices' features (B, D, F) into one vector a patient (B, R [+ clinical]).

        It is what the heads take. A forward pre-hook on ``head`` sees it in the pass that gives the
        logits.
        """
        state: Tensor = self.decoder(self.dropout(features))
        if self.clinical_features == 0:
            return state
        if clinical is None:
            raise ValueError(f"clinical must be (B, {self.clinical_features}), not None")
        return torch.cat([state, clinical.to(state.dtype)], dim=1)

    def forward(self, x: Tensor, clinical: Tensor | None = None) -> Tensor:
        """Return logits (B, num_classes), with a hazard head (B, num_classes + hazard_years).

        One tensor carries both heads, so that a wrapper such as ``DistributedDataParallel`` sees
        all of the output.

        Args:
            x: (B, C, H, W, D) in [-1, 1]; H antero-posterior, W left-right, D cranial to caudal.
            clinical: (B, clinical_features), standardised; None where there are none.

        Raises:
            ValueError: the shapes do not fit the network.
        """
        state = self.decode(self.encode(x)[0], clinical)
        logits: Tensor = self.head(state)
        if self.hazard is not None:
            logits = torch.cat([logits, self.hazard(state)], dim=1)
        return logits

    @torch.jit.export
    def attention_maps(self, x: Tensor) -> dict[str, Tensor]:
        """By attended stage, where the network looks: (B, h, w, D), sum 1 over h and w."""
        return self.encode(x)[1]


def one_of(argument: str, value: object, allowed: Sequence[object]) -> None:
    """Raise a SettingError unless the value is one of those that are allowed."""
    if value not in allowed:
        raise SettingError(f"{argument} ({value!r}) must be one of {', '.join(map(repr, allowed))}")


def _at_least(argument: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise SettingError(f"{argument} ({value!r}) must be at least {minimum}")


def _attended_stages(names: Sequence[str]) -> tuple[str, ...]:
    """Return the attended stages, any but the last, in the encoder's order."""
    if isinstance(names, str) or not names:
        raise ValueError(f"attention_layers ({names!r}) must be a list of stages of {STAGES}")
    for name in names:
        one_of("attention_layers", name, STAGES[:-1])
    return tuple(stage for stage in STAGES if stage in names)


def _check_sizes(
    num_classes: int, rnn_hidden: int, clinical_features: int, hazard_years: int, dropout: float
) -> None:
    _at_least("num_classes", num_classes, 2)
    _at_least("rnn_hidden", rnn_hidden, 2)
    _at_least("clinical_features", clinical_features, 0)
    _at_least("hazard_years", hazard_years, 0)
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout ({dropout!r}) must lie in [0, 1)")


def _feature_norms(width: Mapping[str, int], used: Sequence[str]) -> nn.ModuleDict:
    """Return a batch norm without weights for each stage in use, and identities elsewhere."""
    return nn.ModuleDict(
        {
            name: nn.BatchNorm2d(width[name], affine=False) if name in used else nn.Identity()
            for name in STAGES
        }
    )


def _hazard_head(features: int, years: int) -> nn.Linear:
    """Return a head that begins at a hazard of 12 % a year: half of the patients in five years.

    From the 50 % a year of a bias of zero it would take many epochs to come down.
    """
    head = nn.Linear(features, years)
    nn.init.constant_(head.bias, -2.0)
    return head


def network_of(settings: Mapping[str, Any]) -> AttentionCNNRNN:
    """Build the network of ``model_settings``; those of the preprocessing have no part in it.

    >>> network_of({"backbone": "resnet18", "attention": "none", "slices": 14}).slice_features
    512
    """
    known = {name: value for name, value in settings.items() if name in _PARAMETERS}
    clinical = settings.get("clinical")
    return AttentionCNNRNN(**known, clinical_features=len(clinical["names"]) if clinical else 0)


_PARAMETERS = frozenset(signature(AttentionCNNRNN).parameters)
NETWORK_SETTINGS = (_PARAMETERS - {"in_channels"}) | {"slices", "clinical_model", "clinical"}
"""Of the settings that weights carry, those on which no prepared image depends."""


def export_onnx(network: nn.Module, path: Path, example: Tensor) -> None:
    """Write the network as one ONNX file with inputs ``image`` and output ``logits``.

    Args:
        network: in evaluation mode, without clinical variables.
        path: of the file to write.
        example: (B, C, H, W, D) with B ≥ 2; B stays free, the other sizes are fixed by it.

    Raises:
        MissingDependencyError: the packages of the extra ``onnx`` are not installed.
    """
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise MissingDependencyError("onnxscript", "onnx", "to export a network") from error
    with warnings.catch_warnings(), torch.no_grad():
        # Both come from torch's own exporter on any network with a GRU; neither changes the file.
        warnings.filterwarnings("ignore", message="_check_is_size will be removed")
        warnings.filterwarnings("ignore", message=r"The tensor attributes? self\.decoder\.gru")
        torch.onnx.export(
            network,
            (example,),
            path,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
