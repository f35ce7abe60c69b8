"""Encoders of timm: stages, exports, heat maps, pretrained weights and their hashes."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torchvision import models

from cohorts import SMALL, make_cohort
from monai_vfx.cli import main
from monai_vfx.core.errors import SettingError
from monai_vfx.model.checkpoint import read_sidecar
from monai_vfx.model.encoder import (
    STAGES,
    STRIDES,
    check_pretrained,
    load_encoder,
    sha256_of_pretrained,
)
from monai_vfx.model.gradcam import gradcam
from monai_vfx.model.network import AttentionCNNRNN
from monai_vfx.vertebrae.training.checkpoints import load_state
from monai_vfx.workflows.train import evaluate

SQUARE = (1, 3, 64, 96)
MOBILE = "mobilenetv3_small_100"


def image() -> torch.Tensor:
    return torch.rand(SQUARE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def network(backbone: str, **settings: object) -> AttentionCNNRNN:
    torch.manual_seed(0)
    return AttentionCNNRNN(backbone, rnn_hidden=6, **settings).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_residual_encoders_are_those_of_torchvision(name: str) -> None:
    """Bit for bit, and so is what the global generator draws next."""
    torch.manual_seed(2)
    encoder, drawn = load_encoder(name).eval(), torch.rand(1)
    torch.manual_seed(2)
    whole = models.get_model(name).eval()
    assert torch.equal(torch.rand(1), drawn)
    stem = torch.nn.Sequential(whole.conv1, whole.bn1, whole.relu, whole.maxpool)
    assert list(encoder.stem.state_dict()) == list(stem.state_dict())
    x = y = image()
    with torch.no_grad():
        x, y = encoder.stem(x), stem(y)
        for stage in STAGES:
            theirs = getattr(whole, stage)
            assert list(encoder.stages[stage].state_dict()) == list(theirs.state_dict())
            x, y = encoder.stages[stage](x), theirs(y)
            assert torch.equal(x, y)


@pytest.mark.parametrize("name", [MOBILE, "regnetx_002", "densenet121", "tf_efficientnet_lite0"])
def test_stages_are_those_of_the_whole_network(name: str) -> None:
    torch.manual_seed(2)
    encoder = load_encoder(name).eval()
    torch.manual_seed(2)
    whole = timm.create_model(name, features_only=True, scriptable=True).eval()
    x = encoder.stem(image())
    with torch.no_grad():
        for stage, stride in zip(STAGES, STRIDES, strict=True):
            x = encoder.stages[stage](x)
            assert x.shape[2:] == (64 // stride, 96 // stride)
            assert x.shape[1] == encoder.widths()[stage]
        torch.testing.assert_close(x, whole(image())[-1])


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", [MOBILE, "tf_efficientnet_lite0"])
def test_other_encoders_export_and_explain(name: str, tmp_path: Path) -> None:
    net, x = network(name, attention="dot"), image()[:, :1, ..., None].repeat(1, 1, 1, 1, 3)
    torch.jit.script(net).save(str(tmp_path / "model.ts"))
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(str(tmp_path / "model.ts"))(x), net(x))
    heat = gradcam(net, x)
    assert heat.shape == x.shape[1:]
    assert heat.max() > heat.min()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "no_such_network"])
def test_networks_without_stages_are_refused(name: str) -> None:
    with pytest.raises(SettingError, match=name):
        load_encoder(name)


def test_a_name_of_earlier_weights_is_understood() -> None:
    earlier = load_encoder("timm/tf_efficientnet_lite0").state_dict()
    assert list(earlier) == list(load_encoder("tf_efficientnet_lite0").state_dict())


def test_a_file_of_torchvision_fills_a_residual_encoder(tmp_path: Path) -> None:
    state = models.resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "encoder.pth")
    save_file(state, tmp_path / "encoder.safetensors")
    for name in ("encoder.pth", "encoder.safetensors"):
        encoder = load_encoder("resnet18", tmp_path / name)
        assert torch.equal(encoder.stem[0].weight, state["conv1.weight"])
        assert torch.equal(encoder.stages["layer4"][1].bn2.bias, state["layer4.1.bn2.bias"])


@pytest.mark.parametrize("name", [MOBILE, "tf_efficientnet_lite0", "convnext_atto"])
def test_a_file_of_timm_fills_the_encoder(name: str, tmp_path: Path) -> None:
    whole = timm.create_model(name)
    torch.save(whole.state_dict(), tmp_path / "encoder.pth")
    own = load_encoder(name, tmp_path / "encoder.pth").state_dict()
    theirs = [v for k, v in whole.state_dict().items()][: len(own)]
    assert all(torch.equal(a, b) for a, b in zip(own.values(), theirs, strict=True))


def test_a_file_must_fit_and_hold_plain_tensors(tmp_path: Path) -> None:
    path = tmp_path / "encoder.pth"
    state = models.resnet18(weights=None).state_dict()
    for changed, words in (
        ({k: v for k, v in state.items() if k != "bn1.weight"}, "1 tensors are missing"),
        ({**state, "layer5.weight": torch.zeros(1)}, "1 are unknown"),
        ({**state, "conv1.weight": torch.zeros(1)}, "does not fit"),
        ([1, 2], "plain state dictionary"),
    ):
        torch.save(changed, path)
        with pytest.raises(SettingError, match=words):
            load_encoder("resnet18", path)
    path.write_bytes(b"no weights")
    with pytest.raises(SettingError, match="not a file of plain tensors"):
        load_encoder("resnet18", path)


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    made = timm.create_model
    asked: list[str] = []

    def offline(name: str, pretrained: bool = False, **settings: object) -> torch.nn.Module:
        if pretrained:
            asked.append(name)
            raise OSError("no route to host")
        return made(name, **settings)

    monkeypatch.setattr(timm, "create_model", offline)
    for pretrained in ("imagenet", "timm/resnet18.a1_in1k"):
        with pytest.raises(SettingError, match=r"not be downloaded \(no route.*give that file"):
            load_encoder("resnet18", pretrained)
    assert asked == ["resnet18.tv_in1k", "resnet18.a1_in1k"]


def test_a_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    state = models.resnet18(weights=None).state_dict()
    plain = tmp_path / "encoder.pth"
    torch.save(state, plain)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    assert sha256_of_pretrained(plain) == digest
    load_encoder("resnet18", plain, digest)
    load_encoder("resnet18", plain.rename(tmp_path / f"encoder-{digest[:8]}.pth"))
    wrong = plain.with_name("encoder-00000000.pth")
    (tmp_path / f"encoder-{digest[:8]}.pth").rename(wrong)
    with pytest.raises(SettingError, match=f"{digest}, but its name says 00000000"):
        load_encoder("resnet18", wrong)
    load_encoder("resnet18", wrong, digest[:12])  # what the user asks for counts
    with pytest.raises(SettingError, match="pretrained_sha256 asks for 11111111"):
        load_encoder("resnet18", wrong, "11111111")
    with pytest.raises(SettingError, match="8 to 64 hexadecimal digits"):
        load_encoder("resnet18", wrong, "abc")


def test_input_range_imagenet_is_that_of_torchvision() -> None:
    """Grey levels v in [0, 1] of an image reach the encoder as (v - mean) / SD."""
    from torchvision.transforms.v2.functional import normalize

    plain = network("resnet18", in_channels=3)
    assert plain.state_dict().keys() == network("resnet18").state_dict().keys()
    shifted = network("resnet18", in_channels=3, input_range="imagenet")
    assert shifted.state_dict().keys() == plain.state_dict().keys()
    levels = (image() + 1) / 2
    expected = normalize(levels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        torch.testing.assert_close(shifted(image()[..., None]), plain(expected[..., None]))


def test_weights_bring_their_encoder_to_a_prediction(tmp_path: Path) -> None:
    """``vfx predict`` learns the encoder from the sidecar alone."""
    cohort = make_cohort(tmp_path / "cohort", [0, 1] * 4)
    pretrained = tmp_path / "first.pth"
    first = timm.create_model(MOBILE).state_dict()
    torch.save(first, pretrained)
    still = {**SMALL, "folds": 2, "learning_rate": 0.0, "backbone": MOBILE, "attention": "dot"}
    (tmp_path / "small.json").write_text(json.dumps(still))
    out = tmp_path / "run"
    call = ["train", str(cohort), "--out", str(out), "--fold", "0", "--epochs", "1"]
    for name in ("cpu_small", str(tmp_path / "small.json")):
        call += ["--overlay", name]
    done = CliRunner().invoke(main, [*call, "--pretrained", str(pretrained)])
    assert done.exit_code == 0, done.output
    sidecar, state = read_sidecar(out / "model.pt"), load_state(out / "model.pt")
    assert sidecar["training"]["pretrained"] == "first.pth"
    assert sidecar["training"]["pretrained_sha256"] == sha256_of_pretrained(pretrained)
    assert sidecar["config"]["backbone"] == MOBILE
    # at a learning rate of 0 the pretrained weights are the last
    assert torch.equal(state["stem.0.weight"], first["conv_stem.weight"])
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


def test_pretrained_weights_that_cannot_serve_are_refused_at_once() -> None:
    check_pretrained("resnet18", None)
    check_pretrained("resnet18", "timm/resnet18.a1_in1k")
    for backbone, pretrained, words in (
        ("resnet81", None, "must be a network of timm"),
        ("resnet18", "package", "must be None, 'imagenet', 'timm/NAME' or an existing file"),
        ("resnet18", "timm/resnet34", "must be weights of the backbone"),
    ):
        with pytest.raises(SettingError, match=words):
            check_pretrained(backbone, pretrained)
