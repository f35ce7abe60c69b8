"""Small files that unpack to gigabytes: refused with a code, in little memory."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import fuzzing
import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from monai_vfx.case.mask.load import load_masks
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.dicom import archives
from monai_vfx.io.volume import open_volume
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series

MIB = 1 << 20
LARGE = 3000
"""Mebibytes that each of these files unpacks to."""
GROWTH_MIB = 1500
"""By so much memory may grow, half of that; tests before may have left this process large."""


def deflated(start: bytes, mebibytes: int) -> bytes:
    """Return bytes that inflate to ``start`` and that many mebibytes of zeros."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    first = stream.compress(start) + stream.flush(zlib.Z_FULL_FLUSH)
    zeros = stream.compress(bytes(MIB)) + stream.flush(zlib.Z_FULL_FLUSH)
    return first + zeros * mebibytes + stream.flush()


@pytest.fixture
def series(tmp_path: Path) -> Path:
    affine = np.diag([20.0, 25.0, 5.0, 1.0])
    write_ct_series(tmp_path / "ct", np.zeros((8, 8, 32), np.int16), affine, SeriesFacts("bombs"))
    return tmp_path / "ct"


def _slice(series: Path) -> Path:
    return min(series.iterdir())


def deflate_slice(series: Path, mebibytes: int) -> Path:
    """Deflate one slice with zeros behind its pixels, as an element with a length to match."""
    file = _slice(series)
    dataset = pydicom.dcmread(file)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(file)
    content = file.read_bytes()
    at = 144 + pydicom.dcmread(file).file_meta.FileMetaInformationGroupLength
    plain = zlib.decompress(content[at:], -zlib.MAX_WBITS)
    padding = b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<I", mebibytes * MIB)
    file.write_bytes(content[:at] + deflated(plain + padding, mebibytes))
    return file


def _deflated_slice(series: Path) -> Path:
    deflate_slice(series, LARGE)
    return series


def _zip_with(series: Path, member: bytes, stated: int, crc: int = 0) -> Path:
    """Zip a series, with one member more whose size is stated, truly or not."""
    target = series.with_suffix(".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in series.iterdir():
            archive.write(file, file.name)
        info = zipfile.ZipInfo("bomb")
        archive.writestr(info, member)
        info.file_size, info.CRC = stated, crc
        info.compress_type = zipfile.ZIP_DEFLATED
    return target


def _zip_that_tells(series: Path) -> Path:
    start = _slice(series).read_bytes()
    return _zip_with(series, deflated(start, LARGE), len(start) + LARGE * MIB)


def _zip_that_lies(series: Path) -> Path:
    start = _slice(series).read_bytes()
    return _zip_with(series, deflated(start, LARGE), len(start) + 2)


def _zip_by_bzip2(series: Path) -> Path:
    target = series.with_suffix(".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_BZIP2) as archive:
        for file in series.iterdir():
            archive.write(file, file.name)
    return target


def _large_element(series: Path) -> Path:
    """Zip a slice with a name of nearly a gibibyte, and noise that makes the archive large."""
    file = _slice(series)
    content = file.read_bytes()
    at = content.index(b"\x10\x00\x20\x00LO")
    element = b"\x10\x00\x20\x00UN\0\0" + struct.pack("<I", 1000 * MIB)
    (series / "noise").write_bytes(np.random.default_rng(0).bytes(12 * MIB))
    crc, zeros = zlib.crc32(content[:at] + element), bytes(MIB)
    for _ in range(1000):
        crc = zlib.crc32(zeros, crc)
    packed = deflated(content[:at] + element, 1000)
    return _zip_with(series, packed, at + 12 + 1000 * MIB, crc)


BOMBS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "a deflated slice": ("archive_too_large", _deflated_slice),
    "a zip that tells": ("archive_too_large", _zip_that_tells),
    "a zip that lies": ("file_truncated", _zip_that_lies),
    "a zip by bzip2": ("input_unreadable", _zip_by_bzip2),
}
SLOW_BOMBS = {"a large element": ("file_truncated", _large_element)}


SIDE = 16384
"""Pixels along each side of pictures that a few bytes hold: half a gibibyte, undone."""


def _long_rle(pixels: np.ndarray) -> bytes:
    """Two planes of runs of 128 equal values."""
    plane = bytes([129, 0]) * (pixels.size // 128)
    return struct.pack("<16I", 2, 64, 64 + len(plane), *[0] * 13) + plane * 2


COMPRESSED: dict[str, tuple[UID, Callable[[np.ndarray], bytes]]] = {
    "JPEG-LS": (JPEGLSLossless, imagecodecs.jpegls_encode),
    "JPEG 2000": (
        JPEG2000Lossless,
        lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k"),
    ),
    "JP2": (
        JPEG2000Lossless,
        lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="jp2"),
    ),
    "JPEG lossless": (JPEGLosslessSV1, imagecodecs.ljpeg_encode),
    "RLE": (RLELossless, _long_rle),
}


def _compress_slice(series: Path, name: str, side: int) -> None:
    """Put a picture of that many pixels a side into a slice whose header says 8."""
    syntax, encode = COMPRESSED[name]
    file = _slice(series)
    dataset = pydicom.dcmread(file)
    dataset.file_meta.TransferSyntaxUID = syntax
    stream = encode(np.full((side, side), 1024, np.uint16))
    dataset.add_new("PixelData", "OB", encapsulate([stream]))
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(file)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *(("JPEG-LS", 16), ("JPEG 2000", 16), ("JP2", 16), ("JPEG lossless", 16), ("RLE", 256)),
        *(pytest.param(name, SIDE, marks=pytest.mark.slow) for name in ("JPEG-LS", "RLE")),
    ],
)
def test_a_compressed_picture_is_as_large_as_the_header_says(
    name: str, side: int, series: Path
) -> None:
    used = fuzzing._peak_mib(reset=True)
    _compress_slice(series, name, side)
    made = fuzzing._peak_mib() - used
    with pytest.raises(CaseRefused) as refused:
        open_volume(series).read()
    assert refused.value.code == "pixel_format"
    assert fuzzing._peak_mib() - used < made + 100


@pytest.mark.parametrize("name", ["JPEG-LS", "JPEG 2000", "JP2", "JPEG lossless"])
def test_one_of_the_right_size_is_read(name: str, series: Path) -> None:
    before = open_volume(series).read()
    _compress_slice(series, name, 8)
    np.testing.assert_array_equal(open_volume(series).read(), before)


@pytest.mark.slow
def test_a_deflated_slice_of_many_bytes_is_read_in_little_memory(series: Path) -> None:
    before = open_volume(series).read()
    deflate_slice(series, archives.MAX_INFLATED // MIB - 1)
    used = fuzzing._peak_mib(reset=True)
    np.testing.assert_array_equal(open_volume(series).read(), before)
    assert fuzzing._peak_mib() - used < GROWTH_MIB


def test_a_mask_that_unpacks_to_gigabytes_is_refused_in_little_memory(series: Path) -> None:
    volume, mask = open_volume(series), series.with_name("mask.dcm")
    mask.write_bytes(deflate_slice(series, LARGE).read_bytes())
    used = fuzzing._peak_mib(reset=True)
    with pytest.raises(CaseRefused, match="archive_too_large"):
        load_masks(mask, volume.shape, volume.affine)
    assert fuzzing._peak_mib() - used < GROWTH_MIB


@pytest.mark.parametrize(
    "name", [*BOMBS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_BOMBS)]
)
def test_what_unpacks_to_gigabytes_is_refused_in_little_memory(name: str, series: Path) -> None:
    code, make = (BOMBS | SLOW_BOMBS)[name]
    path = make(series)
    used = fuzzing._peak_mib(reset=True)
    with pytest.raises(CaseRefused) as refused:
        open_volume(path).read()
    assert refused.value.code == code
    assert fuzzing._peak_mib() - used < GROWTH_MIB
