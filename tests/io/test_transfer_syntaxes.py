"""Every transfer syntax that CT uses gives the same HU; what cannot be read is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import itk
import numpy as np
import pydicom
import pytest
from itk_files import read_series
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import HTJ2KLossless, JPEGExtended12Bit

from dicom_variants import LOSSLESS, LOSSY, edit, in_order, put, to_enhanced, transcode
from monai_vfx.case.case import check_report
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.volume import open_volume
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series

SHAPE = (72, 64, 12)
AFFINE = np.diag([-2.0, -3.0, 5.0, 1.0])


def _soft(shape: tuple[int, int, int]) -> np.ndarray:
    """A picture with edges and noise, from -1000 to 2500 HU."""
    rng = np.random.default_rng(0)
    i, j, k = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    hu = np.where((i - 36) ** 2 + (j - 28) ** 2 < 400 + 9 * k, 40.0, -1000.0)
    hu[(i - 40) ** 2 + (j - 32) ** 2 < 64] = 900
    hu[:3, :3] = 2500
    return np.clip(hu + rng.normal(0, 12, shape), -1000, 2600).astype(np.int16)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One picture in 12 bits without sign, and in 16 with one, -2048 in a corner."""
    root = tmp_path_factory.mktemp("native")
    found = {}
    for kind in ("12 bits", "16 bits, signed"):
        folder = found[kind] = root / kind[:2]
        write_ct_series(folder, _soft(SHAPE), AFFINE, SeriesFacts(uid_seed=kind, simulated=False))

        def store(header: Any, kind: str = kind) -> None:
            if kind == "12 bits":
                header.BitsStored, header.HighBit = 12, 11
                return
            values = header.pixel_array.astype(np.int16) - 1024
            values[-5:, -5:] = -2048
            header.PixelRepresentation, header.RescaleIntercept = 1, 0
            header.PixelData = values.astype(np.int16).tobytes()

        edit(folder, store)
    return found


KINDS = ["12 bits", "16 bits, signed"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_syntaxes_keep_every_bit(
    series: dict[str, Path], tmp_path: Path, syntax: str, kind: str
) -> None:
    volume = open_volume(transcode(series[kind], tmp_path / "t", LOSSLESS[syntax]))
    native = open_volume(series[kind])
    np.testing.assert_array_equal(volume.affine, native.affine)
    np.testing.assert_array_equal(volume.read(), native.read())
    assert volume.warnings == ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("syntax", LOSSY)
def test_lossy_syntaxes_keep_values_nearly_and_are_warned_of(
    series: dict[str, Path], tmp_path: Path, syntax: str, kind: str
) -> None:
    write, tolerance = LOSSY[syntax]
    volume = open_volume(transcode(series[kind], tmp_path / "t", write))
    difference = np.abs(volume.read() - open_volume(series[kind]).read())
    assert 0 < difference.max() <= tolerance
    assert [w.code for w in volume.warnings] == ["lossy_compression"]


def test_a_loss_of_the_past_is_warned_of_with_its_ratio(
    series: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(series["12 bits"], tmp_path / "s"))
    put("LossyImageCompression", "01", slice(0, 4))(folder)
    put("LossyImageCompressionRatio", ["7.5", "11.25"], slice(0, 4))(folder)
    (warning,) = open_volume(folder).warnings
    assert warning.code == "lossy_compression"
    assert "4 of 12" in warning.message
    assert "11.2 : 1" in warning.message


def test_a_lossless_stream_in_a_syntax_that_may_lose_is_no_loss(
    series: dict[str, Path], tmp_path: Path
) -> None:
    folder = transcode(series["12 bits"], tmp_path / "t", LOSSLESS["JPEG 2000 lossless"])
    for file in in_order(folder):
        header = pydicom.dcmread(file)
        header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.91"
        header.LossyImageCompression = "00"
        header.save_as(file)
    volume = open_volume(folder)
    assert volume.warnings == ()
    np.testing.assert_array_equal(volume.read(), open_volume(series["12 bits"]).read())


ENCAPSULATED = [name for name in LOSSLESS if name.startswith(("RLE", "JPEG", "HTJ2K"))]


@pytest.mark.parametrize("share", [0.1, 0.95])
@pytest.mark.parametrize("syntax", ENCAPSULATED)
def test_a_cut_stream_within_its_marks_is_truncated(
    series: dict[str, Path], tmp_path: Path, syntax: str, share: float
) -> None:
    folder = transcode(series["12 bits"], tmp_path / "t", LOSSLESS[syntax])
    file = in_order(folder)[4]
    header = pydicom.dcmread(file)
    stream = next(generate_frames(header.PixelData, number_of_frames=1))
    header.PixelData = encapsulate([stream[: int(len(stream) * share)]])
    header.save_as(file)
    with pytest.raises(CaseRefused) as refused:
        open_volume(folder).read()
    assert refused.value.code == "file_truncated"


@pytest.mark.parametrize("syntax", ENCAPSULATED)
def test_a_cut_file_is_truncated_before_a_pixel_is_read(
    series: dict[str, Path], tmp_path: Path, syntax: str
) -> None:
    folder = transcode(series["12 bits"], tmp_path / "t", LOSSLESS[syntax])
    file = in_order(folder)[4]
    file.write_bytes(file.read_bytes()[:-100])
    report, _ = check_report(folder, None, case_id="a")
    assert report["refusal"]["code"] == "file_truncated"


def test_a_decoder_that_is_not_installed_is_named(series: dict[str, Path], tmp_path: Path) -> None:
    folder = transcode(series["12 bits"], tmp_path / "t", LOSSLESS["HTJ2K lossless"])
    decoder = get_decoder(HTJ2KLossless)
    place = ("pydicom.pixels.decoders.pylibjpeg", "_decode_frame")
    decoder.remove_plugin("pylibjpeg")
    try:
        report, refusal = check_report(folder, None, case_id="a")
    finally:
        decoder.add_plugin("pylibjpeg", place)
    assert refusal is not None
    assert refusal.code == "syntax_unsupported"
    assert "High-Throughput JPEG 2000" in refusal.message
    assert refusal.remedy == "Install one: pip install pylibjpeg pylibjpeg-openjpeg"
    assert report["refusal"]["remedy"] == refusal.remedy
    assert open_volume(folder).read().shape == SHAPE


def test_jpeg_of_twelve_bits_is_refused_by_name(series: dict[str, Path], tmp_path: Path) -> None:
    folder = transcode(series["12 bits"], tmp_path / "t", LOSSLESS["JPEG lossless, first order"])
    for file in in_order(folder):
        header = pydicom.dcmread(file)
        header.file_meta.TransferSyntaxUID = JPEGExtended12Bit
        header.save_as(file)
    with pytest.raises(CaseRefused, match="JPEG Extended") as refused:
        open_volume(folder)
    assert refused.value.code == "syntax_unsupported"
    assert "pip" not in refused.value.remedy


def test_slices_of_one_series_may_differ_in_syntax(series: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(series["12 bits"], tmp_path / "s"))
    for file, write in zip(in_order(folder), LOSSLESS.values(), strict=False):
        write(Path(shutil.copy(file, tmp_path / "one.dcm")), file)
    np.testing.assert_array_equal(open_volume(folder).read(), open_volume(series["12 bits"]).read())


# -- the real series -------------------------------------------------------------------------


def _enhanced(folder: Path, target: Path) -> Path:
    return to_enhanced([pydicom.dcmread(file) for file in in_order(folder)], target)


def _as_image(name: str) -> Callable[[Path, Path], Path]:
    """Return what writes the series as NIfTI or NRRD, by ITK, which reads DICOM by itself."""

    def write(folder: Path, target: Path) -> Path:
        target.mkdir(parents=True)
        itk.imwrite(read_series(in_order(folder)), str(target / name))
        return target / name

    return write


FORMS: dict[str, Callable[[Path, Path], Path]] = {
    **{
        name: partial(lambda write, folder, target: transcode(folder, target, write), write)
        for name, write in LOSSLESS.items()
        if name != "explicit VR little endian"
    },
    "Enhanced multi-frame": _enhanced,
    **{name: _as_image(name) for name in ("ct.nii", "ct.nii.gz", "ct.hdr", "ct.nrrd", "ct.mha")},
}
"""Every form in which the real series must give one and the same network input."""


@pytest.mark.slow
def test_the_real_series_is_one_network_input_in_every_form(
    tcga_series: Path, real_data: Path, tmp_path: Path
) -> None:
    import torch

    from monai_vfx.workflows.run_bundle import preprocessing

    mask = str(real_data / "tcga_ov_abdomen" / "vertebral_bodies.nii.gz")
    chain = preprocessing()
    native = open_volume(tcga_series).read()
    expected = chain({"image": str(tcga_series), "mask": mask})["image"]
    assert expected.shape == (1, 96, 144, 14)
    for form, write in FORMS.items():
        image = write(tcga_series, tmp_path / form.replace(" ", "_"))
        volume = open_volume(image)
        read = volume.read()
        if volume.feet_first != open_volume(tcga_series).feet_first:
            read = read[..., ::-1]
        assert np.array_equal(read, native), form
        assert volume.warnings == (), form
        found = chain({"image": str(image), "mask": mask})["image"]
        assert torch.equal(found.as_tensor(), expected.as_tensor()), form
        shutil.rmtree(tmp_path / form.replace(" ", "_"))


@pytest.mark.slow
@pytest.mark.parametrize("syntax", LOSSY)
def test_the_real_series_with_loss_stays_within_the_tolerance(
    tcga_series: Path, tmp_path: Path, syntax: str
) -> None:
    write, tolerance = LOSSY[syntax]
    volume = open_volume(transcode(tcga_series, tmp_path / "t", write))
    assert [w.code for w in volume.warnings] == ["lossy_compression"]
    assert np.abs(volume.read() - open_volume(tcga_series).read()).max() <= tolerance
