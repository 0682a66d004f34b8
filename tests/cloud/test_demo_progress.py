"""The line that tells how a demo does: a bar that never goes back, and fits the terminal."""

from __future__ import annotations

from secondlook.cloud.demo.edgestatus import EdgeTotals
from secondlook.cloud.demo.progress import Progress, line_of
from secondlook.cloud.demo.report import Counts


def counts(
    detected: int, created: int = 0, refined: int = 0, dropped: int = 0, expired: int = 0, settled: int = 0
) -> Counts:
    return Counts(detected, 0, dropped, created, refined, settled, expired)


def test_the_bar_counts_frames_and_reviews_and_never_goes_back() -> None:
    progress, running = Progress(10), EdgeTotals(captured=5, source="running")
    seen = [
        progress.share(running, one)
        for one in (counts(0), counts(5), counts(6, created=5), counts(8, created=5, refined=5, dropped=2))
    ]
    assert seen == [0.0, 0.5, 0.5, 1.0]


def test_no_bar_until_the_number_of_frames_is_known() -> None:
    progress = Progress(None)
    assert progress.shown(EdgeTotals(captured=3, source="running"), counts(1), None).startswith("captured 3")
    ended = EdgeTotals(captured=4, source="ended")
    assert progress.shown(ended, counts(1), None).startswith("[#####...............]  25%  captured 4")
    assert progress.share(EdgeTotals(captured=0, source="ended"), counts(0)) == 1.0


def test_the_line_fits_the_terminal() -> None:
    edge = EdgeTotals(captured=3, source="running", bytes_base=12_345_678)
    whole = Progress(9).shown(edge, counts(3, created=1, expired=1, dropped=2), None)
    assert "1 expired  2 dropped  base 12.3 MB" in whole
    assert "of 3  2 settled  1 expired" in line_of(edge, counts(3, created=3, settled=2, expired=1))
    cut = Progress(9).shown(edge, counts(3, created=1, expired=1, dropped=2), 79)
    assert len(cut) == 79 and cut.endswith("…") and whole.startswith(cut[:-1])
    assert line_of(edge, counts(0)) in Progress(9).shown(edge, counts(0), None)
