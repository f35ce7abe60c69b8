"""The image network: shapes, formulas by hand, exports, weights and refusals."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_vfx.model.encoder import STAGES
from monai_vfx.model.layers import SpatialAttention, fold_slices, unfold_slices
from monai_vfx.model.network import AttentionCNNRNN, export_onnx

SHAPE = (2, 1, 40, 56, 5)  # unequal axes, fewer slices than the study: nothing may depend on 14


def small(**settings: object) -> AttentionCNNRNN:
    torch.manual_seed(0)
    return AttentionCNNRNN("resnet18", rnn_hidden=6, **settings).eval()  # type: ignore[arg-type]


def images(batch: int = 2, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, channels, *SHAPE[2:], generator=generator) * 2 - 1


@pytest.mark.parametrize(
    ("settings", "features", "head"),
    [
        ({}, 128 + 256, 6),
        ({"attention": "dot"}, 128 + 256, 6),
        ({"attention": "none"}, 512, 6),
        ({"include_global": True}, 128 + 256 + 512, 6),
        ({"attention_layers": ["layer3"]}, 256, 6),
        ({"decoder": "mean"}, 384, 384),
        ({"feature_norm": True}, 384, 6),
        ({"clinical_features": 3}, 384, 9),
    ],
)
def test_settings_give_widths_and_logits(
    settings: dict[str, object], features: int, head: int
) -> None:
    network = small(**settings)
    clinical = torch.zeros(2, 3) if "clinical_features" in settings else None
    assert network.slice_features == features
    assert network.head.in_features == head
    logits = network(images(), clinical)
    assert logits.shape == (2, 2)
    assert torch.isfinite(logits).all()


def test_the_study_s_network_has_the_study_s_shapes() -> None:
    state = AttentionCNNRNN().state_dict()
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    assert shapes["stages.layer1.0.conv2.weight"] == (128, 4, 3, 3)  # 32 groups of 4: ResNeXt 32×4d
    assert shapes["attention.layer2.project.weight"] == (512, 2048)
    assert shapes["attention.layer3.project.weight"] == (1024, 2048)
    assert shapes["attention.layer2.u.weight"] == (1, 512)
    assert shapes["decoder.gru.weight_ih_l0"] == (3 * 256, 512 + 1024)
    assert shapes["decoder.gru.weight_hh_l0"] == (3 * 256, 256)
    assert shapes["head.weight"] == (2, 256)


def test_spatial_attention_by_hand_pc() -> None:
    attend = SpatialAttention(2, 1, "pc")
    with torch.no_grad():
        attend.project.weight.copy_(torch.tensor([[1.0], [0.0]]))  # g = (pooled, 0)
        attend.u.weight.copy_(torch.tensor([[0.0, 1.0]]))  # score = second feature
    # two positions: (1, 0) and (5, ln 3) → scores 0 and ln 3 → weights 1/4 and 3/4
    local = torch.tensor([[[[1.0, 5.0]], [[0.0, float(np.log(3.0))]]]])
    vector, weight = attend(local, torch.tensor([[7.0]]))
    torch.testing.assert_close(weight, torch.tensor([[[0.25, 0.75]]]))
    torch.testing.assert_close(vector, torch.tensor([[4.0, 0.75 * float(np.log(3.0))]]))


def test_spatial_attention_by_hand_dot() -> None:
    attend = SpatialAttention(2, 1, "dot")
    with torch.no_grad():
        attend.project.weight.copy_(torch.tensor([[1.0], [2.0]]))
    # g = (ln 2, 2 ln 2); positions (1, 0) and (0, 1): scores ln 2, 2 ln 2 → weights 1/3, 2/3
    local = torch.tensor([[[[1.0], [0.0]], [[0.0], [1.0]]]])
    vector, weight = attend(local, torch.tensor([[float(np.log(2.0))]]))
    torch.testing.assert_close(weight, torch.tensor([[[1 / 3], [2 / 3]]]))
    torch.testing.assert_close(vector, torch.tensor([[1 / 3, 2 / 3]]))


@pytest.mark.parametrize(
    "settings", [{}, {"attention": "dot"}, {"attention": "none"}, {"include_global": True}]
)
def test_feature_norm_makes_large_features_as_good_as_small_ones(
    settings: dict[str, object],
) -> None:
    found = []
    for factor in (1.0, 50.0):
        network = small(feature_norm=True, **settings).train()
        network.dropout.p = 0.0
        for stage in network.stages.values():
            stage.register_forward_hook(lambda _module, _x, h, factor=factor: h * factor)
        found.append(network(images()).detach())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-3)
    plain = [name for name in small(**settings).state_dict() if "feature_norms" in name]
    assert plain == []  # weights of networks without it hold what they always held


@pytest.mark.parametrize(
    ("settings", "influential"),
    [
        ({}, STAGES[:3]),  # <u, g> cancels in the softmax
        ({"include_global": True}, STAGES),
        ({"attention": "dot"}, STAGES),
        ({"attention": "dot", "attention_layers": ["layer2"]}, STAGES),
        ({"attention": "none"}, STAGES),
        ({"attention_layers": ["layer3", "layer2"]}, STAGES[:3]),
        ({"attention_layers": ["layer2"]}, STAGES[:2]),
        ({"attention_layers": ["layer1"]}, STAGES[:1]),
    ],
)
def test_influential_layers_are_those_that_change_the_logits(
    settings: dict[str, object], influential: tuple[str, ...]
) -> None:
    assert small(**settings).influential_layers == influential
    x = images()
    for stage in STAGES:
        network = small(**settings)
        with torch.no_grad():
            before = network(x)
            for parameter in network.stages[stage].parameters():
                parameter.mul_(1.1)
            change = (network(x) - before).abs().max().item()
        assert (change > 1e-5) == (stage in influential), stage


def test_stages_without_influence_are_not_computed_and_it_makes_no_difference() -> None:
    network, x = small(), images()
    calls: list[str] = []
    for name, stage in network.stages.items():
        stage.register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        features, maps = network.encode(x)
    assert calls == ["layer1", "layer2", "layer3"]
    network.last_counts, network.influential_layers = True, STAGES  # the formula as it stands
    with torch.no_grad():
        whole, whole_maps = network.encode(x)
    assert calls[3:] == list(STAGES)
    torch.testing.assert_close(features, whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(maps, whole_maps, rtol=0, atol=1e-6)


def test_attention_maps_sum_to_one_over_a_slice() -> None:
    maps = small().attention_maps(images())
    assert {k: tuple(v.shape) for k, v in maps.items()} == {
        "layer2": (2, 5, 7, 5),
        "layer3": (2, 3, 4, 5),
    }
    for weight in maps.values():
        assert (weight > 0).all()
        torch.testing.assert_close(weight.sum(dim=(1, 2)), torch.ones(2, 5))


def test_fold_and_unfold_keep_each_slice_together() -> None:
    x = torch.arange(2 * 3 * 5 * 7 * 4).reshape(2, 3, 5, 7, 4)
    folded = fold_slices(x)
    assert folded.shape == (8, 3, 5, 7)
    assert torch.equal(folded[5], x[1, ..., 1])  # patient 1, slice 1
    back = unfold_slices(folded, depth=4)
    assert torch.equal(back, x)
    assert back.is_contiguous()


def test_patients_do_not_influence_each_other_and_the_order_of_slices_counts() -> None:
    network, x = small(), images()
    with torch.no_grad():
        both = network(x)
        torch.testing.assert_close(both[1:], network(x[1:]), rtol=0, atol=1e-5)
        assert not torch.allclose(both, network(x.flip(-1)), atol=1e-5)
        mean = small(decoder="mean")
        torch.testing.assert_close(mean(x), mean(x.flip(-1)), rtol=0, atol=1e-5)


def test_one_channel_is_repeated_to_three() -> None:
    one, three = small(), small(in_channels=3)
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(one(x), three(x.expand(-1, 3, -1, -1, -1)))


def test_seed_fixes_the_weights() -> None:
    first, second = small().state_dict(), small().state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    torch.manual_seed(1)
    third = AttentionCNNRNN("resnet18", rnn_hidden=6).state_dict()
    assert not torch.equal(first["head.weight"], third["head.weight"])


def test_clinical_variables_reach_the_logits_only_through_the_last_layer() -> None:
    network, x = small(clinical_features=2), images()
    with torch.no_grad():
        network.head.weight[:, 6:] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        step = network(x, torch.tensor([[1.0, 0.0]] * 2)) - network(x, torch.zeros(2, 2))
    torch.testing.assert_close(step, network.head.weight[:, 6].expand(2, 2))
    with pytest.raises(ValueError, match=re.escape("clinical must be (B, 2), not None")):
        network(x)


def test_clinical_variables_say_nothing_until_they_are_trained() -> None:
    network, x = small(clinical_features=2, hazard_years=5), images()
    rare = torch.tensor([[10.0, -3.0]] * 2)
    torch.testing.assert_close(network(x, rare), network(x, torch.zeros(2, 2)))
    network(x, rare)[:, 1].sum().backward()
    assert network.head.weight.grad[1, 6:].tolist() == [20.0, -6.0]


def test_hazard_logits_follow_those_of_the_classes() -> None:
    torch.manual_seed(0)
    network, x = small(hazard_years=5).eval(), images()
    with torch.no_grad():
        both, state = network(x), network.decode(network.encode(x)[0])
        assert both.shape == (2, 2 + 5)
        torch.testing.assert_close(both[:, :2], network.head(state))
        torch.testing.assert_close(both[:, 2:], network.hazard(state))


def test_gradient_reaches_every_influential_parameter() -> None:
    network = small(attention="dot").train()
    torch.nn.functional.cross_entropy(network(images()), torch.tensor([0, 1])).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_stage_without_influence_is_not_trained() -> None:
    network = small(dropout=0.0).train()
    torch.nn.functional.cross_entropy(network(images()), torch.tensor([0, 1])).backward()
    untrained = {n.split(".")[1] for n, p in network.named_parameters() if p.grad is None}
    assert untrained == {"layer4", "layer2", "layer3"}
    names = {n for n, p in network.named_parameters() if p.grad is None and "layer4" not in n}
    assert names == {f"attention.{stage}.project.weight" for stage in ("layer2", "layer3")}


# --- exports ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # the zoo's format all the same
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attention_layers": ["layer3"]},
        {"attention": "dot"},
    ],
)
def test_torchscript_equals_the_network(settings: dict[str, object], tmp_path: Path) -> None:
    network, x = small(**settings), images(batch=3)
    torch.jit.script(network).save(str(tmp_path / "model.ts"))
    scripted = torch.jit.load(str(tmp_path / "model.ts"))
    with torch.no_grad():
        torch.testing.assert_close(scripted(x), network(x), rtol=0, atol=1e-6)
        torch.testing.assert_close(
            scripted.attention_maps(x)["layer3"], network.attention_maps(x)["layer3"]
        )


def test_onnx_equals_the_network_at_any_batch_size(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    network = small()
    export_onnx(network, tmp_path / "model.onnx", images())
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    for batch in (1, 3):
        x = images(batch)
        (logits,) = session.run(["logits"], {"image": x.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, network(x).numpy(), atol=2e-5)


# --- weights ----------------------------------------------------------------------------------


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Path("object")}, tmp_path / "pickle.pth")
    with pytest.raises(ValueError, match="not a file of plain tensors"):
        small(pretrained=str(tmp_path / "pickle.pth"))
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="plain state dictionary"):
        small(pretrained=str(tmp_path / "list.pth"))


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": "both"}, "attention ('both') must be one of 'pc', 'dot', 'none'"),
        ({"attention_layers": ["layer4"]}, "attention_layers ('layer4') must be one of"),
        ({"attention_layers": []}, "attention_layers ([]) must be a list of stages"),
        ({"attention_layers": "layer2"}, "attention_layers ('layer2') must be a list of stages"),
        ({"decoder": "lstm"}, "decoder ('lstm') must be one of 'gru', 'mean'"),
        ({"in_channels": 2}, "in_channels (2) must be one of 1, 3"),
        ({"num_classes": 1}, "num_classes (1) must be at least 2"),
        ({"rnn_hidden": 0}, "rnn_hidden (0) must be at least 2"),
        ({"clinical_features": -1}, "clinical_features (-1) must be at least 0"),
        ({"hazard_years": -1}, "hazard_years (-1) must be at least 0"),
        ({"dropout": 1.0}, "dropout (1.0) must lie in [0, 1)"),
        ({"backbone": "vit_b_16"}, "backbone ('vit_b_16') must be a network of timm"),
    ],
)
def test_arguments_are_refused_with_their_rule(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        AttentionCNNRNN(**{"backbone": "resnet18", "rnn_hidden": 6, **settings})  # type: ignore[arg-type]


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.pth.*an existing file"):
        small(pretrained=str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize("shape", [(2, 3, 40, 56, 5), (2, 1, 40, 56), (1, 40, 56, 5)])
def test_a_wrong_input_shape_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"(B, 1, H, W, D), not {list(shape)}")):
        small()(torch.zeros(shape))
