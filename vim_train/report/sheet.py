"""Contact sheets: images with their labels and probabilities, and where a model looks, as pages of one picture each."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_INK, _SOFT, _FAINT, _BAR, _BAD = "#1c2430", "#6b7785", "#e8ecf0", "#1f77b4", "#b3402a"
_MARGIN, _GAP, _HEADER, _FOOT = 40, 28, 92, 16
_LINE = 21
_HEAT = "inferno"

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Cell:
    """One image of a sheet."""

    caption: str
    """What to call it: its file's name."""
    image: Pixels | None
    """(side, side, 3); None: it is no image."""
    bars: Sequence[tuple[str, float]] = ()
    """Labels with probabilities, the best first."""
    heat: NDArray[np.float32] | None = None
    """(rows, columns) in [0, 1]: drawn over the image a second time."""
    problem: str = ""


@dataclass(frozen=True)
class Form:
    """How the cells of a sheet are laid out, in pixels."""

    side: int
    """Of an image."""
    pictures: int
    """Side by side in a cell."""
    bars: int
    """Labels shown."""
    columns: int
    per_page: int

    @property
    def width(self) -> int:
        """Of a cell."""
        return self.side * self.pictures + 6 * (self.pictures - 1)

    @property
    def height(self) -> int:
        """Of a cell."""
        return self.side + 8 + self.bars * (_LINE + (9 if self.bars == 1 else 0)) + 20


PLAIN = Form(side=200, pictures=1, bars=1, columns=6, per_page=60)
EXPLAINED = Form(side=224, pictures=2, bars=3, columns=3, per_page=18)


class Sheet:
    """Pages of a sheet, each written once it is full.

    Args:
        path: FILE.png for a single page; FILE-1.png, FILE-2.png, … for several.
        total: cells to come.
        title, note: heading of every page; `note` says what the pictures show.

    Raises (while adding, and in `close`):
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, total: int, form: Form, title: str, note: str) -> None:
        self.form = form
        self.written: list[Path] = []
        self._path, self._title, self._note = path, title, note
        self._pages = -(-total // form.per_page)
        self._cells: list[Cell] = []

    def add(self, cell: Cell) -> None:
        """The next image."""
        self._cells.append(cell)
        if len(self._cells) == self.form.per_page:
            self.close()

    def close(self) -> None:
        """Write what has not been written."""
        if not self._cells:
            return
        number, path = len(self.written) + 1, self._path
        if self._pages > 1:
            path = path.with_name(f"{path.stem}-{number:0{len(str(self._pages))}d}{path.suffix}")
        page = f"page {number} of {self._pages}" if self._pages > 1 else ""
        picture = draw_page(self._cells, self.form, self._title, self._note, page)
        temporary = path.with_name(f".{path.name}.tmp")
        picture.save(temporary, format="png")
        os.replace(temporary, path)
        self.written.append(path)
        self._cells = []


def draw_page(cells: Sequence[Cell], form: Form, title: str, note: str, page: str = "") -> Image.Image:
    """One page."""
    columns = min(form.columns, max(len(cells), 4 // form.pictures))
    rows = -(-len(cells) // columns)
    width = 2 * _MARGIN + columns * form.width + (columns - 1) * _GAP
    height = _HEADER + rows * form.height + (rows - 1) * _GAP + _MARGIN + _FOOT
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    _header(picture, draw, form, title, note, page)
    for i, cell in enumerate(cells):
        left = _MARGIN + i % columns * (form.width + _GAP)
        top = _HEADER + i // columns * (form.height + _GAP)
        _cell(picture, draw, cell, form, left, top)
    return picture


def _header(picture: Image.Image, draw: ImageDraw.ImageDraw, form: Form, title: str, note: str, page: str) -> None:
    right = picture.width - _MARGIN
    draw.text((right, 36), page, _SOFT, _font(13), anchor="rs")
    room = right - _MARGIN - _font(13).getlength(page) - 20
    draw.text((_MARGIN, 36), fit(title, _font(21, bold=True), room), _INK, _font(21, bold=True), anchor="ls")
    room = right - _MARGIN
    if form.pictures > 1:
        room -= 220
        _ramp(picture, draw, right, 60)
    draw.text((_MARGIN, 62), fit(note, _font(13), room), _SOFT, _font(13), anchor="ls")


def _ramp(picture: Image.Image, draw: ImageDraw.ImageDraw, right: int, bottom: int) -> None:
    """The colours from little to much."""
    draw.text((right, bottom + 2), "much", _SOFT, _font(13), anchor="rs")
    right -= 48
    strip = _colours(np.linspace(0, 1, 110, dtype=np.float32)[None].repeat(10, axis=0))
    picture.paste(Image.fromarray(strip), (right - 110, bottom - 9))
    draw.text((right - 118, bottom + 2), "little", _SOFT, _font(13), anchor="rs")


def _cell(picture: Image.Image, draw: ImageDraw.ImageDraw, cell: Cell, form: Form, left: int, top: int) -> None:
    below = top + form.side + 8
    if cell.image is None:
        _hole(draw, cell, form, left, top)
    else:
        picture.paste(Image.fromarray(cell.image).resize((form.side, form.side), Image.Resampling.BICUBIC), (left, top))
        if cell.heat is not None:
            shown = Image.fromarray(overlay(cell.image, cell.heat)).resize((form.side, form.side))
            picture.paste(shown, (left + form.side + 6, top))
        draw_bars = _one_bar if form.bars == 1 else _bars
        draw_bars(draw, cell.bars[: form.bars], form.width, left, below)
    caption = fit(cell.caption, _font(12), form.width)
    draw.text((left, top + form.height - 4), caption, _SOFT, _font(12), anchor="ls")


def _hole(draw: ImageDraw.ImageDraw, cell: Cell, form: Form, left: int, top: int) -> None:
    draw.rectangle((left, top, left + form.width - 1, top + form.side - 1), "#f6f7f9", _FAINT)
    middle, centre = left + form.width // 2, top + form.side // 2
    draw.line((middle - 12, centre - 12, middle + 12, centre + 12), _BAD, 3)
    draw.line((middle - 12, centre + 12, middle + 12, centre - 12), _BAD, 3)
    font = _font(14)
    draw.text((left, top + form.side + 23), fit(cell.problem, font, form.width), _BAD, font, anchor="ls")


def _one_bar(draw: ImageDraw.ImageDraw, bars: Sequence[tuple[str, float]], width: int, left: int, top: int) -> None:
    """The name above a bar that is as wide as the image."""
    for name, share in bars:
        font, percent = _font(15, bold=True), f"{100 * share:.0f} %"
        room = width - _font(14).getlength(percent) - 10
        draw.text((left, top + 15), fit(name, font, room), _INK, font, anchor="ls")
        draw.text((left + width, top + 15), percent, _INK, _font(14), anchor="rs")
        _bar(draw, share, left, top + 22, width, 5)


def _bars(draw: ImageDraw.ImageDraw, bars: Sequence[tuple[str, float]], width: int, left: int, top: int) -> None:
    """Names, bars and shares in columns."""
    names, percents = int(width * 0.42), 48
    for i, (name, share) in enumerate(bars):
        font, base = _font(14, bold=i == 0), top + i * _LINE + 15
        draw.text((left, base), fit(name, font, names - 12), _INK if i == 0 else _SOFT, font, anchor="ls")
        _bar(draw, share, left + names, base - 9, width - names - percents, 8)
        draw.text((left + width, base), f"{100 * share:.0f} %", _INK if i == 0 else _SOFT, _font(13), anchor="rs")


def _bar(draw: ImageDraw.ImageDraw, share: float, left: int, top: int, width: int, height: int) -> None:
    draw.rounded_rectangle((left, top, left + width - 1, top + height - 1), height / 2, _FAINT)
    if (filled := round(share * width)) >= 1:
        draw.rounded_rectangle((left, top, left + max(filled, height) - 1, top + height - 1), height / 2, _BAR)


def overlay(image: Pixels, heat: NDArray[np.float32]) -> Pixels:
    """(side, side, 3) with the heat over it: dark where it is low, coloured where it is high."""
    side = image.shape[0]
    smooth = np.asarray(Image.fromarray(heat.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC))
    smooth = np.clip(smooth, 0, 1)[..., None]
    grey = np.asarray(Image.fromarray(image).convert("L"), dtype=np.float32)[..., None]
    colour = _colours(smooth[..., 0]).astype(np.float32)
    strength = 0.25 + 0.5 * smooth
    return ((1 - strength) * (0.35 * grey + 0.65 * image) + strength * colour).round().astype(np.uint8)


def _colours(values: NDArray[np.float32]) -> Pixels:
    import matplotlib

    coloured: Pixels = matplotlib.colormaps[_HEAT](values, bytes=True)[..., :3]
    return coloured


def fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, printable and no wider than `width`: what is too long loses its middle."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        shorter = f"{text[: kept - kept // 3].rstrip()}…{text[len(text) - kept // 3 :].lstrip()}"
        if font.getlength(shorter) <= width:
            return shorter
    return "…"


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"  # the one font that is certain to be there
    return ImageFont.truetype(folder / f"DejaVuSans{'-Bold' if bold else ''}.ttf", size)
