"""Hashes of an earlier time find what has changed, and nothing else."""

from pathlib import Path

from vim_train.config.schema import DataConfig, DataName
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
