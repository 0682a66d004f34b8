"""The report as one HTML page: tables, figures and how they were measured, readable without a network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from secondlook.training.paper import noise
from secondlook.training.paper.curves import Curve, bd_rates
from secondlook.training.paper.metrics import COLUMNS
from secondlook.training.paper.noise import Example
from secondlook.training.paper.published import ONE, PLAIN, PRESETS, TITLES, TWO
from secondlook.training.paper.table import NUMBERS, Cell, shown

TITLE = "Refining Coded Image in Human Vision Layer: the paper's figures, measured"
HEADS = {"psnr": "PSNR dB", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS (lower is better)"}
STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --band: #f4f6f8;
  --ours: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --ink: #e6e9ec; --soft: #9aa4ae; --line: #363d44;
  --band: #1d2226; --ours: #79b8ff; } }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { margin-top: 2.5rem; font-size: 1.25rem; }
p, li, figcaption { max-width: 46rem; } .soft, figcaption { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; margin: 1rem 0; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .facts td { text-align: left; } .facts td + td { white-space: normal; }
thead th { background: var(--band); } tr.ours td { color: var(--ours); font-weight: 600; }
tr.last td, tr.last th { border-bottom-width: 2px; } tbody th { font-weight: 500; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; display: block; }
.notes { border-left: 4px solid #d55e00; padding: .2rem 1rem; background: var(--band); }
code { font-size: .9em; overflow-wrap: anywhere; } details summary { cursor: pointer; margin: .8rem 0; }
"""


def page(
    cells: Sequence[Cell],
    curves: Sequence[Curve],
    plots: tuple[bytes, bytes],
    examples: Sequence[Example],
    sheets: Sequence[bytes],
    *,
    facts: Mapping[str, str],
    notes: Sequence[str],
    gain: float,
) -> str:
    """`plots`: Fig. 2 as PNG on light and on dark; `sheets`: Fig. 3, a PNG an example."""
    images = cells[0].images
    parts = [
        f"<h1>{escape(TITLE)}</h1>",
        _summary(cells),
        _notes(notes),
        "<h2>Table I: image quality (PSNR) in the decoded image</h2>",
        _table1_note(images),
        _table1(cells),
        "<h3>Gain of the post-processing</h3>",
        _gains(cells),
        "<h2>Further metrics</h2>",
        "<p class=soft>SSIM and LPIPS are what the paper leaves to future work; it prints no figures of them.</p>",
        _metrics(cells),
        "<h2>Fig. 2: compression performance</h2>",
        _fig2(curves, plots),
        "<h2>Fig. 3: coding noise before and after the post-filter</h2>",
        *(_fig3(e, s, gain) for e, s in zip(examples, sheets, strict=True)),
        "<h2>How it was measured</h2>",
        _rows(["", ""], [("", [escape(k), escape(v)]) for k, v in facts.items()], kind="facts"),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(TITLE)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _table1_note(images: int) -> str:
    return (
        f"<p class=soft>Mean of {images} image{'s' if images != 1 else ''}. The published figures are of the COCO "
        "validation set and of another codec at other rates: compare the gains before the levels.</p>"
    )


def _summary(cells: Sequence[Cell]) -> str:
    said = []
    for role in (ONE, TWO):
        gains = [cell for cell in cells if cell.role == role]
        if gains:
            ours = ", ".join(f"{cell.gain:+.2f}" for cell in gains)
            paper = ", ".join(f"{cell.paper_gain:+.2f}" for cell in gains)
            said.append(f"{gains[0].filter} (l = {role[1]}): {ours} dB; the paper: {paper} dB")
    lams = ", ".join(f"{lam:.3f}" for lam in sorted({cell.lam for cell in cells}))
    gained = f" Gain of the post-filters at λ = {lams}: {escape('. '.join(said))}." if said else ""
    return f"<p>Every rate counts real bytes.{gained}</p>"


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return "<div class=notes><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul></div>"


def _table1(cells: Sequence[Cell]) -> str:
    body = []
    for role in TITLES:
        of_role = [cell for cell in cells if cell.role == role]
        if not of_role:
            continue
        name = of_role[0].filter
        ours = f"{TITLES[role]}, ours{f' ({name})' if name else ''}"
        body.append(("ours", [escape(ours), *(f"{cell.psnr:.2f}" for cell in of_role)]))
        body.append(("", ["published", *(f"{cell.paper:.2f}" for cell in of_role)]))
        body.append(("last", ["ours − published", *(f"{cell.delta:+.2f}" for cell in of_role)]))
    plain = [cell for cell in cells if cell.role == PLAIN]
    body.append(("", ["bits per pixel, both layers, ours", *(shown(c.row["bpp"]) for c in plain)]))
    body.append(("", ["of which additional information", *(shown(c.row["bpp_additional"]) for c in plain)]))
    return _rows(_lambda_heads(cells), body)


def _gains(cells: Sequence[Cell]) -> str:
    body = []
    for role in (ONE, TWO):
        of_role = [cell for cell in cells if cell.role == role]
        if of_role:
            title = f"{TITLES[role]}, ours"
            body.append(("ours", [escape(title), *(f"{cell.gain:+.3f} dB" for cell in of_role)]))
            body.append(("", ["published", *(f"{cell.paper_gain:+.2f} dB" for cell in of_role)]))
            delta = (f"{cell.gain - cell.paper_gain:+.3f} dB" for cell in of_role)
            body.append(("last", ["ours − published", *delta]))
    return _rows(_lambda_heads(cells), body) if body else "<p>No post-filter was measured.</p>"


def _lambda_heads(cells: Sequence[Cell]) -> list[str]:
    return ["method", *(f"λ = {lam:.3f} (q {PRESETS[lam]})" for lam in sorted({c.lam for c in cells}))]


def _metrics(cells: Sequence[Cell]) -> str:
    body = [
        (
            "ours" if cell.role != PLAIN else "",
            [
                escape(TITLES[cell.role]),
                f"{cell.lam:.3f}",
                shown(cell.row["bpp"], ".4f"),
                *(shown(cell.row[name], NUMBERS[name]) for name in COLUMNS),
            ],
        )
        for cell in cells
    ]
    return _rows(["method", "λ", "bpp", *HEADS.values()], body)


def _fig2(curves: Sequence[Curve], plots: tuple[bytes, bytes]) -> str:
    light, dark = (_data_uri(plot) for plot in plots)
    figure = (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="PSNR over bits per pixel of every codec in the table below"></picture>'
        "<figcaption>Dotted: both layers together. Solid: the additional information alone. Dash-dotted: codecs of one "
        "layer, measured on the same images. Dashed: published figures.</figcaption></figure>"
    )
    rates = bd_rates(curves)
    others = list(next(iter(rates.values()), {}))
    heads = ["BD-rate of", *(f"against {other}" for other in others)]
    body = [
        ("", [escape(name), *(f"{p:+.1f} %" if (p := of[other]) is not None else "–" for other in others)])
        for name, of in rates.items()
    ]
    points = [
        ("", [escape(c.title), escape(setting), f"{rate:.4f}", *(shown(row[n], NUMBERS[n]) for n in COLUMNS)])
        for c in curves
        for (setting, row), rate in zip(c.points, c.rates, strict=True)
    ]
    listed = _rows(["curve", "setting", "bpp", *HEADS.values()], points)
    said = "<p class=soft>Below zero, ours needs fewer bits at equal PSNR; – where the curves share no range.</p>"
    table = _rows(heads, body) + said if others else ""
    return f"{figure}{table}<details><summary>All points</summary>{listed}</details>"


def _fig3(example: Example, sheet: bytes, gain: float) -> str:
    row = noise.rows([example])[0]
    return (
        f'<figure><img src="{_data_uri(sheet)}" alt="Input and output of the post-filter above, their noise below">'
        f"<figcaption>{escape(example.name)}, λ = {example.lam:.3f}: {row['psnr_input']:.2f} dB before, "
        f"{row['psnr_output']:.2f} dB after {escape(example.filter)}. Noise: |x̂ − x|, mean over the channels, "
        f"{gain:g} times as bright. The filter brought {100 * float(str(row['nearer'])):.0f} % of the pixels nearer to "
        f"the original and took {100 * float(str(row['farther'])):.0f} % farther away.</figcaption></figure>"
    )


def _rows(heads: Sequence[str], body: Sequence[tuple[str, Sequence[str]]], kind: str = "") -> str:
    """A table of cells that are HTML already; `body`: class and cells a row."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    lines = [
        f'<tr class="{name}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for name, cells in body
    ]
    thead = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    return f'<div class="wide"><table class="{kind}">{thead}<tbody>{"".join(lines)}</tbody></table></div>'


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
