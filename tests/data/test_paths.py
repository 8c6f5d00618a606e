"""What the names of images stand for."""

import io
import os
from pathlib import Path

import pytest

from vim_train.config.errors import UserError
from vim_train.data.paths import find_images

TREE = ["b/2.PNG", "b/10.jpg", "a.jpeg", "b/notes.txt", "b/.hidden.jpg", ".dot/x.jpg", "a b,c=[1].jpg", "empty/readme"]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in TREE:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*items: str, stdin: bytes = b"") -> list[str]:
    """Paths, with the problem behind those that have one."""
    return [
        path if problem is None else f"{path}: {problem}" for path, problem in find_images(items, io.BytesIO(stdin))
    ]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("tree", ["tree/a b,c=[1].jpg", "tree/a.jpeg", "tree/b/10.jpg", "tree/b/2.PNG"]),
        ("tree/b/notes.txt", ["tree/b/notes.txt"]),
        ("tree/b/*", ["tree/b/10.jpg", "tree/b/2.PNG", "tree/b/notes.txt"]),
        ("tree/**/*.jp*", ["tree/a b,c=[1].jpg", "tree/a.jpeg", "tree/b/10.jpg"]),
        ("tree/a b,c=[1].jpg", ["tree/a b,c=[1].jpg"]),
        ("tree/*.gif", ["tree/*.gif: no file matches"]),
        ("tree/nope.jpg", ["tree/nope.jpg"]),
        ("a.jpg,b.jpg", ["a.jpg,b.jpg: no such file; a list is images=[a,b]"]),
        ("tree/empty", ["tree/empty: a folder without images"]),
    ],
)
def test_a_name_stands_for_files(item: str, expected: list[str], tree: Path) -> None:
    assert found(item) == expected


def test_lists_hold_a_name_a_line_or_names_between_nuls(tree: Path) -> None:
    Path("list.txt").write_bytes(b"tree/a.jpeg\r\n\nno.jpg\ntree/b")
    listed = ["tree/a.jpeg", "no.jpg", "tree/b: a folder; only images= takes one"]
    assert found("@list.txt") == listed
    assert found("-", "tree/b/2.PNG", stdin=b"one\ntwo.jpg\0\xff.jpg\0") == [
        "one\ntwo.jpg",
        os.fsdecode(b"\xff.jpg"),
        "tree/b/2.PNG",
    ]
    assert found("-") == []
    with pytest.raises(UserError, match=r"^images=@tree: Is a directory$"):
        found("@tree")
