"""What `bench machine` shows: a report, a table for the README, a plot for each clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secondlook.shared.errors import ConfigError
from secondlook.shared.files import write_atomically
from secondlook.training.machine.measure import SHARES, Measured, ratio

MARKS = "<!-- bench machine -->", "<!-- end of bench machine -->"


def codecs_of(clips: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(row.codec for clip in clips for row in clip.rows))


def judges_of(clips: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(judge for clip in clips for judge in clip.objects))


def table(clips: Sequence[Measured], references: Sequence[str], share: int = 90) -> str:
    """Kilobits a frame at `share` percent of AP50, a row per clip, a column per codec; Markdown.

    `<` and `>`: the curve of that codec lies wholly above or below the share; its end is shown. The last rows compare
    with each of `references`, in the geometric mean of the clips where both curves bracket the share.
    """
    codecs = codecs_of(clips)
    frames = sorted({clip.frames for clip in clips})
    many = str(frames[0]) if len(frames) == 1 else f"{frames[0]} to {frames[-1]}"
    parts = []
    for judge in judges_of(clips):
        objects = sum(clip.objects[judge] for clip in clips)
        parts += [
            f"Kilobits a frame at {share} % of AP50, judge {judge} ({objects} objects), {many} frames a clip:",
            "",
            f"| clip | {' | '.join(codecs)} |",
            f"|---{'|---' * len(codecs)}|",
        ]
        for clip in clips:
            cells = [_cell(clip, codec, judge, share) for codec in codecs]
            width, height = clip.size
            parts.append(f"| {clip.clip}, {width}x{height} | {' | '.join(cells)} |")
        for reference in references:
            found = [ratio(clips, codec, reference, judge, share) for codec in codecs]
            shown = [
                "-" if one is None else f"{one[0]:.2f} ({one[1]} clip{'s' * (one[1] != 1)})" for one in found
            ]
            parts.append(f"| against {reference} | {' | '.join(shown)} |")
        times = [
            sorted(row.encode_cpu_ms for clip in clips for row in clip.rows if row.codec == c) for c in codecs
        ]
        shown = [f"{one[len(one) // 2]:.1f}" for one in times]
        parts += [f"| encoding, CPU ms a frame, median | {' | '.join(shown)} |", ""]
    return "\n".join(parts).rstrip()


def _cell(clip: Measured, codec: str, judge: str, share: float) -> str:
    bits = clip.bits_at(codec, judge, share)
    if bits is not None:
        return f"{bits:.2f}"
    curve = [row for row in clip.curve(codec, judge) if row.ap50 == row.ap50]
    if not curve or not clip.objects[judge]:
        return "-"
    return f"< {curve[0].kbit:.2f}" if curve[-1].ap50 >= share else f"> {curve[-1].kbit:.2f}"


def report(clips: Sequence[Measured], references: Sequence[str]) -> str:
    """The tables at every share, and the standard errors of the points near 90 %."""
    lines = [table(clips, references, share) + "\n" for share in SHARES]
    errors = [row.ap50_error for clip in clips for row in clip.rows if 80 <= row.ap50 <= 97]
    if errors:
        middle = sorted(errors)[len(errors) // 2]
        lines.append(f"Standard error of AP50 over frames, points between 80 and 97: median {middle:.1f}")
    return "\n".join(lines)


def write_table(clips: Sequence[Measured], references: Sequence[str], path: Path) -> None:
    """Put the table between the marks of a Markdown file. Raises ConfigError where they are missing."""
    put_between(path, MARKS, table(clips, references))


def put_between(path: Path, marks: tuple[str, str], made: str) -> None:
    """Put a text in place of what is between two lines of a file. Raises ConfigError where they are missing."""
    text = path.read_text()
    before, found, rest = text.partition(marks[0])
    _, ended, after = rest.partition(marks[1])
    if not found or not ended:
        raise ConfigError(f"{path} has no lines {marks[0]} and {marks[1]}")
    write_atomically(path, f"{before}{marks[0]}\n{made}\n{marks[1]}{after}".encode())


def plot(clips: Sequence[Measured], folder: Path) -> list[Path]:
    """One PNG for each clip: AP50 over kilobits a frame, a panel for each judge. Returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for clip in clips:
        judges = [judge for judge in judges_of(clips) if clip.objects[judge]]
        if not judges:
            continue
        figure, panels = pyplot.subplots(1, len(judges), figsize=(6 * len(judges), 4.5), squeeze=False)
        for axes, judge in zip(panels[0], judges, strict=True):
            for number, codec in enumerate(codecs_of([clip])):
                curve = clip.curve(codec, judge)
                style = "-" if number < 10 else "--"
                axes.errorbar(
                    [row.kbit for row in curve],
                    [row.ap50 for row in curve],
                    yerr=[row.ap50_error for row in curve],
                    fmt=f"o{style}",
                    ms=3,
                    lw=1,
                    elinewidth=0.5,
                    label=codec,
                )
            axes.axhline(90, color="0.7", lw=0.8)
            axes.set(
                xscale="log",
                xlabel="kilobits a frame, of real bytes",
                ylabel="AP50 against the uncompressed frames (%)",
                title=f"{clip.clip}, {clip.size[0]}x{clip.size[1]}, judge {judge}",
            )
            axes.grid(alpha=0.3)
        panels[0][0].legend(fontsize=7)
        figure.tight_layout()
        files.append(folder / f"{clip.clip}.png")
        figure.savefig(files[-1], dpi=110)
        pyplot.close(figure)
    return files
