"""Pages of a contact sheet."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vim_train.report.sheet import EXPLAINED, PLAIN, Cell, Sheet, _font, draw_page, fit, overlay


def photo(level: int, side: int = 200) -> np.ndarray:
    return np.full((side, side, 3), level, dtype=np.uint8)


def cell(level: int, share: float = 0.5) -> Cell:
    return Cell(f"{level}.jpg", photo(level), [("fish", share), ("tool", 1 - share)])


def test_pages_are_numbered_where_there_are_several(tmp_path: Path) -> None:
    sheet = Sheet(tmp_path / "s.png", 65, PLAIN, "title", "65 images")
    for i in range(65):
        sheet.add(cell(i * 3))
    assert [path.name for path in sheet.written] == ["s-1.png"]
    sheet.close()
    sheet.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s-1.png", "s-2.png"]
    full, rest = (np.asarray(Image.open(path)).shape for path in sheet.written)
    width = 2 * 40 + 6 * 200 + 5 * 28
    assert full == (92 + 10 * PLAIN.height + 9 * 28 + 56, width, 3)
    assert rest == (92 + PLAIN.height + 56, 2 * 40 + 5 * 200 + 4 * 28, 3)
    Sheet(tmp_path / "none.png", 0, PLAIN, "", "").close()
    assert not (tmp_path / "none.png").exists()


def test_each_image_stands_in_its_place_and_a_bar_is_as_long_as_its_share() -> None:
    page = np.asarray(
        draw_page([cell(0, 0.25), cell(120, 1.0), Cell("no.jpg", None, problem="empty file")], PLAIN, "t", "")
    )
    for i, level in enumerate((0, 120)):
        left = 40 + i * 228
        assert (page[92 : 92 + 200, left : left + 200] == level).all()
    row = page[92 + 200 + 8 + 24]
    blue = (row == (0x1F, 0x77, 0xB4)).all(-1)
    assert 45 <= blue[40:240].sum() <= 51
    assert 195 <= blue[268:468].sum() <= 200
    hole = page[92:292, 496:696]
    assert 2 <= len(np.unique(hole.reshape(-1, 3), axis=0)) < 50


def test_an_explained_cell_shows_the_heat_where_it_is() -> None:
    heat = np.zeros((4, 4), dtype=np.float32)
    heat[0, 3] = 1
    shown = overlay(photo(90, 224), heat).astype(int)
    warm = shown[..., 0] - shown[..., 2]
    assert warm[:56, 168:].mean() > 60 + warm[112:, :112].mean()
    page = np.asarray(draw_page([Cell("a", photo(90, 224), [("fish", 1.0)], heat)], EXPLAINED, "t", ""))
    assert (page[92:316, 40:264] == 90).all()
    assert (page[92:316, 270:494] == shown).all()


@given(text=st.text(st.characters(codec=None), max_size=60), width=st.integers(15, 300))
def test_any_text_is_made_to_fit(text: str, width: int) -> None:
    shown = fit(text, _font(14), width)
    assert _font(14).getlength(shown) <= width
    assert shown.isprintable()
