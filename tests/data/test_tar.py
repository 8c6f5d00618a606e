"""The header scanner finds what tarfile writes, in every format, and names the byte where an archive is damaged."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from forms import tar_of
from hypothesis import given, settings
from hypothesis import strategies as st

from vim_train.config.errors import UserError
from vim_train.data.sources.tar import Members, scan

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
NAMES = st.text(st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1, max_size=130)


def scanned(data: bytes, start: int = 0, end: int | None = None) -> Members:
    fd = os.memfd_create("archive")
    try:
        os.write(fd, data)
        return scan(fd, "a.tar", start, end)
    finally:
        os.close(fd)


def contents(data: bytes, members: Members) -> list[tuple[bytes, bytes]]:
    places = zip(members.names.tolist(), members.offsets.tolist(), members.sizes.tolist(), strict=True)
    return [(name, data[offset : offset + size]) for name, offset, size in places]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=6), st.sampled_from(["gnu", "pax"]))
def test_names_of_any_length_and_script_and_all_contents(members: list[tuple[str, bytes]], kind: str) -> None:
    data = tar_of(members, FORMATS[kind])
    assert contents(data, scanned(data)) == [(name.encode(), body) for name, body in members]


@pytest.mark.parametrize("kind", FORMATS)
def test_paths_longer_than_the_field(kind: str) -> None:
    members = [("short.jpg", b"1"), ("d" * 90 + "/" + "n" * 80 + ".jpg", b"22"), ("e" * 100, b"333")]
    data = tar_of(members, FORMATS[kind])
    assert contents(data, scanned(data)) == [(name.encode(), body) for name, body in members]


def test_names_begin_without_a_dot_and_slash(tmp_path: Path) -> None:
    """As of `tar cf x.tar .`, beside names that have none."""
    file = tmp_path / "x.tar"
    with tarfile.open(file, "w") as archive:
        for name in ("./", "./a.jpg", "./n01/b.jpg", "c.jpg", f"./{'long' * 40}.jpg"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if name == "./" else tarfile.REGTYPE
            archive.addfile(info)
    with file.open("rb") as open_file:
        members = scan(open_file.fileno(), str(file))
    assert members.names.tolist() == [b"a.jpg", b"n01/b.jpg", b"c.jpg", b"long" * 40 + b".jpg"]


def test_an_archive_inside_another_is_read_in_place() -> None:
    inner = tar_of([("a.jpg", b"abc"), ("b.jpg", b"")])
    outer = tar_of([("first", b"x" * 700), ("in.tar", inner)])
    whole = scanned(outer)
    start, size = int(whole.offsets[1]), int(whole.sizes[1])
    assert contents(outer, scanned(outer, start, start + size)) == [(b"a.jpg", b"abc"), (b"b.jpg", b"")]


def test_only_regular_files_are_members() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind in (
            ("d", tarfile.DIRTYPE),
            ("l", tarfile.SYMTYPE),
            ("h", tarfile.LNKTYPE),
            ("f", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            archive.addfile(info)
        info = tarfile.TarInfo("a.jpg")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    assert contents(out.getvalue(), scanned(out.getvalue())) == [(b"a.jpg", b"abc")]


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_members_beyond_8_gib(kind: str, tmp_path: Path) -> None:
    big, path = (9 << 30) + 5, tmp_path / "big.tar"
    with open(path, "wb") as file:  # a hole, which takes no room
        for name, size in (("big.jpg", big), ("after.jpg", 3)):
            info = tarfile.TarInfo(name)
            info.size = size
            file.write(info.tobuf(FORMATS[kind]))
            file.seek(-(-size // 512) * 512, os.SEEK_CUR)
        file.write(bytes(1024))
        file.flush()
        with open(path, "rb") as again:
            found = scan(again.fileno(), str(path))
    assert found.names.tolist() == [b"big.jpg", b"after.jpg"]
    assert found.sizes.tolist() == [big, 3]


def refusal(data: bytes) -> str:
    with pytest.raises(UserError) as caught:
        scanned(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SOUND = tar_of([("a.jpg", b"a" * 600), ("b.jpg", b"b" * 600)])


@pytest.mark.parametrize(
    ("length", "line"),
    [
        (0, "a.tar: at byte 0: truncated: the end mark of the archive is missing"),
        (300, "a.tar: at byte 0: truncated: the end mark of the archive is missing"),
        (512 + 599, "a.tar: at byte 512: truncated: a member has 600 bytes and 599 are left"),
        (1536, "a.tar: at byte 1,536: truncated: the end mark of the archive is missing"),
        (2 * 1536, "a.tar: at byte 3,072: truncated: the end mark of the archive is missing"),
    ],
)
def test_a_truncated_archive_is_named_with_the_byte(length: int, line: str) -> None:
    assert refusal(SOUND[:length]) == line


def test_a_damaged_archive_is_named_with_the_byte() -> None:
    for byte, value in ((1536, b"\xff"), (1536 + 124, b"x"), (1536 + 130, b"7")):
        data = bytearray(SOUND)
        data[byte : byte + 1] = value
        assert "a.tar: at byte 1,5" in refusal(bytes(data)) or "a.tar: at byte 2,048" in refusal(bytes(data))
    assert refusal(b"\x1f\x8b" + SOUND).startswith("a.tar: at byte 0: it is compressed, which allows no random access")
    assert refusal(b"<html>" + bytes(600)) == "a.tar: at byte 0: no tar archive"
    assert refusal(SOUND + SOUND).startswith("a.tar: at byte 3,072: an end mark with more data behind it")


def test_zeros_in_place_of_the_last_members_are_named_with_the_byte() -> None:
    """A file of its full length from the first moment on, of which only a part has come."""
    whole = SOUND[:3072] + tar_of([(f"{i}.jpg", b"c" * 600) for i in range(100)])
    said = f"a.tar: at byte 1,536: zeros from here on, {len(whole) - 1536:,} bytes to the end: no whole download; fetch"
    assert refusal(whole[:1536] + bytes(len(whole) - 1536)).startswith(said)
    assert refusal(whole[:1536] + bytes(70_000) + whole[71_536:]).startswith("a.tar: at byte 1,536: zeros from here on")
    assert "an end mark with more data behind it" in refusal(whole[:1536] + bytes(1536) + whole[3072:])
    inner = tar_of([("in.tar", SOUND[:1536] + bytes(100_000))])
    with pytest.raises(UserError, match=r"at byte 2,048: zeros from here on, 100,000 bytes"):
        scanned(inner, 512, 512 + 1536 + 100_000)


@pytest.mark.parametrize("kib", [1, 10, 63, 64, 128, 256, 512, 1024])
@pytest.mark.parametrize("left", [0, 512, 1024])
def test_records_of_any_blocking_factor_are_padding(kib: int, left: int) -> None:
    """Of the end mark's two blocks, one or both may begin the next record."""
    record = kib << 10
    body = tar_of([("a.jpg", b"a" * (2 * record - left - 512))])[: 2 * record - left]
    data = body + bytes(1024 + -(len(body) + 1024) % record)
    assert len(data) % record == 0
    assert scanned(data).names.tolist() == [b"a.jpg"]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 3 * 1536 - 1), st.integers(1, 255))
def test_no_damaged_header_yields_other_members(byte: int, flip: int) -> None:
    """Whatever byte of a header is changed, the members are the same or the archive is refused."""
    data = bytearray(SOUND)
    place = byte % 512 + 1536 * (byte // 1536)
    data[place] ^= flip
    try:
        found = contents(bytes(data), scanned(bytes(data)))
    except UserError:
        return
    assert found == contents(SOUND, scanned(SOUND))
