"""The answers to enhancement requests, without disk or socket."""

from __future__ import annotations

import zlib

import pytest

from secondlook.edge.link.enhance import Responder
from secondlook.shared.packet import MAX_CHUNK_BYTES, ChunkCredit, EnhancementRequest, Refusal

BOOT = "a" * 32
LAYER = bytes(range(251)) * 2000  # 502,000 bytes: eight chunks


def ask(number: int, *, priority: int = 50, deadline_ns: int = 100) -> EnhancementRequest:
    return EnhancementRequest(number, BOOT, number, deadline_ns, priority)


def load(responder: Responder, layer: bytes = LAYER) -> EnhancementRequest:
    request = responder.next_load()
    assert request is not None
    assert responder.loaded(request, layer) is None
    return request


def drain(responder: Responder) -> list[tuple[int, int]]:
    """Send all that may be sent: (request, offset) of each chunk."""
    went = []
    while (chunk := responder.next_chunk()) is not None:
        assert (chunk.total, chunk.crc32) == (len(LAYER), zlib.crc32(LAYER))
        assert LAYER[chunk.offset :].startswith(chunk.payload)
        responder.sent(chunk)
        went.append((chunk.request_id, chunk.offset))
    return went


def test_four_chunks_go_ahead_of_the_confirmed_offset() -> None:
    responder = Responder(8)
    assert responder.request(ask(1)) is None
    load(responder)
    assert drain(responder) == [(1, n * MAX_CHUNK_BYTES) for n in range(4)]
    responder.confirm(ChunkCredit(1, MAX_CHUNK_BYTES))
    assert drain(responder) == [(1, 4 * MAX_CHUNK_BYTES)]
    responder.confirm(ChunkCredit(1, 5 * MAX_CHUNK_BYTES))
    assert drain(responder) == [(1, n * MAX_CHUNK_BYTES) for n in range(5, 8)]
    assert responder.expire(10**6) == [], "an answer that is all sent is over"


def test_a_chunk_stays_next_until_it_went() -> None:
    responder = Responder(8)
    responder.request(ask(1))
    load(responder)
    assert responder.next_chunk() == responder.next_chunk()


def test_requests_are_loaded_by_priority_and_few_at_once() -> None:
    responder = Responder(8)
    for number, priority in ((1, 10), (2, 90), (3, 10)):
        responder.request(ask(number, priority=priority))
    assert [load(responder).request_id, load(responder).request_id] == [2, 1]
    assert responder.next_load() is None


def test_too_many_requests_are_busy() -> None:
    responder = Responder(2)
    assert [responder.request(ask(number)) for number in (1, 2, 3)] == [None, None, Refusal(3, "busy")]
    assert responder.request(ask(1)) is None, "one that waits already may be repeated"


@pytest.mark.parametrize("reason", ["expired", "unknown"])
def test_what_the_spool_lacks_is_refused(reason: str) -> None:
    responder = Responder(8)
    responder.request(ask(1))
    request = responder.next_load()
    assert request is not None
    assert responder.loaded(request, reason) == Refusal(1, reason)
    assert responder.next_load() is None


def test_deadlines_end_waiting_and_half_answered_requests() -> None:
    responder = Responder(8)
    responder.request(ask(1))
    load(responder)
    responder.request(ask(2))
    responder.request(ask(3, deadline_ns=500))
    assert responder.expire(99) == []
    assert set(responder.expire(100)) == {Refusal(1, "expired"), Refusal(2, "expired")}
    assert responder.next_chunk() is None
    assert load(responder).request_id == 3


def test_a_repeated_request_starts_again_and_credit_moves_it_forward() -> None:
    responder = Responder(8)
    responder.request(ask(1))
    load(responder)
    drain(responder)
    responder.request(ask(1))
    load(responder)
    responder.confirm(ChunkCredit(1, 6 * MAX_CHUNK_BYTES))
    assert drain(responder) == [(1, n * MAX_CHUNK_BYTES) for n in (6, 7)]


def test_a_new_connection_forgets_all() -> None:
    responder = Responder(8)
    responder.request(ask(1))
    load(responder)
    responder.request(ask(2))
    responder.connected()
    assert (responder.next_load(), responder.next_chunk(), responder.expire(10**6)) == (None, None, [])


def test_credit_for_an_unknown_request_is_ignored() -> None:
    Responder(8).confirm(ChunkCredit(5, 1))
