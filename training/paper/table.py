"""Table I of the paper: PSNR by λ, without and with post-processing, ours beside the published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secondlook.shared.filters import ImageFilter
from secondlook.training.paper.measure import Coder, Lab, Row, mean
from secondlook.training.paper.metrics import COLUMNS
from secondlook.training.paper.published import PLAIN, PRESETS, TABLE1, TITLES

NUMBERS = {"psnr": ".3f", "ssim": ".4f", "ms_ssim": ".4f", "lpips": ".4f"}
FIELDS = (
    "method",
    "filter",
    "lambda",
    "quality",
    "images",
    "bpp",
    "bpp_base",
    "bpp_additional",
    *COLUMNS,
    "paper_psnr",
    "delta_db",
    "gain_db",
    "paper_gain_db",
    "delta_gain_db",
)


@dataclass(frozen=True)
class Cell:
    """One figure of the table. `row` has the means over all pictures; gains are over the same λ without a filter."""

    role: str
    filter: str
    lam: float
    images: int
    row: Row
    plain_psnr: float

    @property
    def psnr(self) -> float:
        value = self.row["psnr"]
        assert value is not None
        return value

    @property
    def paper(self) -> float:
        return TABLE1[self.role][self.lam]

    @property
    def delta(self) -> float:
        return self.psnr - self.paper

    @property
    def gain(self) -> float:
        return self.psnr - self.plain_psnr

    @property
    def paper_gain(self) -> float:
        return self.paper - TABLE1[PLAIN][self.lam]


def table1(
    lab: Lab, coder: Coder, filters: Mapping[str, ImageFilter], lambdas: Sequence[float]
) -> list[Cell]:
    """The cells, methods in the paper's order, λ rising within each."""
    names = {role: f.name for role, f in filters.items()}
    cells = []
    for lam in sorted(lambdas):
        means = {role: mean(rows) for role, rows in lab.ours(coder, PRESETS[lam], filters).items()}
        plain = means[PLAIN]["psnr"]
        assert plain is not None
        cells += [
            Cell(role, names.get(role, ""), lam, len(lab.pictures), row, plain) for role, row in means.items()
        ]
    return sorted(cells, key=lambda cell: (list(TITLES).index(cell.role), cell.lam))


def rows(cells: Sequence[Cell]) -> list[dict[str, object]]:
    """The table for CSV: one row per cell, FIELDS as columns."""
    return [
        {
            "method": TITLES[cell.role],
            "filter": cell.filter,
            "lambda": cell.lam,
            "quality": PRESETS[cell.lam],
            "images": cell.images,
            **cell.row,
            "paper_psnr": cell.paper,
            "delta_db": cell.delta,
            "gain_db": cell.gain,
            "paper_gain_db": cell.paper_gain,
            "delta_gain_db": cell.gain - cell.paper_gain,
        }
        for cell in cells
    ]


def shown(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)


def text(cells: Sequence[Cell]) -> str:
    """The table for a terminal."""
    heads = (
        "λ",
        "quality",
        "bpp",
        "PSNR dB",
        "paper",
        "delta",
        "gain dB",
        "paper",
        "SSIM",
        "MS-SSIM",
        "LPIPS",
    )
    lines = [f"{'method':28}" + "".join(f"{head:>9}" for head in heads)]
    for cell in cells:
        figures = (
            f"{cell.lam:.3f}",
            str(PRESETS[cell.lam]),
            shown(cell.row["bpp"], ".4f"),
            f"{cell.psnr:.3f}",
            f"{cell.paper:.2f}",
            f"{cell.delta:+.3f}",
            f"{cell.gain:+.3f}",
            f"{cell.paper_gain:+.2f}",
            *(shown(cell.row[name], NUMBERS[name]) for name in COLUMNS[1:]),
        )
        lines.append(f"{TITLES[cell.role]:28}" + "".join(f"{figure:>9}" for figure in figures))
    return "\n".join(lines)
