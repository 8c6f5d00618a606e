"""Every file is its picture or BadImage, and never a hang."""

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vim_train.data.decode import BadImage, decode


@pytest.fixture
def photo(photos: Path) -> Path:
    return photos / "fish" / "fish1.jpg"


def pillow(path: Path, mode: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert(mode))


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises so many grey pixels and holds none."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    end = b"IEND"
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
        + struct.pack(">I", 0) + end + struct.pack(">I", zlib.crc32(end))
    )  # fmt: skip


def test_a_photograph_is_what_pillow_makes_of_it(photo: Path) -> None:
    assert np.array_equal(np.asarray(decode(str(photo))), pillow(photo, "RGB"))
    assert np.array_equal(np.asarray(decode(str(photo), "L")), pillow(photo, "L"))


Maker = Callable[[Path, bytes], object]
BAD: dict[str, tuple[Maker, str]] = {
    "zero bytes": (lambda path, jpeg: path.write_bytes(b""), "empty file"),
    "html": (lambda path, jpeg: path.write_text("<html>404 Not Found</html>"), "not an image"),
    "cut at 5 %": (lambda path, jpeg: path.write_bytes(jpeg[: len(jpeg) // 20]), "truncated"),
    "cut at 50 %": (lambda path, jpeg: path.write_bytes(jpeg[: len(jpeg) // 2]), "truncated"),
    "cut at 99.9 %": (lambda path, jpeg: path.write_bytes(jpeg[: len(jpeg) * 999 // 1000]), "truncated"),
    "FIFO": (lambda path, jpeg: os.mkfifo(path), "not a regular file"),
    "directory": (lambda path, jpeg: path.mkdir(), "not a regular file"),
    "device": (lambda path, jpeg: path.symlink_to("/dev/zero"), "not a regular file"),
    "dangling link": (lambda path, jpeg: path.symlink_to("nowhere.jpg"), "No such file"),
    "link loop": (lambda path, jpeg: path.symlink_to(path.name), "symbolic links"),
    "absent": (lambda path, jpeg: None, "No such file"),
    "bomb": (lambda path, jpeg: path.write_bytes(png_header(60_000, 60_000)), "more pixels than data.pixel_limit"),
    "over the limit": (lambda path, jpeg: path.write_bytes(png_header(12_000, 9_000)), "12000x9000 pixels, more than"),
    "header only": (lambda path, jpeg: path.write_bytes(png_header(40, 30)), ""),
    "float pixels": (lambda path, jpeg: Image.new("F", (4, 4)).save(path, "TIFF"), "mode F"),
    "32-bit pixels": (lambda path, jpeg: Image.new("I", (4, 4)).save(path, "TIFF"), "mode I"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_named_with_its_reason(kind: str, tmp_path: Path, photo: Path) -> None:
    make, reason = BAD[kind]
    path = tmp_path / "x.JPEG"
    make(path, photo.read_bytes())
    warnings.simplefilter("error")
    with pytest.raises(BadImage) as caught:
        decode(str(path))
    assert caught.value.path == str(path)
    assert reason in caught.value.reason
    assert caught.value.reason
    assert "\n" not in str(caught.value)


def test_a_size_between_our_limit_and_pillows_warning_is_decoded_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("1", (10_000, 9_500)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(str(path), "L").size == (10_000, 9_500)
    with pytest.raises(BadImage, match=r"more than data\.pixel_limit=1000"):
        decode(str(path), pixel_limit=1000)


def test_sixteen_bit_greys_are_scaled_not_clipped(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(deep).save(path)
    assert np.array_equal(np.asarray(decode(str(path), "L")), deep // 257)
    assert np.asarray(decode(str(path))).shape == (16, 16, 3)


def test_an_extension_may_lie(tmp_path: Path, photo: Path) -> None:
    image = Image.open(photo)
    for format_ in ("PNG", "WEBP", "BMP", "GIF"):
        path = tmp_path / f"{format_}.JPEG"
        image.save(path, format_)
        assert np.array_equal(np.asarray(decode(str(path))), pillow(path, "RGB"))


@pytest.mark.parametrize("mode", ["CMYK", "L", "LA", "RGBA", "P", "1"])
def test_other_colour_modes_become_rgb(mode: str, tmp_path: Path, photo: Path) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.open(photo).convert(mode).save(path)
    decoded = decode(str(path))
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), pillow(path, "RGB"))


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    frames = [Image.new("P", (8, 8), value) for value in (0, 1)]
    for frame in frames:
        frame.putpalette([255, 0, 0, 0, 0, 255])
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert decode(str(path)).getpixel((0, 0)) == (255, 0, 0)


def test_exif_orientation_is_not_applied(tmp_path: Path, photo: Path) -> None:
    path = tmp_path / "turned.jpg"
    image = Image.open(photo)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    assert decode(str(path)).size == image.size


def test_a_broken_exif_block_does_not_matter(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 200, 30)).save(stream, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    path = tmp_path / "exif.jpg"
    path.write_bytes(stream.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(str(path)).size == (8, 8)
