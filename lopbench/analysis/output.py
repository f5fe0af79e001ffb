"""The files of a report: each figure as PNG and PDF, each table as CSV and LaTeX, and what the page shows of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lopbench import files
from lopbench.analysis import page, tables
from lopbench.analysis.style import encoded
from lopbench.analysis.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES, TABLES = "figures", "tables"


class Output:
    """Writes into `folder`, made if it isn't there. `images`: the PNGs written so far, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = files.make_folder(folder)
        self.images: dict[str, bytes] = {}
        files.make_folder(folder / FIGURES)
        files.make_folder(folder / TABLES)

    def figure(self, name: str, drawn: Figure, shows: str, caption: str = "") -> str:
        """Write NAME.png and NAME.pdf; the figure as HTML. `shows`: what is seen, for those who can't see it."""
        self.images[name] = encoded(drawn, "png")
        drawn.set_layout_engine("none")  # it has its layout now, and to find it again takes as long as to draw
        links = {}
        for kind, content in {"png": self.images[name], "pdf": encoded(drawn, "pdf")}.items():
            path = f"{FIGURES}/{name}.{kind}"
            files.write_atomically(self.folder / path, content)
            links[kind.upper()] = path
        return page.figure(encoded(drawn, "svg"), shows, caption, links)

    def table(self, content: Table, note: str = "") -> str:
        """Write NAME.csv and NAME.tex; the table as HTML."""
        tables.save(content, self.folder / TABLES)
        links = {kind: f"{TABLES}/{content.name}.{end}" for kind, end in (("CSV", "csv"), ("LaTeX", "tex"))}
        return page.table(content, note, links)
