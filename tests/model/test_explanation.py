from __future__ import annotations

import functools

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd, ScaleIntensityRanged, Spacingd
from torch import nn

from monai_vfx.case.case import Case
from monai_vfx.case.mask.load import Masks
from monai_vfx.core.errors import SettingError
from monai_vfx.io.volume import Volume
from monai_vfx.model import gradcam as explanation
from monai_vfx.model.layers import fold_slices, unfold_slices
from monai_vfx.model.network import AttentionCNNRNN
from monai_vfx.transforms import CTRegion, SampleSlicesd, VertebraCropd
from monai_vfx.transforms.loading import locate_bodies

SLICE_WEIGHTS = (1.0, -1.0, 0.0, 2.0)


class Linear(nn.Module):
    """Features are every second pixel; the score adds them up with one weight a slice.

    So the gradient of the score is that weight, and GradCAM is max(0, weight · feature).
    """

    def __init__(self, weights=SLICE_WEIGHTS):
        super().__init__()
        self.stages = nn.ModuleDict({"layer3": nn.Identity()})
        self.weights = nn.Parameter(torch.tensor(weights))
        self.norm = nn.BatchNorm1d(2)

    def features(self, x):
        """(B, 1, h, w, D)."""
        return unfold_slices(self.stages["layer3"](fold_slices(x[:, :, ::2, ::2])), x.shape[-1])

    def forward(self, x, clinical=None):
        features = self.features(x)
        score = (features.sum(dim=(1, 2, 3)) * self.weights).sum(dim=1)
        if clinical is not None:
            score = score * clinical[:, 0]
        return torch.stack([-score, score], dim=1)

    def attention_maps(self, x):
        maps = torch.zeros(1, 2, 3, 4)
        maps[0, 1, 2, 3] = 1.0
        return {"layer2": maps, "flat": torch.full((1, 2, 3, 4), 1 / 6)}


def small_network(**settings):
    torch.manual_seed(4)
    return AttentionCNNRNN("resnet18", rnn_hidden=8, **settings)


@pytest.fixture
def image():
    return torch.rand(1, 1, 4, 6, 4, generator=torch.Generator().manual_seed(1)) + 0.5


def test_gradcam_weighs_each_slice_by_itself(image):
    heat = explanation.gradcam(Linear(), image)
    cells = torch.relu(image[0, :, ::2, ::2] * torch.tensor(SLICE_WEIGHTS))
    expected = cells / cells.max()
    assert heat.shape == (1, 4, 6, 4)
    # Cell i lies on pixel 2 i, so there the upsampled heat is the cell's own value.
    torch.testing.assert_close(heat[:, ::2, ::2], expected)
    # Between two cells lies their mean; beyond the last one its value.
    torch.testing.assert_close(heat[:, 0, 1], (expected[:, 0, 0] + expected[:, 0, 1]) / 2)
    torch.testing.assert_close(heat[:, :, 5], heat[:, :, 4])


def test_each_place_is_weighed_by_its_own_gradient_unless_averaged(image):
    gates = torch.tensor([[0.0, 3.0, 0.5], [1.0, 0.0, 0.0]]).reshape(2, 3, 1)  # as attention does

    class Gated(Linear):
        def forward(self, x):
            features = self.features(x)
            score = (features * gates * self.weights).sum(dim=(1, 2, 3, 4))
            return torch.stack([-score, score], dim=1)

    cells = torch.relu(image[0, :, ::2, ::2] * torch.tensor(SLICE_WEIGHTS))
    for average, expected in ((False, cells * gates), (True, cells * gates.mean())):
        heat = explanation.gradcam(Gated(), image, average=average)[:, ::2, ::2]
        torch.testing.assert_close(heat, expected / expected.max())


def test_gradcam_of_the_other_class_is_the_mirror(image):
    heat = explanation.gradcam(Linear(), image, class_index=0)
    lit = heat.amax(dim=(0, 1, 2)) > 0
    assert lit.tolist() == [False, True, False, False]


def test_nothing_raising_the_score_gives_zero_not_nan(image):
    heat = explanation.gradcam(Linear((-1.0, -2.0, -1.0, -3.0)), image)
    assert heat.max() == 0


def test_clinical_variables_reach_the_network(image):
    mirrored = explanation.gradcam(Linear(), image, clinical=torch.tensor([[-1.0]]))
    torch.testing.assert_close(mirrored, explanation.gradcam(Linear(), image, class_index=0))


def test_the_network_is_left_as_it_was(image):
    network = Linear().train()
    network.stages.eval()  # mixed modes must survive, not only the outer flag
    network.weights.grad = torch.full((4,), 7.0)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    explanation.gradcam(network, image)
    explanation.attention_heat(network, image)
    assert network.training
    assert network.norm.training
    assert not network.stages["layer3"].training
    assert network.weights.grad.tolist() == [7.0] * 4
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks
        assert not module._forward_pre_hooks
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_the_network_is_left_as_it_was_after_an_error():
    network = Linear().train()
    with pytest.raises(RuntimeError):
        explanation.gradcam(network, torch.zeros(1, 1, 4, 6, 3))  # four weights, three slices
    assert network.training
    assert not network.stages["layer3"]._forward_hooks


def test_a_frozen_network_without_gradient_mode_works(image):
    expected = explanation.gradcam(Linear(), image)
    network = Linear().requires_grad_(False)
    with torch.inference_mode():
        torch.testing.assert_close(explanation.gradcam(network, image.clone()), expected)
    with torch.no_grad():
        torch.testing.assert_close(explanation.gradcam(network, image), expected)


def test_not_finite_is_an_error(image):
    image[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        explanation.gradcam(Linear(), image)


@pytest.mark.parametrize("shape", [(2, 1, 4, 6, 4), (1, 4, 6, 4)])
def test_one_patient_at_a_time(shape):
    for measure in (explanation.gradcam, explanation.attention_heat):
        with pytest.raises(ValueError, match=r"\(1, C, H, W, D\) is needed"):
            measure(Linear(), torch.zeros(shape))


def test_unknown_layer_names_those_there_are(image):
    with pytest.raises(SettingError, match=r"'layer9' is not in .* one of \['layer3'\]"):
        explanation.gradcam(Linear(), image, layer="layer9")
    with pytest.raises(SettingError, match=r"one of \['layer1', 'layer2', 'layer3'\]"):
        explanation.check_layer(small_network(), "layer9")


@pytest.mark.parametrize(
    "settings", [{}, {"attention": "none"}, {"attention_layers": ["layer3"]}, {"attention": "dot"}]
)
@pytest.mark.parametrize("layer", ["layer1", "layer3"])
def test_stages_before_the_deepest_attended_one_can_be_explained(settings, layer):
    heat = explanation.gradcam(
        small_network(**settings), torch.randn(1, 1, 48, 72, 2), layer, class_index=0
    )
    assert heat.shape == (1, 48, 72, 2)
    assert heat.max() == 1


def test_attention_lies_where_its_cell_looks(image):
    heat = explanation.attention_heat(Linear(), image)
    assert heat["layer2"].shape == (1, 4, 6, 4)
    assert heat["layer2"].max() == 1
    assert (heat["layer2"][0].amax(dim=(0, 1)) > 0).tolist() == [False, False, False, True]
    assert heat["layer2"][0, 2, 4, 3] == 1  # cell (1, 2), stride 2
    assert heat["layer2"][0, 1, 4, 3] == 0.5
    assert (heat["flat"] == 1).all()


# The real network


def test_real_network_gives_heat_in_range():
    network = small_network().train()
    image = MetaTensor(torch.randn(1, 1, 48, 72, 3))
    heat = explanation.gradcam(network, image)
    assert type(heat) is torch.Tensor
    assert heat.shape == (1, 48, 72, 3)
    assert heat.min() >= 0
    assert heat.max() == 1
    assert network.training
    assert all(p.grad is None for p in network.parameters())
    maps = explanation.attention_heat(network, image)
    assert set(maps) == {"layer2", "layer3"}
    assert all(m.shape == (1, 48, 72, 3) and m.max() == 1 for m in maps.values())


def test_stage_without_influence_is_refused_rather_than_drawn_from_rounding_noise():
    image = torch.randn(1, 1, 48, 72, 2)
    with pytest.raises(SettingError, match=r"layer 'layer4' does not change .* 'layer3'"):
        explanation.gradcam(small_network(), image, layer="layer4")
    heat = explanation.gradcam(small_network(include_global=True), image, layer="layer4")
    assert heat.shape == (1, 48, 72, 2)


@pytest.mark.parametrize(("layer", "row", "column"), [("layer2", 56, 72), ("layer3", 64, 80)])
def test_cells_of_a_residual_network_lie_on_multiples_of_the_stride(layer, row, column):
    # With equal weights everywhere the encoder is a symmetric blur, so the response to one bright
    # pixel must be centred on that pixel once it is upsampled.
    network = small_network().eval()
    for module in network.stages.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    nn.init.constant_(network.stem[0].weight, 0.01)
    seen = []
    network.stages[layer].register_forward_hook(lambda _m, _i, output: seen.append(output))
    pulse = torch.zeros(1, 1, 128, 160, 1)
    pulse[0, 0, row, column] = 1.0
    with torch.no_grad():
        network(pulse)
    response = explanation.upsample_slices(seen[0][:, :1, ..., None], (128, 160))[0, 0, :, :, 0]
    response = response - response[0, 0]
    rows = (response.sum(1) * torch.arange(128)).sum() / response.sum()
    columns = (response.sum(0) * torch.arange(160)).sum() / response.sum()
    assert abs(rows.item() - row) < 1.0
    assert abs(columns.item() - column) < 1.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gru_backward_on_cuda():
    image = torch.randn(1, 1, 48, 72, 3)
    network = small_network().eval()
    expected = explanation.gradcam(network, image)
    heat = explanation.gradcam(network.cuda(), image.cuda())
    torch.testing.assert_close(heat.cpu(), expected, atol=1e-2, rtol=0)
    assert torch.backends.cudnn.enabled


# Back on the CT

LEVEL_TOPS_MM = {19: 130.0, 20: 96.0, 21: 62.0, 22: 28.0, 23: -6.0}  # T12-L4, 26 mm high bodies


def rotation(degrees, axis):
    a = np.deg2rad(degrees)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    matrix = np.eye(3)
    others = [n for n in range(3) if n != axis]
    matrix[np.ix_(others, others)] = turn
    return matrix


def grid(directions, spacing, shape):
    """Affine of a volume with the given axis directions (columns), centred near the spine."""
    affine = np.eye(4)
    affine[:3, :3] = directions * np.asarray(spacing)
    middle = affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    affine[:3, 3] = np.array([0.0, -24.0, 50.0]) - middle
    return affine, shape


AXES = np.eye(3)
GRIDS = {
    "anisotropic": grid(AXES, (1.4, 0.8, 5.0), (140, 190, 42)),
    "flipped as DICOM": grid(AXES * [-1, -1, 1], (0.9, 0.9, 3.0), (210, 170, 70)),
    "feet last": grid(AXES * [-1, 1, -1], (1.1, 1.1, 4.0), (180, 140, 53)),
    "permuted": grid(AXES[:, [2, 0, 1]], (4.0, 1.3, 0.9), (53, 150, 170)),
    "oblique": grid(
        rotation(9, 2) @ rotation(7, 0) @ (AXES * [-1, -1, 1]), (1.2, 1.2, 3.0), (180, 160, 72)
    ),
}


@functools.cache
def make_case(name):
    """Return (chain, its output for volumes that hold x, y and z of each voxel, world, affine)."""
    affine, shape = GRIDS[name]
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]  # (i, j, k, 3), RAS mm
    labels = np.zeros(shape, np.uint8)
    lean = world[..., 0] - 0.05 * world[..., 2]  # a slightly scoliotic spine
    column = (np.abs(lean) < 22) & (np.abs(world[..., 1]) < 16)
    for value, top in LEVEL_TOPS_MM.items():
        labels[column & (world[..., 2] < top) & (world[..., 2] > top - 26)] = value
    start = np.array([2, 3, 1])
    box = tuple(slice(a, n - 1) for a, n in zip(start, shape, strict=True))
    masks = Masks(labels, "verse", "given", (), (), ())
    case = Case(Volume("nifti", shape, affine, labels.__getitem__), masks, ())
    # Reading files is not needed here: the region is given.
    region = CTRegion(case, box, locate_bodies(case, box, min_area=0.25, include_discs=False))
    chain = Compose(
        [
            Orientationd(
                keys=("image", "mask"),
                axcodes="PLI",
                labels=(("L", "R"), ("P", "A"), ("I", "S")),
            ),
            Spacingd(keys=("image", "mask"), pixdim=(1.0, 1.0, -1.0), mode=("bilinear", "nearest")),
            ScaleIntensityRanged("image", -200, 1000, -1.0, 1.0, clip=True),
            VertebraCropd("image", size=(96, 144), posterior_mm=24.0),
            SampleSlicesd("image", count=14),
        ]
    )

    def run(volume):
        picture, mask = (
            MetaTensor(torch.from_numpy(np.ascontiguousarray(v[box]))[None], meta=region.meta)
            for v in (volume, labels)
        )
        return chain({"image": picture, "mask": mask})["image"]

    ramps = [run(world[..., axis].astype(np.float32)) for axis in range(3)]
    return chain, ramps, world, affine


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("spot", [(48, 72, 7), (30, 40, 2), (60, 110, 11)])
def test_a_hot_spot_returns_to_its_place_in_the_patient(name, spot):
    chain, ramps, world, affine = make_case(name)
    # The "CT" holds each voxel's world position, so the network's input says where its pixels lie.
    expected = np.array([(float(ramp[0, *spot]) + 1) * 600 - 200 for ramp in ramps])
    rows, columns = np.ogrid[:96, :144]
    distance = (rows - spot[0]) ** 2 + (columns - spot[1]) ** 2
    heat = torch.zeros(1, 96, 144, 14)
    heat[0, :, :, spot[2]] = torch.from_numpy(np.exp(-distance / (2 * 4.0**2)))

    back = explanation.to_ct_grid(heat, ramps[0], chain)

    assert back.shape == world.shape[:3]
    assert back.dtype == np.float32
    assert back.max() == pytest.approx(1, abs=0.1)
    slice_axis = int(np.abs(affine[2, :3]).argmax())
    at = int(np.unravel_index(back.argmax(), back.shape)[slice_axis])
    weights = np.take(back, at, slice_axis)
    places = np.take(world, at, slice_axis)
    found = (places * weights[..., None]).sum((0, 1)) / weights.sum()
    assert np.linalg.norm(found - expected) < 1.0


def test_heat_outside_the_region_is_zero():
    chain, (image, *_), _, _ = make_case("anisotropic")
    back = explanation.to_ct_grid(torch.ones(1, 96, 144, 14), image, chain)
    assert back[:2].max() == 0
    assert back[:, :3].max() == 0
    assert back[..., 0].max() == 0
    assert back.max() == pytest.approx(1)
    with pytest.raises(ValueError, match="grid is"):
        explanation.to_ct_grid(torch.ones(1, 96, 96, 14), image, chain)


@pytest.mark.parametrize("name", GRIDS)
def test_saved_heat_lies_on_the_ct(name, tmp_path):
    affine, shape = GRIDS[name]
    heat = np.random.default_rng(0).random(shape, np.float32)
    path = explanation.save_heat_map(
        tmp_path / "gradcam.nii.gz", heat, affine, note="simulated weights"
    )
    picture = nib.load(path)
    assert picture.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asanyarray(picture.dataobj), heat)
    np.testing.assert_allclose(picture.affine, affine, atol=1e-4)
    np.testing.assert_allclose(picture.get_qform(), affine, atol=1e-3)
    assert (picture.header["sform_code"], picture.header["qform_code"]) == (1, 1)
    assert picture.header.get_xyzt_units()[0] == "mm"
    assert bytes(picture.header["descrip"]).rstrip(b"\0") == b"simulated weights"


def test_heat_map_that_does_not_fit_a_file_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="volume"):
        explanation.save_heat_map(tmp_path / "a.nii.gz", np.zeros((2, 3), np.float32), np.eye(4))
    with pytest.raises(ValueError, match="79"):
        explanation.save_heat_map(
            tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.float32), np.eye(4), note="x" * 80
        )
