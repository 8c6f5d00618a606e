"""One set of images written in the forms that ImageNet is handed out in. Run: python tests/data/forms.py PHOTOS OUT."""

import csv
import io
import json
import random
import struct
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

WNIDS = {
    "animal": "n00015388",
    "dam": "n03160309",
    "fish": "n02512053",
    "monument": "n03743902",
    "solar": "n04258138",
    "tool": "n04451818",
    "windmill": "n04593866",
}


class Picture(NamedTuple):
    wnid: str
    name: str
    data: bytes


class Pictures(NamedTuple):
    train: list[Picture]
    val: list[Picture]


def read_pictures(photos: Path, side: int | None, val: int = 2) -> Pictures:
    """Photographs of class folders under ImageNet's names, at most `side` pixels; `val` of each class validate.

    One of them is a PNG under a JPEG's name, as ImageNet has it.
    """
    pictures = Pictures([], [])
    for folder in sorted(path for path in photos.iterdir() if path.is_dir()):
        wnid = WNIDS[folder.name]
        for i, file in enumerate(sorted(folder.glob("*.jpg"))):
            data = _small(file, side, "PNG" if (folder.name, i) == ("fish", 5) else "JPEG")
            if i < val:
                pictures.val.append(Picture(wnid, "", data))
            else:
                pictures.train.append(Picture(wnid, f"{wnid}_{3 * i}.JPEG", data))
    random.Random(1).shuffle(pictures.val)  # ImageNet numbers them without regard to class
    numbered = [picture._replace(name=f"ILSVRC2012_val_{i:08d}.JPEG") for i, picture in enumerate(pictures.val, 1)]
    return Pictures(pictures.train, numbered)


def _small(file: Path, side: int | None, kind: str) -> bytes:
    if side is None and kind == "JPEG":
        return file.read_bytes()
    with Image.open(file) as image:
        image.thumbnail((side or 10_000, side or 10_000))
        out = io.BytesIO()
        image.save(out, kind)
        return out.getvalue()


def shuffled(pictures: Sequence[Picture], seed: int) -> list[Picture]:
    return random.Random(seed).sample(list(pictures), len(pictures))


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_folders(root: Path, pictures: Pictures) -> None:
    for split, some in zip(pictures._fields, pictures, strict=True):
        for wnid, name, data in some:
            write(root / split / wnid / name, data)


def write_flat_val(root: Path, pictures: Pictures) -> None:
    write_folders(root, pictures._replace(val=[]))
    for _, name, data in pictures.val:
        write(root / "val" / name, data)
    lines = [f"{name} {wnid}" for wnid, name, _ in shuffled(pictures.val, 2)]
    write(root / "val_labels.txt", "\n".join(lines).encode())


def write_tars(root: Path, pictures: Pictures) -> None:
    """ILSVRC2012_img_train.tar, a tar of tars, ILSVRC2012_img_val.tar and the devkit, whose ids are in no order."""
    wnids = sorted({wnid for wnid, *_ in pictures.train})
    inner = [
        (f"{wnid}.tar", tar_of([(name, data) for of, name, data in shuffled(pictures.train, 3) if of == wnid]))
        for wnid in reversed(wnids)
    ]
    write(root / "ILSVRC2012_img_train.tar", tar_of(inner))
    flat = [(name, data) for _, name, data in shuffled(pictures.val, 4)]
    write(root / "ILSVRC2012_img_val.tar", tar_of(flat))
    ids = {wnid: i for i, wnid in enumerate(random.Random(5).sample(wnids, len(wnids)), 1)}
    write_devkit(root / "ILSVRC2012_devkit_t12.tar.gz", ids, [ids[wnid] for wnid, *_ in pictures.val])


def write_devkit(path: Path, ids: dict[str, int], truth: Sequence[int]) -> None:
    rows = [(number, wnid, 0) for wnid, number in sorted(ids.items(), key=lambda item: item[1])]
    files = {
        "meta.mat": meta_mat([*rows, (len(rows) + 1, "n00001740", len(rows))]),
        "ILSVRC2012_validation_ground_truth.txt": "".join(f"{number}\n" for number in truth).encode(),
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            _add(archive, f"ILSVRC2012_devkit_t12/data/{name}", data)


def write_kaggle(root: Path, pictures: Pictures) -> None:
    base = root / "ILSVRC" / "Data" / "CLS-LOC"
    write_folders(base, pictures._replace(val=[]))
    for _, name, data in pictures.val:
        write(base / "val" / name, data)
    wnids = sorted({wnid for wnid, *_ in pictures.train})
    write(root / "LOC_synset_mapping.txt", "".join(f"{wnid} a, word\n" for wnid in wnids).encode())
    with open(root / "LOC_val_solution.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ImageId", "PredictionString"])
        for wnid, name, _ in shuffled(pictures.val, 6):
            table.writerow([name.removesuffix(".JPEG"), f"{wnid} 1 2 30 40 {wnid} 5 6 7 8 "])


def write_shards(root: Path, pictures: Pictures, shards: int = 3) -> None:
    """webdataset's naming: imagenet1k-train-0000.tar with KEY.jpg, KEY.cls, KEY.json."""
    number = {wnid: i for i, wnid in enumerate(sorted({wnid for wnid, *_ in pictures.train}))}
    for split, some in (("train", pictures.train), ("validation", pictures.val)):
        mixed = shuffled(some, 7)
        for shard in range(shards):
            members = []
            for wnid, name, data in mixed[shard::shards]:
                key = name.removesuffix(".JPEG")
                said = json.dumps({"label": number[wnid], "filename": f"{wnid}/{name}"}).encode()
                members += [(f"{key}.cls", str(number[wnid]).encode()), (f"{key}.jpg", data), (f"{key}.json", said)]
            number_of = f"{shard:04d}" if split == "train" else f"{shard:02d}"
            write(root / f"imagenet1k-{split}-{number_of}.tar", tar_of(members))


def write_parquet(root: Path, pictures: Pictures, shards: int = 2) -> None:
    """Hugging Face's: data/train-00000-of-00002.parquet, with the class at the end of each image's path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wnids = sorted({wnid for wnid, *_ in pictures.train})
    feature = {"names": [f"word {wnid}" for wnid in wnids], "_type": "ClassLabel"}
    said = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
    (root / "data").mkdir(parents=True, exist_ok=True)
    for split, some in (("train", pictures.train), ("validation", pictures.val)):
        mixed = shuffled(some, 8)
        for shard in range(shards):
            rows = mixed[shard::shards]
            table = pa.table(
                {
                    "image": [
                        {"bytes": data, "path": f"{name.removesuffix('.JPEG')}_{wnid}.JPEG"}
                        for wnid, name, data in rows
                    ],
                    "label": pa.array([wnids.index(wnid) for wnid, *_ in rows], pa.int64()),
                }
            ).replace_schema_metadata({"huggingface": json.dumps(said)})
            pq.write_table(table, root / "data" / f"{split}-{shard:05d}-of-{shards:05d}.parquet", row_group_size=4)


FORMS: dict[str, Callable[[Path, Pictures], None]] = {
    "folders": write_folders,
    "flat_val": write_flat_val,
    "tars": write_tars,
    "kaggle": write_kaggle,
    "shards": write_shards,
    "parquet": write_parquet,
}


def tar_of(members: Sequence[tuple[str, bytes]], kind: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for name, data in members:
            _add(archive, name, data)
    return out.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def meta_mat(rows: Sequence[tuple[int, str, int]]) -> bytes:
    """meta.mat with `synsets`: ILSVRC2012_ID, WNID and num_children of each row, as MATLAB 5 stores them."""

    def element(kind: int, body: bytes) -> bytes:
        return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)

    def array(kind: int, shape: tuple[int, int], name: bytes, *parts: bytes) -> bytes:
        head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack("<ii", *shape)) + element(1, name)
        return element(14, head + b"".join(parts))

    cells = []
    for number, wnid, children in rows:
        cells += [
            array(6, (1, 1), b"", element(9, struct.pack("<d", number))),
            array(4, (1, len(wnid)), b"", element(4, wnid.encode("utf-16-le"))),
            array(9, (1, 1), b"", element(2, bytes([children]))),
        ]
    names = b"".join(name.ljust(32, b"\0") for name in (b"ILSVRC2012_ID", b"WNID", b"num_children"))
    table = array(2, (len(rows), 1), b"synsets", struct.pack("<HHi", 5, 4, 32), element(1, names), *cells)
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + table


if __name__ == "__main__":
    for form, write_form in FORMS.items():
        write_form(Path(sys.argv[2]) / form, read_pictures(Path(sys.argv[1]), None))
