"""Where the network looks: GradCAM and attention per slice, brought back to the patient's CT.

A heat map answers "which parts of these slices raised this score", nothing more: it is no
segmentation, no diagnosis, and no measure of certainty.

Sources: Selvaraju et al. 2017 (Grad-CAM) as ``monai.visualize`` builds it; Draelos & Carin 2020,
arXiv 2011.08891 (HiResCAM); Jetley et al. 2018, arXiv 1804.02391 (attention maps); Adebayo et al.
2018, arXiv 1810.03292 (randomised weights).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Compose, allow_missing_keys_mode
from monai.visualize import GradCAM, ModelWithHooks
from torch import Tensor, nn

from monai_vfx.core.arrays import Affine
from monai_vfx.core.errors import SettingError
from monai_vfx.model.layers import fold_slices, unfold_slices


class _HasAttention(Protocol):
    def attention_maps(self, x: Tensor) -> dict[str, Tensor]: ...


class SliceGradCAM(GradCAM):
    """MONAI's GradCAM of a network that reads a stack of slices, each slice weighed by itself.

    For a stage's features A (B, c, h, w, D) and the score S of a class:

        map[h, w, d] = max(0, Σ_c ∂S/∂A[c, h, w, d] · A[c, h, w, d])

    Each place is weighed by its own gradient (HiResCAM). GradCAM as published takes the mean of the
    gradient over h and w first, which is the same where the score is linear in the mean of these
    features. An attention module weighs places, so their gradients differ, and the mean forgets
    which of them count; ``benchmarks/proof`` measures both. ``average=True`` gives the mean, slice
    by slice. The map is upsampled within each slice (:func:`upsample_slices`) and divided by its
    largest value over the **whole patient**, so slices can be compared with each other but patients
    cannot; a map that is zero everywhere stays zero.

    The gradient is taken with respect to the features alone: no parameter's ``grad`` is written,
    and the network is left as it was.
    """

    def __init__(self, network: nn.Module, layer: str, average: bool = False) -> None:
        check_layer(network, layer)
        name = f"stages.{layer}"
        plain = ModelWithHooks(network, name, register_forward=False, register_backward=False)
        super().__init__(
            cast(nn.Module, plain), name, upsampler=_upsampler, postprocessing=scale_to_unit
        )
        self.average = average

    def compute_map(  # type: ignore[override]
        self, x: Tensor, class_idx: int = 1, layer_idx: int = -1, **kwargs: Any
    ) -> Tensor:
        """Return the map before upsampling, (B, 1, h, w, D), at least 0.

        Args:
            x: (B, C, H, W, D).
            class_idx: class whose score is explained.
            layer_idx: ignored; one stage is explained.
            **kwargs: passed on to the network (``clinical=…``), but for MONAI's ``retain_graph``.
        """
        kwargs.pop("retain_graph", None)
        stage = self.nn_module.get_layer(self.nn_module.target_layers[0])
        seen: list[Tensor] = []

        def see(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            seen.append(unfold_slices(output, x.shape[-1]))
            return fold_slices(seen[0])

        # Inference tensors cannot join a graph, hence the clone; a network without trainable
        # parameters still needs a leaf that asks for gradients, hence requires_grad_.
        with torch.inference_mode(False), torch.enable_grad(), _evaluating(self.nn_module.model):
            leaf = x.detach().clone().requires_grad_(True)
            handle = stage.register_forward_hook(see)
            try:
                with _recurrent_backward(leaf):
                    logits = self.nn_module.model(leaf, **kwargs)
                    score = logits[:, class_idx].sum()
                    (gradient,) = torch.autograd.grad(score, seen[0])
            finally:
                handle.remove()
        feature, gradient = seen[0].detach().float(), gradient.contiguous().float()
        if self.average:
            gradient = gradient.mean(dim=(2, 3), keepdim=True)  # (B, c, 1, 1, D): slice by slice
        return F.relu((gradient * feature).sum(dim=1, keepdim=True))


def gradcam(
    network: nn.Module,
    image: Tensor,
    layer: str = "layer3",
    class_index: int = 1,
    *,
    clinical: Tensor | None = None,
    average: bool = False,
) -> Tensor:
    """Return the GradCAM heat of one patient, see :class:`SliceGradCAM`.

    Args:
        network: :class:`~monai_vfx.model.network.AttentionCNNRNN`, or one with ``stages`` that see
            (B·D, c, h, w) and with ``influential_layers``.
        image: (1, C, H, W, D), in [-1, 1], on the network's device.
        layer: encoder stage; a cell of ``layer3`` spans 16 pixels, of ``layer4`` 32.
        class_index: 1 for the fracture.
        clinical: (1, F), where the network takes clinical variables.
        average: weigh all places of a slice by the mean of their gradients.

    Returns:
        (1, H, W, D) float32 in [0, 1]; the largest value is 1 unless nothing raises the score,
        then all are 0.

    Raises:
        SettingError: see :func:`check_layer`.
        ValueError: wrong shape, or a heat that is not finite.
    """
    plain = _one_patient(image)
    arguments = {} if clinical is None else {"clinical": clinical}
    explain = SliceGradCAM(network, layer, average)
    return cast(Tensor, explain(plain, class_idx=class_index, **arguments)[0])


def check_layer(network: nn.Module, layer: str) -> None:
    """Refuse a stage that GradCAM cannot explain.

    Raises:
        SettingError: the network has no such stage, or its ``influential_layers`` say that the
            stage does not change the logits; the message names those that can be explained.
    """
    stages = list(cast(nn.ModuleDict, network.stages))
    choices = list(getattr(network, "influential_layers", stages))
    if layer not in stages:
        raise SettingError(f"layer {layer!r} is not in the network; choose one of {choices}")
    if layer not in choices:
        raise SettingError(
            f"layer {layer!r} does not change this network's score; choose one of {choices}"
        )


def attention_heat(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Return where the network's own attention lies, by encoder stage.

    Attention sums to 1 within each slice; here it is upsampled within the slice and divided by its
    largest value over the patient, as GradCAM's heat is.

    Args:
        network: with ``attention_maps(x)`` → by stage (B, h, w, D).
        image: (1, C, H, W, D), in [-1, 1], on the network's device.

    Returns:
        by stage (1, H, W, D) float32 in [0, 1]; empty for a network without attention.

    Raises:
        ValueError: wrong shape, or attention that is not finite.
    """
    plain = _one_patient(image)
    with torch.no_grad(), _evaluating(network):
        maps = cast(_HasAttention, network).attention_maps(plain)
    size = (image.shape[2], image.shape[3])
    return {
        stage: scale_to_unit(upsample_slices(weight.float().unsqueeze(1), size))[0]
        for stage, weight in maps.items()
    }


def randomised(network: nn.Module, modules: Sequence[str] = ("",), seed: int = 0) -> nn.Module:
    """Return a copy of a network with fresh random weights in some modules: a control for maps.

    A map that looks the same with random weights shows the image, not what was learned (Adebayo
    et al. 2018). Naming more and more modules from the head to the stem makes their cascade.

    Args:
        network: stays as it is.
        modules: names of those drawn anew with all within them; ``""`` is the whole network.
        seed: of the draw, which leaves torch's global generator alone.

    Returns:
        The copy, in evaluation mode, those modules with torch's own initial weights; normalisation
        forgets its running means as well.

    Raises:
        SettingError: the network has no such module, or it has no weights.
    """
    copy = deepcopy(network).eval()
    known = dict(copy.named_modules())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in modules:
            inside = known[name].modules() if name in known else ()
            parts = [module for module in inside if hasattr(module, "reset_parameters")]
            if not parts:
                raise SettingError(f"the network has no module {name!r} with weights")
            for part in parts:
                cast(Any, part).reset_parameters()
    return copy


def upsample_slices(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate coarse maps bilinearly within each slice, never across slices.

    A residual network's cell i looks at the image around pixel i · stride, because its strided
    convolutions are padded symmetrically and start at pixel 0. The usual "corners not aligned"
    resize puts it at (i + 1/2) · stride - 1/2 instead, 7.5 pixels off for ``layer3``; here cells
    lie where they look, and pixels beyond the last cell take its value. The stride is the power of
    two nearest to the ratio of the sizes.

    Args:
        maps: (B, C, h, w, D).
        size: (H, W), at least (h, w).

    Returns:
        (B, C, H, W, D).

    >>> row = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2, 1)
    >>> upsample_slices(row, (1, 4)).flatten()
    tensor([0.0000, 0.5000, 1.0000, 1.0000])
    """
    rows = _interpolation(size[0], maps.shape[2]).to(maps)
    columns = _interpolation(size[1], maps.shape[3]).to(maps)
    return torch.einsum("Hh,bchwd,Ww->bcHWd", rows, maps, columns)


def scale_to_unit(maps: Tensor) -> Tensor:
    """Divide each patient's map (B, …), at least 0, by its largest value; all-zero maps stay zero.

    Raises:
        ValueError: a value is not finite.
    """
    if not bool(torch.isfinite(maps).all()):
        raise ValueError("the heat is not finite: the image or the weights hold NaN or overflow")
    largest = maps.flatten(1).amax(dim=1).reshape(-1, *[1] * (maps.dim() - 1))
    return torch.where(largest > 0, maps / largest, torch.zeros_like(maps))


def to_ct_grid(heat: Tensor, image: MetaTensor, preprocessing: Compose) -> npt.NDArray[np.float32]:
    """Bring a heat map of the network's input back onto the patient's whole CT.

    The preprocessing is undone in reverse order (slices, crop, resampling, orientation), which
    gives the native voxels of the region around T12-L4; the rest of the CT is 0.

    Args:
        heat: (1, H, W, D), on the grid of ``image``.
        image: (C, H, W, D), what ``preprocessing`` returned for the case, with its
            ``applied_operations`` and the meta entries ``region_start`` and ``volume_shape``.
        preprocessing: the pipeline that made ``image``.

    Returns:
        (i, j, k) float32, in the CT's own axis order.

    Raises:
        ValueError: ``heat`` does not lie on the grid of ``image``.
    """
    if heat.shape != (1, *image.shape[1:]):
        raise ValueError(
            f"heat has the shape {tuple(heat.shape)}; the image's grid is (1, H, W, D) = "
            f"{(1, *image.shape[1:])}"
        )
    carried = MetaTensor(
        heat.detach().float().cpu(),
        meta=dict(image.meta),  # the affine is part of it
        applied_operations=list(image.applied_operations),
    )
    with allow_missing_keys_mode(preprocessing):
        native = preprocessing.inverse({"image": carried})["image"]
    region = np.asarray(native[0], dtype=np.float32)
    whole = np.zeros(tuple(int(n) for n in image.meta["volume_shape"]), np.float32)
    start = (int(n) for n in image.meta["region_start"])
    box = tuple(slice(a, a + n) for a, n in zip(start, region.shape, strict=True))
    whole[box] = region
    return whole


def save_heat_map(
    path: str | Path, heat: npt.NDArray[np.float32], affine: Affine, *, note: str = ""
) -> Path:
    """Write a heat map as NIfTI on the CT's own grid.

    Args:
        path: ends in ``.nii.gz`` or ``.nii``.
        heat: (i, j, k), in [0, 1], in the CT's axis order.
        affine: the CT's, RAS+ mm; stored as sform and qform with the code "scanner".
        note: at most 79 ASCII characters for the header's description, such as that the weights
            are simulated. No patient's name or ID.

    Returns:
        ``path``.

    Raises:
        ValueError: the array is no volume, or the note does not fit.
    """
    if heat.ndim != 3:
        raise ValueError(f"heat has the shape {heat.shape}; a volume (i, j, k) is needed")
    if not note.isascii() or len(note) > 79:
        raise ValueError(f"note ({note!r}) must be at most 79 ASCII characters")
    nifti: Any = nib.Nifti1Image(np.ascontiguousarray(heat, dtype=np.float32), None)
    nifti.set_sform(np.asarray(affine, np.float64), code="scanner")
    nifti.set_qform(np.asarray(affine, np.float64), code="scanner")
    nifti.header.set_xyzt_units("mm")
    nifti.header["descrip"] = note.encode("ascii")
    nifti.header["cal_max"] = 1.0
    nib.save(nifti, path)
    return Path(path)


def _one_patient(image: Tensor) -> Tensor:
    """Return a plain tensor (1, C, H, W, D)."""
    if image.dim() != 5 or image.shape[0] != 1:
        raise ValueError(f"image has the shape {tuple(image.shape)}; (1, C, H, W, D) is needed")
    return image.as_tensor() if isinstance(image, MetaTensor) else image


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Switch every module to evaluation mode, and back to what it was, module by module."""
    before = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def _recurrent_backward(x: Tensor) -> Iterator[None]:
    """Allow the backward pass of a GRU in evaluation mode, which cuDNN does not offer."""
    if not x.is_cuda:
        yield
        return
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


def _upsampler(size: tuple[int, int, int]) -> Callable[[Tensor], Tensor]:
    """Give MONAI's GradCAM our upsampling; it names the image's size (H, W, D) first."""
    return lambda maps: upsample_slices(maps, (size[0], size[1]))


def _interpolation(pixels: int, cells: int) -> Tensor:
    """(pixels, cells): linear weights of the cells at each pixel; rows sum to 1."""
    stride = 2.0 ** round(math.log2(pixels / cells))
    position = (torch.arange(pixels) / stride).clamp(max=cells - 1)
    return (1.0 - (position[:, None] - torch.arange(cells)).abs()).clamp(min=0)
