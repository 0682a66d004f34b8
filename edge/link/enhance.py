"""Answers enhancement requests: which layer to load next, and which chunks may go out. No disk, no socket.

Requests wait by priority, then by arrival. Few are answered at once, so that few layers are in memory; each
answer keeps at most four chunks beyond what the gateway has confirmed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from secondlook.shared.crop import Crop
from secondlook.shared.packet import (
    MAX_CHUNK_BYTES,
    MAX_OUTSTANDING_CHUNKS,
    Chunk,
    ChunkCredit,
    CropRequest,
    EnhancementRequest,
    Refusal,
)

_MAX_ANSWERS = 2

Layer = bytes | Literal["expired", "unknown"]
# What the spool keeps of a frame, and the crop that is wanted -> the enhancement to send.
Finish = Callable[[bytes, Crop | None], bytes]


def crop_of(request: EnhancementRequest) -> Crop | None:
    """The crop of the frame that is wanted; None for all of it."""
    if isinstance(request, CropRequest):
        return Crop(request.left, request.top, request.right, request.bottom)
    return None


@dataclass
class _Answer:
    """A layer on its way: sent up to `sent`, confirmed up to `confirmed`."""

    request: EnhancementRequest
    layer: bytes
    crc32: int
    sent: int = 0
    confirmed: int = 0
    unconfirmed: list[int] = field(default_factory=list)  # where the chunks end that are on their way


class Responder:
    """The requests of one control connection. Deadlines, and so `now_ns`, are in the gateway's clock."""

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._waiting: dict[int, EnhancementRequest] = {}  # by request id, in order of arrival
        self._answers: dict[int, _Answer] = {}
        self._sent_whole: dict[int, _Answer] = {}  # without their layers; the last confirmation is awaited

    def connected(self) -> None:
        """A new connection: the gateway will repeat what it still wants."""
        self._waiting.clear()
        self._answers.clear()
        self._sent_whole.clear()

    def request(self, request: EnhancementRequest) -> Refusal | None:
        """Take in a request; a repeated one starts its answer again. A refusal if there is no room."""
        self._answers.pop(request.request_id, None)
        self._sent_whole.pop(request.request_id, None)
        if request.request_id not in self._waiting and len(self._waiting) >= self._max_requests:
            return Refusal(request.request_id, "busy")
        self._waiting[request.request_id] = request
        return None

    def confirm(self, credit: ChunkCredit) -> EnhancementRequest | None:
        """Take in how far an answer has arrived; one that begins further on skips what is there. Returns its
        request once the whole layer has arrived."""
        whole = self._sent_whole.get(credit.request_id)
        if whole is not None and credit.offset >= whole.sent:
            return self._sent_whole.pop(credit.request_id).request
        answer = self._answers.get(credit.request_id)
        if answer is not None:
            answer.confirmed = max(answer.confirmed, min(credit.offset, len(answer.layer)))
            answer.sent = max(answer.sent, answer.confirmed)
            answer.unconfirmed = [end for end in answer.unconfirmed if end > answer.confirmed]
            if answer.confirmed == len(answer.layer):
                return self._answers.pop(credit.request_id).request
        return None

    def expire(self, now_ns: int) -> list[Refusal]:
        """Drop requests whose deadline has passed, waiting or half answered."""
        open_requests = [*self._waiting.values(), *(answer.request for answer in self._answers.values())]
        late = [request.request_id for request in open_requests if request.deadline_ns <= now_ns]
        for request_id in late:
            self._waiting.pop(request_id, None)
            self._answers.pop(request_id, None)
        return [Refusal(request_id, "expired") for request_id in late]

    @property
    def is_answering(self) -> bool:
        """Whether a layer, or a part of one, has still to go out."""
        return bool(self._answers)

    @property
    def has_requests(self) -> bool:
        """Whether a request is open, whose deadline may pass."""
        return bool(self._waiting or self._answers)

    def next_load(self) -> EnhancementRequest | None:
        """The request whose layer to load now, if there is room for another answer."""
        if not self._waiting or len(self._answers) >= _MAX_ANSWERS:
            return None
        return max(self._waiting.values(), key=lambda request: request.priority)

    def loaded(self, request: EnhancementRequest, layer: Layer) -> Refusal | None:
        """What was found for `request`: its layer, or why there is none, which becomes a refusal."""
        del self._waiting[request.request_id]
        if not isinstance(layer, bytes):
            return Refusal(request.request_id, layer)
        self._answers[request.request_id] = _Answer(request, layer, zlib.crc32(layer))
        return None

    def next_chunk(self, most_bytes: int = MAX_CHUNK_BYTES) -> Chunk | None:
        """The next chunk that may go out, of at most so many bytes. It stays next until `sent` says that it went."""
        for request_id, answer in self._answers.items():
            if answer.sent < len(answer.layer) and len(answer.unconfirmed) < MAX_OUTSTANDING_CHUNKS:
                part = answer.layer[answer.sent : answer.sent + min(most_bytes, MAX_CHUNK_BYTES)]
                return Chunk(request_id, answer.sent, len(answer.layer), answer.crc32, part)
        return None

    def sent(self, chunk: Chunk) -> None:
        """`chunk`, as `next_chunk` gave it, was handed to the socket."""
        answer = self._answers[chunk.request_id]
        answer.sent = chunk.offset + len(chunk.payload)
        answer.unconfirmed.append(answer.sent)
        if answer.sent == len(answer.layer):
            # Nothing is left to send. Should it get lost with the connection, the gateway asks again.
            del self._answers[chunk.request_id]
            answer.layer = b""
            if len(self._sent_whole) >= self._max_requests:
                self._sent_whole.pop(next(iter(self._sent_whole)))
            self._sent_whole[chunk.request_id] = answer
