"""What the page of figures is answered with: a person's day, agreement, the detector's precision."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from secondlook.cloud.catalogue import Stage, VerdictKind


class PersonsFrames(BaseModel):
    reviewer: str
    frames: int


class Day(BaseModel):
    """What one person judged since an instant, by default midnight of the reader."""

    reviewer: str
    since: datetime
    frames: int
    verdicts: dict[VerdictKind, int]
    undone: int
    seconds_a_frame: float | None = Field(description="The median, pauses of five minutes and more left out.")
    frames_an_hour: float | None = Field(description="At that pace, pauses left out.")
    hours: list[int] = Field(description="Frames in each of 24 hours.")
    days: list[int] = Field(description="Frames on each of 14 days, the last of them this one.")
    team: list[PersonsFrames] = Field(description="Everybody's frames since then.")


class AgreementFacts(BaseModel):
    label: str = Field(description="A class; empty for frames without a box.")
    items: int = Field(description="Boxes, drawn objects and frames without a box that two people judged.")
    alike: int
    kappa: float | None = Field(description="Cohen's; null where both always gave the same answer.")


class PersonsMarks(BaseModel):
    reviewer: str
    doubles: int = Field(description="Frames in double review that are decided and that this person judged.")
    upheld: int = Field(description="Those of them that were decided as this person said.")
    known: int = Field(description="Known frames judged.")
    known_right: int
    precision: float | None = Field(description="Of the objects said to be in known frames, how many are.")
    recall: float | None = Field(description="Of the objects in known frames, how many were found.")


class AgreementReport(BaseModel):
    stages: dict[Stage, int] = Field(description="Frames in double review, by how far they are.")
    overall: AgreementFacts
    classes: list[AgreementFacts]
    known_frames: int
    people: list[PersonsMarks]


class PrecisionFacts(BaseModel):
    name: str
    judged: int
    right: int
    precision: float


class Counted(BaseModel):
    name: str
    count: int


class Band(BaseModel):
    """A band of scores that halves the boxes to be looked at and misses no object more."""

    low: float
    high: float
    load: int = Field(description="Judged boxes with a score in the band.")
    load_now: int = Field(description="Those in the present band.")
    missed: int = Field(description="Right ones of the present band that lie below this one.")
    above: int = Field(description="Those that would count as found without a look.")
    wrong: int = Field(description="Those of them that people found wrong.")


class DetectorReport(BaseModel):
    judged: int
    right: int
    classes: list[PrecisionFacts]
    cameras: list[PrecisionFacts]
    scores: list[PrecisionFacts] = Field(description="By tenths of the score.")
    missed: list[Counted] = Field(description="Objects that people drew, by class.")
    doubt: tuple[float, float] = Field(description="Scores that are reviewed for doubt now.")
    band: Band | None = Field(description="Null where nothing of the present band was judged.")
