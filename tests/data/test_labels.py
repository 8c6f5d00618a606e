"""Labels of flat validation images come from what they are called, never from an order."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from forms import meta_mat, write_devkit

from vim_train.config.errors import UserError
from vim_train.data.sources.labels import ImageLabels, find_labels
from vim_train.data.sources.matfile import read_table

FIXTURE = Path(__file__).parent / "meta.mat"
"""Written by scipy 1.17's savemat, compressed: a variable of another kind, then five synsets."""
IDS = {"n04593866": 1, "n02512053": 2, "n04451818": 3, "n03743902": 4}


def labels(folder: Path) -> ImageLabels:
    found = find_labels([folder])
    assert found is not None
    return found.read()


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        labels(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_matlab_file_of_another_writer_is_read() -> None:
    rows = read_table(FIXTURE.read_bytes(), "synsets")
    assert {row["WNID"]: row["ILSVRC2012_ID"] for row in rows if row["num_children"] == 0} == IDS
    assert [row["words"] for row in rows] == ["windmill", "fish", "tool é", "monument", "entity"]
    assert rows[4]["ILSVRC2012_ID"] == 5
    with pytest.raises(ValueError, match="no struct array nodes in it"):
        read_table(FIXTURE.read_bytes(), "nodes")


@pytest.mark.parametrize("length", range(0, 594, 27))
def test_a_damaged_matlab_file_is_refused(length: int) -> None:
    for data in (FIXTURE.read_bytes(), meta_mat([(1, "n04593866", 0)])):
        with pytest.raises(ValueError, match=r"damaged|no MATLAB file|no struct array"):
            read_table(data[: min(length, len(data) - 20)], "synsets")


def unpack(archive: Path) -> None:
    import tarfile

    with tarfile.open(archive) as file:
        file.extractall(archive.parent)
    archive.unlink()


@pytest.mark.parametrize("unpacked", [False, True])
def test_the_devkits_ids_are_mapped_through_meta(tmp_path: Path, unpacked: bool) -> None:
    archive = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    write_devkit(archive, IDS, [2, 2, 1, 4])
    if unpacked:
        unpack(archive)
    found = labels(tmp_path)
    assert found.classes == sorted(IDS)
    assert [found.of[b"ILSVRC2012_val_%08d" % i] for i in range(1, 5)] == [
        "n02512053", "n02512053", "n04593866", "n03743902"
    ]  # fmt: skip


def test_a_wrong_devkit_is_one_line(tmp_path: Path) -> None:
    archive = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    write_devkit(archive, IDS, [2, 5])  # 5 is a hypernym
    assert refusal(tmp_path).endswith("ground_truth.txt: meta.mat has no class of ILSVRC2012_ID 5")
    write_devkit(archive, IDS, [2])
    archive.write_bytes(archive.read_bytes()[:200])
    assert "truncated or damaged" in refusal(tmp_path)
    unpacked = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    unpacked.mkdir(parents=True)
    archive.unlink()
    (unpacked / "meta.mat").write_bytes(b"MATLAB")
    assert "ILSVRC2012_validation_ground_truth.txt: no such file" in refusal(tmp_path)
    (unpacked / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n")
    assert refusal(tmp_path).endswith("meta.mat: no MATLAB file of version 5 to 7.2")


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda whole: b"", "is empty"),
        (lambda whole: b"\n<!DOCTYPE html>\n<html><title>Log in</title></html>", "is a web page, not a tar"),
        (lambda whole: b"meta.mat\n", "is no tar"),
        (lambda whole: whole[:200], "is a truncated or damaged tar"),
        (lambda whole: whole[: len(whole) // 2], "is a truncated or damaged tar"),
        (lambda whole: whole[:100] + bytes(40) + whole[140:], "is a truncated or damaged tar"),
        (lambda whole: gzip.decompress(whole)[:1300], "is a truncated or damaged tar"),
        (lambda whole: gzip.compress(b"<html></html>"), "is a truncated or damaged tar"),
    ],
)
def test_a_devkit_that_is_no_whole_tar_is_called_what_it_is(
    tmp_path: Path, spoil: Callable[[bytes], bytes], what: str
) -> None:
    archive = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    write_devkit(archive, IDS, [2, 2, 1, 4])
    archive.write_bytes(spoil(archive.read_bytes()))
    size = archive.stat().st_size
    said = f"{archive} {what}" + (f" ({size:,} bytes)" if size else "")
    assert refusal(tmp_path) == f"{said}; takes the devkit of task 1 and 2, as downloaded or unpacked"


@pytest.mark.parametrize(
    "text", ["a.JPEG n01\nb.JPEG n02\n", "a n01\n\nb n02\n", "a.JPEG,n01\nb.JPEG,n02", "# name class\na\tn01\nb\tn02\n"]
)
def test_a_list_is_of_names_and_classes(tmp_path: Path, text: str) -> None:
    (tmp_path / "val_labels.txt").write_text(text)
    assert labels(tmp_path).of == {b"a": "n01", b"b": "n02"}


def test_a_list_of_wnids_is_in_the_order_of_the_official_names(tmp_path: Path) -> None:
    (tmp_path / "imagenet_2012_validation_synset_labels.txt").write_text("n02\nn01\n")
    assert labels(tmp_path).of == {b"ILSVRC2012_val_00000001": "n02", b"ILSVRC2012_val_00000002": "n01"}


@pytest.mark.parametrize("text", ["a.JPEG 65\n", "490\n361\n"])
def test_bare_numbers_are_refused_since_they_count_by_several_orders(tmp_path: Path, text: str) -> None:
    (tmp_path / "val.txt").write_text(text)
    line = refusal(tmp_path)
    assert "val.txt: line 1: the number" in line
    assert "ILSVRC2012_devkit_t12.tar.gz" in line


def test_kaggles_table_is_checked(tmp_path: Path) -> None:
    table = tmp_path / "LOC_val_solution.csv"
    table.write_text("ImageId,PredictionString\na,n01 1 2 3 4 \nb,n02 1 2 3 4 n02 5 6 7 8 \n")
    assert labels(tmp_path).of == {b"a": "n01", b"b": "n02"}
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01 a word\nn03 another\n")
    assert refusal(tmp_path).endswith("names classes that LOC_synset_mapping.txt has not: n02")
    table.write_text("ImageId,PredictionString\na,n01 1 2 3 4 n02 1 2 3 4\n")
    assert "line 2: takes ImageId,PredictionString with one class" in refusal(tmp_path)
    table.write_bytes(b"\xff\xfe\x00")
    assert "no text of labels" in refusal(tmp_path)


def test_two_labels_of_one_image_are_refused(tmp_path: Path) -> None:
    (tmp_path / "val_labels.txt").write_text("a.jpg cat\nb.jpg dog\na.jpg cat\na.JPEG dog\n")
    assert refusal(tmp_path).endswith("val_labels.txt: line 4: a.JPEG is dog here and cat further up")


def test_a_mark_of_byte_order_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "val_labels.txt").write_bytes(b"\xef\xbb\xbfa.jpg cat\nb.jpg dog\n")
    assert labels(tmp_path).of == {b"a": "cat", b"b": "dog"}


@pytest.mark.parametrize(
    "text",
    [
        "filename,label\na.JPEG,n01\nb.JPEG,n02\n",
        "# of 2026\nBild Klasse\na.JPEG n01\n",
        "ImageId,PredictionString\na,n01\nb,n02\n",
        "wnid\nn01\nn02\n",
    ],
)
def test_a_heading_is_no_image(tmp_path: Path, text: str) -> None:
    (tmp_path / "val_labels.csv").write_text(text)
    heading = next(line for line in text.splitlines() if not line.startswith("#"))
    number = text.splitlines().index(heading) + 1
    said = f"val_labels.csv: line {number}: `{heading}` is a heading, no image and its class; remove that line"
    assert refusal(tmp_path).endswith(said)


@pytest.mark.parametrize("line", ['"b.JPEG","n02"', "b.JPEG,'n02'", '"b.JPEG" n02'])
def test_quotes_are_no_part_of_a_name(tmp_path: Path, line: str) -> None:
    (tmp_path / "val_labels.csv").write_text(f"a.JPEG,n01\n{line}\n")
    said = "in quotes, which would be part of the name; takes NAME CLASS without them"
    word = line[:8] if line.startswith('"') else "'n02'"
    assert refusal(tmp_path).endswith(f"val_labels.csv: line 2: {word} stands {said}")


def test_names_need_no_suffix_and_may_hold_a_quote(tmp_path: Path) -> None:
    (tmp_path / "val_labels.txt").write_text("name_1 12\" pipe\nlabel_2 rock 'n' roll\n")
    assert labels(tmp_path).of == {b"name_1": '12" pipe', b"label_2": "rock 'n' roll"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a.jpg cat 3\nb.jpg dog 4\n", "line 1: `a.jpg cat 3` has more than two columns"),
        ("a.jpg,cat\nb.jpg,dog,4\n", "line 2: `b.jpg,dog,4` has more than two columns"),
        ("a.jpg\tn01440764\ttench\n", "line 1: `a.jpg\tn01440764\ttench` has more than two columns"),
        ("a.jpg\nb.jpg\n", "line 1: `a.jpg` has no class"),
        ("cat\ndog\n", "line 1: `cat` stands alone"),
        ("a.jpg cat\nn01\n", "line 2: `n01` stands alone"),
    ],
)
def test_a_line_without_a_name_and_a_class_is_shown_one(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "val_labels.txt").write_text(text)
    takes = "takes a line for each image with its name and class, as in `bird1.jpg bird`"
    assert refusal(tmp_path) == f"{tmp_path}/val_labels.txt: {what}; {takes}"


@pytest.mark.parametrize("separator", ["\t", ",", " , ", " \t "])
def test_a_name_may_hold_blanks_where_each_line_has_one_tab_or_comma(tmp_path: Path, separator: str) -> None:
    names = ["my bird 1.jpg", "b.JPEG", "c (2).webp"]
    text = "".join(f"{name}{separator}grade {i}\n" for i, name in enumerate(names))
    (tmp_path / "val_labels.txt").write_text(f"# of mine, all\n{text}")
    assert labels(tmp_path).of == {b"my bird 1": "grade 0", b"b": "grade 1", b"c (2)": "grade 2"}


def test_a_comma_of_each_class_is_no_separator(tmp_path: Path) -> None:
    (tmp_path / "val_labels.txt").write_text("a.jpg shark, white\nb.jpg shark, blue\n")
    assert labels(tmp_path).of == {b"a": "shark, white", b"b": "shark, blue"}


def test_a_class_may_hold_blanks_commas_and_numbers(tmp_path: Path) -> None:
    (tmp_path / "val_labels.txt").write_text("a.jpg grade 1\nb.jpg grade 2\nc.jpg shark, great white, 7\n")
    assert labels(tmp_path).of == {b"a": "grade 1", b"b": "grade 2", b"c": "shark, great white, 7"}
    (tmp_path / "val_labels.txt").write_text("a.jpg grade 1\nb.jpg grade 2\n")
    assert labels(tmp_path).of == {b"a": "grade 1", b"b": "grade 2"}


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "val_labels.txt").write_text("# to do\n")
    assert "names no image" in refusal(tmp_path)


def write_table(folder: Path, of: dict[str, str]) -> None:
    rows = "".join(f"{name},{wnid} 1 2 3 4 \n" for name, wnid in of.items())
    (folder / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{rows}")


def test_of_several_files_of_labels_the_one_used_is_named(tmp_path: Path) -> None:
    write_table(tmp_path, {"a": "n01", "b": "n02"})
    (tmp_path / "val_labels.txt").write_text("a.JPEG n01\nother.JPEG n03\n")
    (tmp_path / "val.txt").write_text("a.JPEG 65\n")  # as Caffe has it, which says nothing
    found = find_labels([tmp_path, tmp_path])
    assert found is not None
    assert found.form == "LOC_val_solution.csv (val_labels.txt, val.txt not used)"
    assert found.files == tuple(tmp_path / name for name in ("LOC_val_solution.csv", "val_labels.txt", "val.txt"))
    assert found.read().of == {b"a": "n01", b"b": "n02"}


def test_files_of_labels_that_differ_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path, {"ILSVRC2012_val_00000001": "n02512053", "ILSVRC2012_val_00000002": "n03743902"})
    devkit = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    write_devkit(devkit, IDS, [2, 3])
    assert refusal(tmp_path) == (
        f"{tmp_path}/LOC_val_solution.csv and {devkit} differ in 1 image: ILSVRC2012_val_00000002 is n03743902 in the "
        "one and n04451818 in the other; remove the wrong one"
    )
    write_devkit(devkit, IDS, [2, 4])
    assert labels(tmp_path).where == f"{tmp_path}/LOC_val_solution.csv"
