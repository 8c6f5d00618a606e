"""The native pixel library's pixels are Pillow's, bit for bit, or it leaves the image to Pillow."""

import io
import random
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pixel_library import (
    FILTERS,
    buffer,
    by_pillow,
    decoded,
    encode,
    from_pixels,
    needs_library,
    planes,
    private_copy,
    random_plan,
)

from vim_train.data.decode import Mode
from vim_train.data.pixels import ColumnsFirst, PixelLibrary, acceptable_header, load
from vim_train.data.sketch import Op, Plan, Step

pytestmark = needs_library

CROPS_A_PHOTO = 16


@pytest.fixture(scope="module", params=["baseline", "avx2", "avx512"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PixelLibrary:
    found = private_copy(tmp_path_factory.mktemp("library"), request.param)
    if found.isa != request.param:
        pytest.skip(f"this processor has no {request.param}")
    if found.libjpeg is None:
        pytest.skip("no libjpeg-turbo here")
    return found


@pytest.fixture(scope="module")
def files(photos: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(photos.glob("**/*.jpg"))]


@pytest.mark.parametrize("vertical_first", [True, False])
def test_every_photograph_in_both_orders_of_passes(
    vertical_first: bool, library: PixelLibrary, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vim_train.data.pixels.vertical_pass_first", lambda *_: vertical_first)
    rng, crops = random.Random(1), 0
    for data in files:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        for _ in range(CROPS_A_PHOTO):
            plan = random_plan(rng, image.size)
            expected = by_pillow(image, plan, vertical_first)
            np.testing.assert_array_equal(decoded(library, data, plan), expected, str(plan))
            np.testing.assert_array_equal(from_pixels(library, image, plan), expected, str(plan))
            crops += 1
    assert crops >= 500


def test_the_installed_pillow_in_its_own_order(library: PixelLibrary, files: list[bytes]) -> None:
    """As found by the self-test's rule; greys too."""
    rng = random.Random(2)
    library = replace(library, columns_first=_pillows_order())
    for data in files:
        colour = Image.open(io.BytesIO(data)).convert("RGB")
        for mode in ("RGB", "L"):
            plan = random_plan(rng, colour.size)
            expected = by_pillow(colour.convert(mode), plan)
            np.testing.assert_array_equal(decoded(library, data, plan, mode), expected, str(plan))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_widths_that_are_resized_straight_to_planes(mode: Mode, library: PixelLibrary, files: list[bytes]) -> None:
    """At every number of taps, with rows that fill no block."""
    rng = random.Random(6)
    for data in files[:40]:
        image = Image.open(io.BytesIO(data)).convert(mode)
        drawn = random_plan(rng, image.size)
        width, height = rng.choice((32, 64, 96)), rng.randint(1, 96)
        plan = replace(drawn, resized=(width + rng.randint(0, 9), height), window=(0, 0, width, height))
        expected = by_pillow(image, plan, vertical_first=False)
        np.testing.assert_array_equal(decoded(library, data, plan, mode), expected, str(plan))


def test_tables_that_a_file_lacks_are_not_taken_from_the_one_before(default: PixelLibrary) -> None:
    """libjpeg's decompressor, and its tables with it, is kept from one image to the next."""
    noise = np.random.Generator(np.random.Philox(8)).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    image, plan = Image.fromarray(noise), Plan((0, 0, 40, 40), (20, 20), (0, 0, 20, 20), int(FILTERS[1]))
    whole = encode(image, quality=90)
    for others in (encode(image, quality=20, optimize=True), encode(image, quality=20, progressive=True)):
        for marker in (b"\xff\xdb", b"\xff\xc4"):
            lacking = without(others, marker)
            alone = decoded(default, lacking, plan)
            assert decoded(default, whole, plan) is not None
            after = decoded(default, lacking, plan)
            assert np.array_equal(after, alone) if alone is not None and after is not None else alone is after


def without(data: bytes, marker: bytes) -> bytes:
    """A JPEG without its segments of `marker` before the first scan."""
    found, at = data[:2], 2
    while data[at : at + 2] != b"\xff\xda":
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found += b"" if data[at : at + 2] == marker else data[at:end]
        at = end
    return found + data[at:]


def _pillows_order() -> ColumnsFirst:
    if int(PIL.__version__.split(".")[0]) >= 13:
        return ColumnsFirst.WHERE_HEIGHT_IS_LOST
    rng = np.random.Generator(np.random.Philox(3))
    image = Image.fromarray(rng.integers(0, 256, (500, 4, 3), dtype=np.uint8))
    plan = Plan((0, 0, 4, 500), (3, 20), (0, 0, 3, 20), int(FILTERS[1]))
    tall = np.array_equal(by_pillow(image, plan), by_pillow(image, plan, vertical_first=True))
    return ColumnsFirst.WHERE_TALL if tall else ColumnsFirst.NEVER


@pytest.mark.parametrize(
    ("crop", "resized", "columns_first"),
    [
        ((40, 200), (30, 50), {ColumnsFirst.WHERE_HEIGHT_IS_LOST}),
        ((40, 200), (10, 140), set()),  # 60 lost are not more than twice 30
        ((2, 200), (5, 7), {ColumnsFirst.WHERE_HEIGHT_IS_LOST}),
        ((2, 201), (5, 7), {ColumnsFirst.WHERE_HEIGHT_IS_LOST, ColumnsFirst.WHERE_TALL}),
        ((2, 201), (5, 300), set()),
    ],
)
def test_every_pillows_order_of_passes(
    crop: tuple[int, int], resized: tuple[int, int], columns_first: set[ColumnsFirst], default: PixelLibrary
) -> None:
    rng = np.random.Generator(np.random.Philox(5))
    image = Image.fromarray(rng.integers(0, 256, (crop[1], crop[0], 3), dtype=np.uint8))
    plan = Plan((0, 0, *crop), resized, (0, 0, *resized), int(FILTERS[1]))
    for order in ColumnsFirst:
        expected = by_pillow(image, plan, vertical_first=order in columns_first)
        np.testing.assert_array_equal(from_pixels(replace(default, columns_first=order), image, plan), expected)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_pixels_of_any_size_to_any_size(data: st.DataObject, default: PixelLibrary) -> None:
    size = data.draw(st.tuples(st.integers(1, 400), st.integers(1, 400)))
    plan = random_plan(random.Random(data.draw(st.integers(0, 2**32))), size, most=150)
    rng = np.random.Generator(np.random.Philox(data.draw(st.integers(0, 2**32))))
    image = Image.fromarray(rng.choice(np.array([0, 1, 127, 254, 255], np.uint8), (size[1], size[0], 3)))
    library = replace(default, columns_first=_pillows_order())
    np.testing.assert_array_equal(from_pixels(library, image, plan), by_pillow(image, plan))


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> PixelLibrary:
    return private_copy(tmp_path_factory.mktemp("default"))


def test_a_long_way_down(library: PixelLibrary) -> None:
    """Hundreds of taps an output, fewer at the image's ends."""
    rng = np.random.Generator(np.random.Philox(4))
    for size, resized in (((3000, 9), (7, 5)), ((9, 3000), (5, 7)), ((5000, 2), (224, 2)), ((2000, 3), (1, 3))):
        image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        for resample in FILTERS:
            plan = Plan((0, 0, *size), resized, (0, 0, *resized), int(resample))
            one_order = replace(library, columns_first=_pillows_order())
            np.testing.assert_array_equal(from_pixels(one_order, image, plan), by_pillow(image, plan))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_narrow_crops_have_the_chroma_of_the_whole_image(
    subsampling: int, library: PixelLibrary, files: list[bytes]
) -> None:
    """libjpeg interpolates chroma only from three samples on."""
    image = Image.open(io.BytesIO(files[0])).convert("RGB").resize((37, 29))
    data = encode(image, quality=60, subsampling=subsampling)
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    for width in (1, 2, 3, 4):
        for left in range(37 - width + 1):
            for top, height in ((0, 3), (26, 3), (7, 1), (8, 12)):
                plan = Plan((left, top, width, height), (width, height), (0, 0, width, height))
                expected, where = by_pillow(whole, plan), f"{left}+{width}, {top}+{height}"
                np.testing.assert_array_equal(decoded(library, data, plan), expected, where)


KINDS: dict[str, tuple[Mode | str, dict[str, object]]] = {
    "baseline": ("RGB", {}),
    "progressive": ("RGB", {"progressive": True}),
    "4:4:4": ("RGB", {"subsampling": 0}),
    "4:2:2": ("RGB", {"subsampling": 1}),
    "best": ("RGB", {"quality": 100, "subsampling": 0}),
    "worst": ("RGB", {"quality": 1}),
    "codes of its own": ("RGB", {"quality": 97, "optimize": True}),
    "grey": ("L", {}),
    "progressive grey": ("L", {"progressive": True}),
    "restarts": ("RGB", {"restart_marker_blocks": 3}),
    "restarts a row": ("RGB", {"restart_marker_rows": 1, "progressive": True}),
    "stored as RGB": ("RGB", {"keep_rgb": True}),
    "comment": ("RGB", {"comment": b"\xff\xd9 is not the end"}),
    "profile": ("RGB", {"icc_profile": bytes(range(200))}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_jpeg_is_decoded_by_the_library(kind: str, library: PixelLibrary, files: list[bytes]) -> None:
    mode, options = KINDS[kind]
    rng = random.Random(5)
    for size in ((97, 61), (16, 16), (1, 1), (8, 40), (33, 7)):
        data = encode(Image.open(io.BytesIO(files[3])).convert(mode).resize(size), **options)
        header = acceptable_header(library, data, 10_000)
        assert header is not None
        assert (header.width, header.height, header.plain) == (*size, True)
        whole = Image.open(io.BytesIO(data)).convert("RGB")
        for _ in range(6):
            plan = random_plan(rng, size)
            plan.resized, plan.window = plan.crop[2:], (0, 0, *plan.crop[2:])
            np.testing.assert_array_equal(decoded(library, data, plan), by_pillow(whole, plan), str(plan))


def test_pillow_is_asked_about_exif_and_decides(library: PixelLibrary) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned: not applied
    data = encode(Image.new("RGB", (20, 10)), exif=exif)
    native = library.header(data)
    assert native is not None
    assert not native.plain
    assert acceptable_header(library, data, 200) == native
    assert acceptable_header(library, data, 199) is None


def not_for_the_library(photo: bytes) -> dict[str, bytes]:
    image = Image.open(io.BytesIO(photo)).convert("RGB").resize((40, 30))
    plain, png = encode(image), io.BytesIO()
    image.save(png, "PNG")
    frame = plain.index(b"\xff\xc0")
    return {
        "CMYK": encode(image.convert("CMYK")),
        "PNG": png.getvalue(),
        "empty": b"",
        "two bytes": b"\xff\xd8",
        "HTML": b"<html>",
        "12 bits": plain[: frame + 4] + b"\x0c" + plain[frame + 5 :],
        "arithmetic": plain.replace(b"\xff\xc0", b"\xff\xc9"),
        "lossless": plain.replace(b"\xff\xc0", b"\xff\xc3"),
        "no height": plain[: frame + 5] + b"\0\0" + plain[frame + 7 :],
    }


def test_what_is_no_plain_jpeg_is_left_to_pillow(library: PixelLibrary, files: list[bytes]) -> None:
    for kind, data in not_for_the_library(files[0]).items():
        assert library.header(data) is None, kind


def test_a_file_cut_off_below_the_crop_is_left_to_pillow(library: PixelLibrary, files: list[bytes]) -> None:
    """Else half a file would pass for a picture whenever the crop lies in the half that is there."""
    plan = Plan((0, 0, 40, 20), (40, 20), (0, 0, 40, 20))
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        data = encode(Image.open(io.BytesIO(files[1])).convert("RGB"), **options)
        assert decoded(library, data, plan) is not None
        for end in (len(data) // 2, len(data) - 40, len(data) - 2, len(data) - 1):
            assert decoded(library, data[:end], plan) is None


def damaged(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed)) if rng.random() < 0.6 else rng.randrange(min(700, len(changed)))
        kind = rng.randrange(5)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + 2] = bytes((0xFF, rng.choice(b"\xd8\xd9\xda\xc0\xc4\xdb\xdd\xd0\xd7\xe1\xff\x00\x01")))
        elif kind == 2:
            del changed[at : at + rng.randint(1, 16)]
        elif kind == 3:
            changed[at:at] = rng.randbytes(rng.randint(1, 8))
        elif at > 100:
            del changed[at:]
    return bytes(changed)


def test_damaged_jpegs_have_pillows_pixels_or_are_left_to_it(library: PixelLibrary, files: list[bytes]) -> None:
    rng, taken = random.Random(6), 0
    library = replace(library, columns_first=_pillows_order())
    for number in range(1500):
        mode, options = rng.choice(list(KINDS.values()))
        if number % 8 == 0:
            image = Image.open(io.BytesIO(rng.choice(files))).convert(mode)
            whole = encode(image.resize((rng.randint(1, 90), rng.randint(1, 90))), **options)
        data = damaged(rng, whole)
        header = acceptable_header(library, data, 1_000_000)
        if header is None:
            continue
        plan = random_plan(rng, (header.width, header.height))
        answer = decoded(library, data, plan)
        if answer is not None:
            taken += 1
            with Image.open(io.BytesIO(data)) as image:  # and Pillow raises nothing
                np.testing.assert_array_equal(answer, by_pillow(image.convert("RGB"), plan), f"{number}: {plan}")
    assert taken > 200


def test_many_threads_at_once(default: PixelLibrary, files: list[bytes]) -> None:
    default = replace(default, columns_first=_pillows_order())
    rng = random.Random(7)
    work = []
    for data in files * 3:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        plan = random_plan(rng, image.size)
        work.append((data if len(work) % 5 else data[:-9], plan, by_pillow(image, plan)))
    wrong: list[Plan] = []

    def run() -> None:
        for data, plan, expected in work:
            answer, whole = decoded(default, data, plan), data.endswith(b"\xff\xd9")
            if (answer is not None) != whole or (whole and not np.array_equal(answer, expected)):
                wrong.append(plan)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


WRONG_PLANS = {
    "crop outside": Plan((0, 0, 41, 30), (8, 8), (0, 0, 8, 8), 2),
    "crop before the image": Plan((-1, 0, 20, 20), (8, 8), (0, 0, 8, 8), 2),
    "crop far outside": Plan((2**31 - 1, 0, 20, 20), (8, 8), (0, 0, 8, 8), 2),
    "nothing": Plan((0, 0, 0, 20), (8, 8), (0, 0, 8, 8), 2),
    "window outside": Plan((0, 0, 40, 30), (8, 8), (1, 0, 8, 8), 2),
    "no such filter": Plan((0, 0, 40, 30), (8, 8), (0, 0, 8, 8), 1),
    "no such operation": Plan((0, 0, 40, 30), (40, 30), (0, 0, 40, 30), steps=[Step(11, ())]),  # type: ignore[arg-type]
    "too many bits": Plan((0, 0, 40, 30), (40, 30), (0, 0, 40, 30), steps=[Step(Op.POSTERIZE, (9,))]),
}


@pytest.mark.parametrize("name", WRONG_PLANS)
def test_a_plan_that_does_not_fit_its_image_is_refused(name: str, default: PixelLibrary) -> None:
    plan = WRONG_PLANS[name]
    with pytest.raises(RuntimeError, match="a plan that does not fit its image"):
        default.from_jpeg(encode(Image.new("RGB", (40, 30))), plan, "RGB", buffer(plan))


def test_a_buffer_of_another_shape_is_refused(default: PixelLibrary) -> None:
    plan = Plan((0, 0, 40, 30), (8, 9), (0, 0, 8, 9), 2)
    for out in (np.empty((3, 8, 9), np.uint8), np.empty((3, 9, 16), np.uint8)[:, :, ::2]):
        with pytest.raises(ValueError, match="the plan is for 8x9"):
            default.from_image(Image.new("RGB", (40, 30)), plan, out)


def test_interleaved_pixels(default: PixelLibrary, files: list[bytes]) -> None:
    plan = Plan((3, 4, 50, 60), (20, 30), (0, 0, 20, 30), 2)
    out = np.empty((30, 20, 4), np.uint8)
    assert default.from_jpeg(files[0], plan, "RGB", out)
    image = Image.frombytes("RGB", (20, 30), out.tobytes(), "raw", "RGBX")
    np.testing.assert_array_equal(planes(image), decoded(default, files[0], plan))


def test_a_file_that_is_no_library_is_told(tmp_path: Path) -> None:
    path = tmp_path / "vim_train_pixels.so"
    path.write_bytes(b"nothing")
    assert str(load(path)).startswith(f"{path} cannot be loaded (")
