"""Hashes of an earlier time find what has changed, and nothing else."""

from pathlib import Path

import pytest
from forms import read_pictures, write_folders, write_shards

from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig, DataName
from vim_train.data.images import open_images
from vim_train.data.sources import Source, Split
from vim_train.data.verify import verify


def test_any_name_is_found_again(photo_root: Path, tmp_path: Path) -> None:
    names = ["new\nline.jpg", "back\\slash\\n.jpg", "two  blanks.jpg", "return\r.jpg", " first.jpg"]
    picture = sorted((photo_root / "train" / "fish").glob("*.jpg"))[0]
    for name in names:
        (picture.parent / name).write_bytes(picture.read_bytes())
    data, sums = DataConfig(name=DataName.folder, root=str(photo_root), workers=0), tmp_path / "sums.txt"
    assert verify(data, sums).faults == []
    assert verify(data, sums).faults == []
    changed = bytearray(picture.read_bytes())
    changed[-300] ^= 1
    (picture.parent / names[0]).write_bytes(changed)
    [fault] = verify(data, sums).faults
    assert fault.path.endswith(names[0])


def test_a_bad_image_has_no_hash_and_is_new_once_mended(photo_root: Path, tmp_path: Path) -> None:
    data, sums = DataConfig(name=DataName.folder, root=str(photo_root), workers=0), tmp_path / "sums.txt"
    bad, other = (photo_root / "train" / "fish" / name for name in ("fish4.jpg", "fish28.jpg"))
    whole = bad.read_bytes()
    bad.write_bytes(whole[:3000])
    [fault] = verify(data, sums).faults
    assert (fault.path, fault.kind) == (str(bad), "bad")
    assert "fish4.jpg" not in sums.read_text()
    assert [fault.kind for fault in verify(data, sums).faults] == ["bad"]
    bad.write_bytes(whole)
    other.unlink()
    verdict = verify(data, sums)
    assert [verdict.count(kind) for kind in ("bad", "changed", "gone", "new")] == [0, 0, 1, 1]


@pytest.mark.parametrize("spoil", ["cut at a line", "cut", "a line changed", "another line added"])
def test_a_file_of_hashes_that_is_not_whole_is_refused(photo_root: Path, tmp_path: Path, spoil: str) -> None:
    data, sums = DataConfig(name=DataName.folder, root=str(photo_root), workers=0), tmp_path / "sums.txt"
    verify(data, sums)
    lines = sums.read_text().splitlines(keepends=True)
    sums.write_text(
        {
            "cut at a line": "".join(lines[:10]),
            "cut": "".join(lines)[:-40],
            "a line changed": "".join(lines).replace("fish4", "fish5"),
            "another line added": "".join([*lines, lines[3]]),
        }[spoil]
    )
    with pytest.raises(
        UserError, match=f"^hashes={sums}: is not whole, or not as vim-data verify has written it; name"
    ):
        verify(data, sums)


def test_hashes_of_another_form_are_refused_at_once(photos: Path, tmp_path: Path) -> None:
    pictures, sums = read_pictures(photos, 32), tmp_path / "sums.txt"
    write_folders(tmp_path / "folders", pictures)
    write_shards(tmp_path / "shards", pictures)
    folders, shards = (
        DataConfig(name=DataName.folder, root=str(tmp_path / form), workers=0) for form in ("folders", "shards")
    )
    verify(folders, sums)
    with pytest.raises(UserError) as caught:
        verify(shards, sums)
    assert str(caught.value) == (
        f"hashes={sums}: knows none of the images of data.root={shards.root}: hashes go by path, so that each form of "
        "a data set needs a file of its own; name a new one"
    )


def test_an_archive_that_changes_meanwhile_is_no_bad_image(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path / "shards", read_pictures(photos, 32))
    data = DataConfig(name=DataName.folder, root=str(tmp_path / "shards"), workers=0)
    shard = tmp_path / "shards" / "imagenet1k-validation-00.tar"

    def opened(data: DataConfig, split: Split) -> Source:
        source = open_images(data, split)
        shard.write_bytes(bytes(shard.stat().st_size))
        return source

    monkeypatch.setattr("vim_train.data.verify._SPLITS", ("val",))
    monkeypatch.setattr("vim_train.data.verify.open_images", opened)
    with pytest.raises(UserError, match=f"^{shard} has changed since it was indexed; start again"):
        verify(data)
