"""What a run tells while it learns: JSON lines, a CSV file beside the checkpoint, TensorBoard where it is wanted, and
on a terminal a bar with the time that is left."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2

from secondlook.shared.errors import ConfigError
from secondlook.training.data import U8

FIRST_COLUMNS = ("step", "seconds")


class RunLog:
    """A context around the steps of one run.

    `work/NAME.csv` has a row for each call of `tell`; a run that is resumed goes on below the rows up to its step, and
    those after it, which were lost with it, are left out. `work/samples/NAME-STEP.png` are what `picture` was given.
    """

    def __init__(
        self,
        work: Path,
        name: str,
        *,
        minutes: float,
        steps: int = 0,
        start: int = 0,
        tensorboard: bool = False,
    ) -> None:
        """`steps`: at which the run ends, 0 where `minutes` alone end it. `start`: steps taken before.

        Raises ConfigError where TensorBoard is wanted and not installed.
        """
        self._name, self._work = name, work
        self._minutes, self._steps, self._start = minutes, steps, start
        self._began = time.monotonic()
        self._path = work / f"{name}.csv"
        self._rows = _rows_up_to(self._path, start)
        self._columns = list(self._rows[0]) if self._rows else list(FIRST_COLUMNS)
        self._board = _open_board(work / "tensorboard" / name, start) if tensorboard else None
        self._bar = _open_bar(name)

    def __enter__(self) -> RunLog:
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._board is not None:
            self._board.close()

    def tell(self, step: int, figures: Mapping[str, float | str]) -> None:
        """A line of figures, rounded to 6 digits."""
        line = {
            name: round(value, 6) if isinstance(value, float) else value for name, value in figures.items()
        }
        self.say({"step": step, **line})
        row = {"step": step, "seconds": round(time.monotonic() - self._began, 1), **line}
        self._rows.append({name: str(value) for name, value in row.items()})
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            self._write()
        else:
            with self._path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)
        for name, value in line.items():
            if self._board is not None and isinstance(value, float | int):
                self._board.add_scalar(name, value, step)

    def say(self, line: Any) -> None:
        """A JSON line on standard output alone."""
        text = json.dumps(line)
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text, file=sys.stdout)

    def picture(self, step: int, rgb: U8) -> None:
        """Keep a sample uint8[H,W,3]: what the model makes of a validation picture by now."""
        folder = self._work / "samples"
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{self._name}-{step:07d}.png"), rgb[:, :, ::-1])
        if self._board is not None:
            self._board.add_image("sample", rgb, step, dataformats="HWC")

    def advance(self, step: int) -> None:
        """Move the bar: by the steps or by the time, whichever ends the run sooner."""
        if self._bar is None:
            return
        by_time = (time.monotonic() - self._began) / (60 * self._minutes)
        left = max(self._steps - self._start, 1)
        by_steps = (step - self._start) / left if self._steps else 0.0
        self._bar.n = round(min(max(by_time, by_steps), 1.0), 4)
        self._bar.set_postfix_str(f"step {step}", refresh=False)
        self._bar.update(0)

    def _write(self) -> None:
        with self._path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, lineterminator="\n", restval="")
            writer.writeheader()
            writer.writerows(self._rows)


def _rows_up_to(path: Path, step: int) -> list[dict[str, str]]:
    """The rows of an earlier run that its checkpoint holds the steps of; none where the run starts anew."""
    if step == 0 or not path.is_file():
        return []
    with path.open(newline="") as file:
        return [
            row
            for row in csv.DictReader(file)
            if (row.get("step") or "").isdigit() and int(row["step"]) <= step
        ]


def _open_board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(f"--tensorboard: {error}; pip install tensorboard") from error
    return SummaryWriter(str(folder), purge_step=step or None)  # type: ignore[no-untyped-call]


def _open_bar(name: str) -> Any:
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    layout = "{desc} {percentage:3.0f} % |{bar}| {elapsed} spent, {remaining} left{postfix}"
    return tqdm(total=1.0, desc=name, bar_format=layout, file=sys.stderr)
