"""`secondlook.Client`: what a station knows, read and followed from a program. `docs/api.md` shows it at work.

Needs the extra `client` (or `cloud`). Instants are aware datetimes; boxes are left, top, right, bottom in pixels of
the frame. Fields that a later station adds are ignored, so an older client goes on working.
"""

from __future__ import annotations

import hashlib
import io
import random
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import httpx
import msgspec
import numpy as np
import numpy.typing as npt

from secondlook.shared.errors import StationUnreachable
from secondlook.stationlink import FIRST_PAUSE, StationLink, check, given, wait

Item = TypeVar("Item")
Box: TypeAlias = tuple[float, float, float, float]
U8Image: TypeAlias = npt.NDArray[np.uint8]

_LONGEST_PAUSE = 15.0  # seconds between two attempts to follow; each is twice the one before
_SILENCE_SECONDS = 45.0  # a stream says something every 15 s, or is dead
_KINDS = ("detection", "tombstone", "review", "verdict", "comment", "camera")


@dataclass(frozen=True, kw_only=True)
class Camera:
    id: str
    name: str
    first_seen_at: datetime
    last_seen_at: datetime
    clock_offset_seconds: float | None
    heard_at: datetime | None = None
    source: str | None = None
    model: str | None = None
    trouble: str | None = None
    waiting_frames: int | None = None
    oldest_waiting_at: datetime | None = None
    reported_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class FrameDetection:
    """A detection as its frame lists it."""

    id: int
    label: str
    score: float
    box: Box
    detector: str
    object_id: int | None


@dataclass(frozen=True, kw_only=True)
class FoundObject(FrameDetection):
    """A detection by itself, with where and when it was."""

    frame_id: int
    camera: str
    captured_at: datetime


@dataclass(frozen=True, kw_only=True)
class Frame:
    id: int
    camera: str
    boot_id: str
    seq: int
    captured_at: datetime
    received_at: datetime
    detected_at: datetime
    width: int
    height: int
    base_bytes: int
    enhancement_bytes: int
    review_id: int | None
    detections: tuple[FrameDetection, ...]
    unseen: str | None = None


@dataclass(frozen=True, kw_only=True)
class Track:
    """One thing over a camera's frames."""

    id: int
    camera: str
    label: str
    score: float
    first_at: datetime
    last_at: datetime
    frames: int
    box: Box


@dataclass(frozen=True, kw_only=True)
class Review:
    id: int
    frame_id: int
    camera: str
    captured_at: datetime
    state: str
    priority: int
    reason: str
    created_at: datetime
    refined_at: datetime | None
    shown_sha256: str | None
    postfilter: str | None
    codec_model: str | None
    why_expired: str | None
    # what the detector said of boxes in doubt when it looked again, as /api/v1/openapi.json describes it
    second_look: dict[str, Any] | None = None
    handed_to: str | None = None
    handed_by: str | None = None
    handed_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Comment:
    """What a person wrote beside a frame. `text` is None once it was deleted, or while one is not to know it."""

    id: int
    review_id: int
    frame_id: int
    camera: str
    captured_at: datetime
    author: str
    text: str | None
    written_at: datetime
    deleted_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    id: int
    review_id: int
    frame_id: int
    camera: str
    captured_at: datetime
    reviewer: str
    verdict: str
    box_index: int | None
    label: str | None
    box: Box | None
    note: str
    shown_sha256: str
    decided_at: datetime
    undone_at: datetime | None
    conflicts_with: int | None


@dataclass(frozen=True, kw_only=True)
class Tombstone:
    """Frames `first_seq` to `last_seq` of one boot, which never came."""

    id: int
    camera: str
    boot_id: str
    first_seq: int
    last_seq: int
    frames: int
    reason: str
    received_at: datetime


@dataclass(frozen=True, kw_only=True)
class PictureFacts:
    layer: str
    sha256: str
    media_type: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened. `what`: stored; created, skipped, settled, refined, handed, ... of a review; given,
    undone of a verdict; given, deleted of a comment; online, silent of a camera.

    `cursor` goes on behind it: keep it, and give it to `Client.follow` as `after`.
    """

    kind: str
    what: str
    at: datetime
    cursor: str = ""
    detection: FoundObject | None = None
    tombstone: Tombstone | None = None
    review: Review | None = None
    verdict: Verdict | None = None
    comment: Comment | None = None
    camera: Camera | None = None


class Pages(Generic[Item]):
    """The rows of a list, fetched page by page as they are used.

    `cursor` goes on behind the last page that was used up: after the end, with what is new by then.
    """

    def __init__(self, client: Client, path: str, kind: type[Item], query: Mapping[str, Any]) -> None:
        self._client, self._path, self._kind, self._query = client, path, kind, query
        self._waiting: Iterator[Item] = iter(())
        self._next: str = query.get("after") or ""
        self._more = True
        self.cursor = self._next

    def __iter__(self) -> Pages[Item]:
        return self

    def __next__(self) -> Item:
        while True:
            for item in self._waiting:
                return item
            self.cursor = self._next
            if not self._more:
                raise StopIteration
            page = self._client._link.json(self._path, {**self._query, "after": self.cursor or None})
            self._next, self._more = page["next"], page["more"]
            self._waiting = iter([_made(self._kind, item) for item in page["items"]])


class Client:
    """A station, by its address and a token (`secondlook tokens new`). For one thread at a time; a `with` closes it.

    Reading is tried again where the way breaks. Errors are StationUnreachable where nothing answers, StationRefused
    where the station says no, with its `status` and its words.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        timeout_seconds: float = 30.0,
        ca_file: str | Path | None = None,
    ) -> None:
        """`address`: as browsers reach it, with the folder of a proxy if there is one. `ca_file`: who signed its
        certificate, if that is nobody the system knows. Raises ConfigError."""
        self._link = StationLink(
            address, token, base="/api/v1", timeout_seconds=timeout_seconds, ca_file=ca_file
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._link.close()

    # --- lists

    def cameras(self) -> list[Camera]:
        """All camera hosts."""
        return [_made(Camera, item) for item in self._link.json("/cameras")["items"]]

    def frames(
        self,
        *,
        camera: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        label: str | None = None,
        min_score: float | None = None,
        max_score: float | None = None,
        state: str | None = None,
        unseen: bool | None = None,
        newest_first: bool = False,
        after: str | None = None,
    ) -> Pages[Frame]:
        """Stored frames, captured from `since` on and before `until`; with a detection of that class and score.

        `unseen`: those alone that no machine looked at, or, False, those that one did.
        """
        query = {
            "label": label,
            "min_score": min_score,
            "max_score": max_score,
            "state": state,
            "unseen": unseen,
        }
        return self._pages("/frames", Frame, query, camera, since, until, newest_first, after)

    def detections(
        self,
        *,
        camera: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        label: str | None = None,
        min_score: float | None = None,
        max_score: float | None = None,
        object_id: int | None = None,
        newest_first: bool = False,
        after: str | None = None,
    ) -> Pages[FoundObject]:
        """What machines found."""
        query = {"label": label, "min_score": min_score, "max_score": max_score, "object": object_id}
        return self._pages("/detections", FoundObject, query, camera, since, until, newest_first, after)

    def objects(
        self,
        *,
        camera: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        label: str | None = None,
        min_score: float | None = None,
        max_score: float | None = None,
        newest_first: bool = False,
        after: str | None = None,
    ) -> Pages[Track]:
        """Things that cameras had in view between `since` and `until`, each over its frames."""
        query = {"label": label, "min_score": min_score, "max_score": max_score}
        return self._pages("/objects", Track, query, camera, since, until, newest_first, after)

    def reviews(
        self,
        *,
        camera: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        label: str | None = None,
        state: str | None = None,
        handed_to: str | None = None,
        newest_first: bool = False,
        after: str | None = None,
    ) -> Pages[Review]:
        """Frames that people are to see; `state`: due, leased, ready, expired, settled, skipped or decided."""
        query = {"label": label, "state": state, "handed_to": handed_to}
        return self._pages("/reviews", Review, query, camera, since, until, newest_first, after)

    def verdicts(
        self,
        *,
        camera: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        label: str | None = None,
        verdict: str | None = None,
        reviewer: str | None = None,
        standing: bool | None = None,
        newest_first: bool = False,
        after: str | None = None,
    ) -> Pages[Verdict]:
        """What people said; `standing=True` leaves out what was taken back."""
        query = {"label": label, "verdict": verdict, "reviewer": reviewer, "standing": standing}
        return self._pages("/verdicts", Verdict, query, camera, since, until, newest_first, after)

    def tombstones(
        self,
        *,
        camera: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        reason: str | None = None,
        newest_first: bool = False,
        after: str | None = None,
    ) -> Pages[Tombstone]:
        """Frames that were dropped, and why; here `since` and `until` are of when the gateway heard of it."""
        query = {"reason": reason}
        return self._pages("/tombstones", Tombstone, query, camera, since, until, newest_first, after)

    def comments(
        self,
        *,
        camera: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        author: str | None = None,
        review_id: int | None = None,
        newest_first: bool = False,
        after: str | None = None,
    ) -> Pages[Comment]:
        """What people wrote beside frames."""
        query = {"author": author, "review": review_id}
        return self._pages("/comments", Comment, query, camera, since, until, newest_first, after)

    # --- single things

    def frame(self, frame_id: int) -> Frame:
        """One frame with its detections."""
        return _made(Frame, self._link.json(f"/frames/{int(frame_id)}"))

    def review(self, review_id: int) -> Review:
        """One review."""
        return _made(Review, self._link.json(f"/reviews/{int(review_id)}"))

    def pictures(self, frame_id: int) -> list[PictureFacts]:
        """The pictures that there are of a frame, with the hashes of their files."""
        listed = self._link.json(f"/frames/{int(frame_id)}/pictures")["items"]
        return [_made(PictureFacts, item) for item in listed]

    def picture(self, frame_id: int, name: str = "base") -> U8Image:
        """A picture, uint8[H,W,3] RGB: of the layer base, enhanced, refined or thumb, or by the hash of its file."""
        from PIL import Image

        with Image.open(io.BytesIO(self.picture_file(frame_id, name))) as opened:
            return np.asarray(opened.convert("RGB"))

    def picture_file(self, frame_id: int, name: str = "base") -> bytes:
        """The file of a picture, WebP or PNG, checked against its hash. Raises StationUnreachable where it is cut."""
        answer = self._link.request("GET", f"/frames/{int(frame_id)}/pictures/{name}")
        told = answer.headers.get("x-content-sha256")
        if hashlib.sha256(answer.content).hexdigest() != told:
            raise StationUnreachable(f"the picture {name} of frame {frame_id} came damaged")
        return answer.content

    # --- writing

    def give_verdict(
        self,
        review_id: int,
        verdict: str,
        *,
        shown_sha256: str,
        box_index: int | None = None,
        label: str | None = None,
        box: Box | None = None,
        note: str = "",
        reviewer: str | None = None,
    ) -> Verdict:
        """Say what is in a frame; `shown_sha256` is the hash of the picture that was looked at.

        Sent again where the way breaks, and counted once. `reviewer` is for stations without users alone.
        """
        body = {
            "verdict": verdict,
            "shown_sha256": shown_sha256,
            "box_index": box_index,
            "label": label,
            "box": box,
            "note": note,
            "reviewer": reviewer,
            "idempotency_key": uuid.uuid4().hex,
        }
        return _made(
            Verdict, self._link.request("POST", f"/reviews/{int(review_id)}/verdicts", body=body).json()
        )

    def undo_verdict(self, verdict_id: int, *, reviewer: str | None = None) -> Verdict:
        """Take back a verdict of one's own."""
        body = {"reviewer": reviewer}
        return _made(
            Verdict, self._link.request("POST", f"/verdicts/{int(verdict_id)}/undo", body=body).json()
        )

    def give_comment(self, review_id: int, text: str, *, reviewer: str | None = None) -> Comment:
        """Write something beside a frame. One's last words on it, sent again, count once."""
        body = {"text": text, "reviewer": reviewer}
        return _made(
            Comment, self._link.request("POST", f"/reviews/{int(review_id)}/comments", body=body).json()
        )

    def delete_comment(self, comment_id: int, *, reviewer: str | None = None) -> Comment:
        """Take the text of a comment of one's own away."""
        body = {"reviewer": reviewer}
        return _made(
            Comment, self._link.request("POST", f"/comments/{int(comment_id)}/delete", body=body).json()
        )

    def hand_over(
        self, review_id: int, to: str | None, *, comment: str = "", reviewer: str | None = None
    ) -> Review:
        """Have one colleague judge a frame, or, without one, whoever comes first."""
        body = {"to": to, "comment": comment, "reviewer": reviewer}
        return _made(
            Review, self._link.request("POST", f"/reviews/{int(review_id)}/handover", body=body).json()
        )

    # --- following

    def follow(
        self,
        *,
        kinds: Iterable[str] = (),
        camera: str | None = None,
        labels: Iterable[str] = (),
        min_score: float | None = None,
        after: str = "now",
        stop: threading.Event | None = None,
    ) -> Iterator[Event]:
        """What happens, each event once, for ever: where the way breaks it goes on from the event before.

        `kinds`: detection, tombstone, review, verdict, comment (none named: these), and camera, which tells of each
        camera as it is and then of its changes, and goes by no cursor; `labels` and `min_score` narrow detections.
        `after`: "now", "start" or the `cursor` of an event. `stop` ends it within a moment after the next sign of the
        station, which comes every 15 s at the latest. Raises StationRefused where the station says no.
        """
        query = {"kind": list(kinds), "camera": camera, "label": list(labels), "min_score": min_score}
        pause, cursor = FIRST_PAUSE, after
        states: dict[str, str] = {}  # a stream that begins again tells of each camera again
        while stop is None or not stop.is_set():
            try:
                for name, place, data in self._stream(given({**query, "after": cursor})):
                    pause, cursor = FIRST_PAUSE, place
                    if stop is not None and stop.is_set():
                        return
                    if name not in _KINDS:
                        continue
                    event = _made(Event, {**msgspec.json.decode(data), "cursor": cursor})
                    if event.camera is not None and states.get(event.camera.id) == event.what:
                        continue
                    if event.camera is not None:
                        states[event.camera.id] = event.what
                    yield event
            except StationUnreachable:
                pass
            wait(random.uniform(pause / 2, pause), stop)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _stream(self, query: dict[str, Any]) -> Iterator[tuple[str, str, bytes]]:
        """Name, id and data of each event until the stream ends; one that was cut in the middle is left out."""
        timeout = httpx.Timeout(self._link.timeout_seconds, read=_SILENCE_SECONDS)
        try:
            with self._link.http.stream("GET", "/events", params=query, timeout=timeout) as answer:
                if answer.status_code != 200:
                    answer.read()
                    check(answer)
                held = b""
                for part in answer.iter_raw():
                    *whole, held = (held + part).split(b"\n\n")
                    for event in whole:
                        fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
                        yield fields[b"event"].decode(), fields[b"id"].decode(), fields[b"data"]
        except httpx.TransportError as error:
            raise self._link.unreached(error) from error

    # --- requests

    def _pages(
        self,
        path: str,
        kind: type[Item],
        query: Mapping[str, Any],
        camera: str | None,
        since: datetime | None,
        until: datetime | None,
        newest_first: bool,
        after: str | None,
    ) -> Pages[Item]:
        common = {
            "camera": camera,
            "since": None if since is None else since.isoformat(),
            "until": None if until is None else until.isoformat(),
            "order": "newest" if newest_first else None,
            "after": after,
            "limit": 500,
        }
        return Pages(self, path, kind, {**query, **common})


def _made(kind: type[Item], data: object) -> Item:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise StationUnreachable(f"the station's answer is not understood: {error}") from error
