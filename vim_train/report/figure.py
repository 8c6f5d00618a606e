"""Pictures without pyplot: no global state and no display, whatever backend the user has configured."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, title: str) -> "Figure":
    """A figure of so many inches at 150 pixels each, with a title at its upper left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.1))
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.02, ha="left")
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write a PNG that is whole or the old one at any moment; its folder is made. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def plain_axes(axes: "Axes", title: str) -> None:
    """The house's look: a title at the left, faint grid behind, no frame."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.tick_params(labelsize=9, colors="#555555")
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
