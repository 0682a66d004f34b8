"""Every packet that `parse` accepts, its fields at their bounds, on its whole way: intake, worker, refiner, catalogue,
station. Nothing but our own errors is raised, no frame dies of an error that is not ours, and `stats` can be packed.

Everything but sockets is real; frames are decoded to plain pictures of the size that their packet announces.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secondlook.cloud.catalogue import open_catalogue
from secondlook.cloud.config import BrokerConfig, CloudConfig, RefinerConfig, WorkerConfig
from secondlook.cloud.gateway.broker import Broker
from secondlook.cloud.gateway.intake import Intake
from secondlook.cloud.gateway.ratelimit import RateLimits
from secondlook.cloud.station import export, queries, schema
from secondlook.cloud.station.choice import STATES, ReviewChoice
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.storage.queue import Leased
from secondlook.cloud.storage.stores import open_stores
from secondlook.cloud.workers.broker_client import BrokerClient, _named_error, _open
from secondlook.cloud.workers.machine import MachineWorker
from secondlook.cloud.workers.policy import PolicyConfig
from secondlook.cloud.workers.refiner import Refiner
from secondlook.shared import errors
from secondlook.shared import packet as p
from secondlook.shared.errors import SecondlookError
from secondlook.shared.packet import (
    BOOT_ID,
    MAX_BASE_BYTES,
    MAX_ENHANCEMENT_BYTES,
    MAX_SEQ,
    SHA256,
)
from secondlook.shared.packetfields import AscendingRanges, OneOf, Payload, TextOf, Whole, Wholes
from tests.cloud.helpers import BOOT, Brighter, OneBox

RATES = RateLimits(packets_per_second=1e9, bytes_per_second=1e12)
STEP_SECONDS = 100_000.0  # from one example to the next: leases and deadlines run out meanwhile
MAX_PICTURE_PIXELS = WorkerConfig().max_pixels
OURS = {name for name in vars(errors) if isinstance(getattr(errors, name), type)}
IN_ORDER: dict[type[p.Packet], list[tuple[str, str]]] = {
    p.Hello: [("oldest_seq", "next_seq")],
    p.BaseFrame: [("key_seq", "seq")],
    p.Tombstone: [("first_seq", "last_seq")],
    p.CropRequest: [("left", "right"), ("top", "bottom")],
}
WORDS = ["", "yard", "\u00e9" * 200, "\U0001f600" * 200, "a'b\"c\\d%s{}", "-- ", "e\u0301"]
LAYERS = [b"x", b"grey\x07", bytes(300), b"\xff" * 70_000]


def values_of(check: Any) -> st.SearchStrategy[Any]:
    """What a field takes, its bounds first of all."""
    if isinstance(check, Whole):
        ends = [check.low, check.low + 1, check.high - 1, check.high]
        found: st.SearchStrategy[Any] = st.sampled_from(ends) | st.integers(check.low, check.high)
        return st.none() | found if check.optional else found
    if isinstance(check, OneOf):
        return st.sampled_from(check.choices)
    if isinstance(check, Payload):
        return st.sampled_from(LAYERS).map(lambda layer: layer[: check.most])
    if isinstance(check, Wholes):
        ends = st.sampled_from([check.low, check.low + 1, check.high]) | st.integers(check.low, check.high)
        return st.lists(ends, min_size=check.least, max_size=check.most)
    if isinstance(check, AscendingRanges):
        return st.sampled_from([(), ((2, 3), (MAX_SEQ, MAX_SEQ))])
    assert isinstance(check, TextOf)
    if check.pattern is None:
        return st.sampled_from(WORDS)
    is_hex = check.pattern in (BOOT_ID, SHA256)
    letters = "0123456789abcdef" if is_hex else "abz09-"
    shortest = check.most if is_hex else 1
    return st.sampled_from(["a" * check.most, (2 * BOOT)[: check.most]]) | st.text(
        letters, min_size=shortest, max_size=check.most
    )


@st.composite
def packets(draw: st.DrawFn, kind: type[p.Packet]) -> p.Packet:
    """A packet of this kind. Whatever can be constructed is what `parse` accepts."""
    checks = {name: check for name, (_, check) in p._CHECKS[kind].items()}
    values = {name: draw(values_of(check)) for name, check in checks.items()}
    for low, high in IN_ORDER.get(kind, ()):
        if None not in (values[low], values[high]) and values[low] > values[high]:
            values[low], values[high] = values[high], values[low]
    if kind is p.LeanFrame or (kind is p.BaseFrame and values["key_seq"] == values["seq"]):
        values["key_seq"] = None
    if kind is p.CropRequest:
        values["left"] -= values["left"] == values["right"]
        values["top"] -= values["top"] == values["bottom"]
    if kind is p.FrameRun:
        _make_consistent(values, draw(st.sampled_from(LAYERS)))
    if kind is p.Chunk:
        values["offset"] = min(values["offset"], MAX_ENHANCEMENT_BYTES - len(values["payload"]))
        values["total"] = max(values["total"], values["offset"] + len(values["payload"]))
    if kind is p.Ack and values["selective"]:
        values["cumulative"] = min(values["cumulative"], values["selective"][0][0] - 2)
    return kind._of_members(values)


def _make_consistent(run: dict[str, Any], layer: bytes) -> None:
    """Cut lists, sizes and times to one run of frames."""
    count = min(len(run["offsets_ns"]) + 1, len(run["enhancement_bytes"]), len(run["sizes"]))
    run["sizes"] = [min(size, len(layer)) for size in run["sizes"][:count]]
    if count < 2:
        count, run["sizes"], run["enhancement_bytes"] = 2, [1, len(layer)], [0, 1]
    run["offsets_ns"], run["enhancement_bytes"] = (
        run["offsets_ns"][: count - 1],
        run["enhancement_bytes"][:count],
    )
    if run["captured_ns"] + sum(run["offsets_ns"]) > p.MAX_NS:
        run["captured_ns"], run["offsets_ns"] = p.MAX_NS, [0] * (count - 1)
    run["first_seq"] = min(max(1, run["first_seq"]), MAX_SEQ - count + 1)
    run["key_seq"] = min(run["key_seq"], run["first_seq"] - 1)
    run["payload"] = b"".join(layer[:size] for size in run["sizes"])


class Plain:
    """A codec of any bytes: pictures of the size that was announced for them."""

    model_hash = b"plain123"
    size = (6, 8)

    def decode_base(self, base: bytes, *, key: bytes | None = None) -> np.ndarray:
        return np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (*self.size, 3))

    def decode_enhanced(self, base: bytes, enhancement: bytes, *, key: object = None) -> np.ndarray:
        return self.decode_base(base)


class Direct(BrokerClient):
    """A worker's line to the broker without the sockets, bytes and all."""

    def __init__(self, site: Site) -> None:
        super().__init__(BrokerConfig(address="tcp://127.0.0.1:1"), "w1")
        self._site = site

    def lease(self, n: int, ttl_seconds: float) -> list[Leased]:
        leased = super().lease(1, ttl_seconds)  # one at a time: the codec is told its size
        for item in leased:
            if (
                item.frame.info.height * item.frame.info.width <= MAX_PICTURE_PIXELS
            ):  # the worker refuses larger ones unopened
                self._site.codec.size = (item.frame.info.height, item.frame.info.width)
        return leased

    def _call(self, op: str, **arguments: object) -> Any:
        message = msgpack.packb([1, op, arguments])
        _, well, *result = _open(self._site.broker.answer(message, now=self._site.now))
        if well:
            return result[0]
        assert result[0] in OURS and not str(result[1]).startswith("internal error"), result
        raise _named_error(*result)


class Site:
    """One gateway, one worker of each kind, one station's queries."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self.now = 1_800_000_000.0
        self.stores = open_stores(CloudConfig(data_dir=folder, ledger=url))
        blobs = open_blobs(str(folder / "blobs"))
        stores = self.stores
        limits = CloudConfig().gateway.limits
        self.intake = Intake(stores.ledger, stores.queue, stores.requests, blobs, limits, None, RATES)
        self.broker = Broker(
            stores.queue,
            stores.ledger,
            stores.requests,
            blobs,
            self.intake.connected,
            self.intake.clock_offsets,
        )
        self.codec, self.line = Plain(), Direct(self)
        self.catalogue = open_catalogue(url or f"sqlite:///{folder}/catalogue.db")
        self.machine = MachineWorker(
            self.line,
            self.codec,
            OneBox(),
            self.catalogue,
            blobs,
            PolicyConfig(uncertain_apart_seconds=0, once_per_object=False),
            WorkerConfig(),
            clock=lambda: self.now,
        )
        self.refiner = Refiner(
            "r1",
            self.line,
            self.codec,
            Brighter(),
            self.catalogue,
            blobs,
            RefinerConfig(max_pixels=10_000),
            clock=lambda: self.now,
        )
        self.causes: list[str] = []
        give_back = self.machine._give_back
        self.machine._give_back = lambda item, why: (self.causes.append(why), give_back(item, why))[1]  # type: ignore[method-assign, assignment, func-returns-value]

    def say(self, peer: bytes, packet: p.Packet) -> list[p.Packet]:
        frames = packet.to_frames()
        assert p.parse(frames) == packet
        return self._heard(self.intake.receive(peer, frames, "", now=self.now))

    def settle(self) -> list[p.Packet]:
        return self._heard([*self.intake.flush(now=self.now), *self.intake.tick(now=self.now)])

    @staticmethod
    def _heard(answers: list[tuple[bytes, p.Packet]]) -> list[p.Packet]:
        for _, answer in answers:
            assert p.parse(answer.to_frames()) == answer
        return [answer for _, answer in answers]

    def work(self) -> None:
        """Every frame that can be leased is looked at, and what it calls for is asked for and shown."""
        while self._ours(self.machine.step):
            pass
        self._ours(self.refiner.step)
        for request in self.settle():
            if isinstance(request, p.EnhancementRequest):
                self.say(b"control", p.Chunk(request.request_id, 0, 5, zlib.crc32(b"layer"), b"layer"))
        self._ours(self.refiner.step)
        bad = [cause for cause in self.causes if cause.partition(":")[0] not in OURS]
        assert bad == []

    def _ours(self, work: Callable[[], int]) -> int:
        try:
            return work()
        except SecondlookError:
            return 0

    def look(self) -> None:
        """What operators and reviewers see can be packed and shown."""
        assert self.line.stats()["depth"] >= 0
        self.line.dead(20)
        self.line.tombstones(0)
        self.line.clocks()
        now_ns = int(self.now * 1e9)
        queries.summary(self.catalogue, now_ns=now_ns).model_dump_json()
        for name in STATES:
            for row in queries.list_reviews(self.catalogue, ReviewChoice(name), limit=3, offset=0).reviews:
                schema.ReviewRow.model_dump_json(row)
                queries.review_detail(self.catalogue, row.id).model_dump_json()
        newest = queries.exported_reviews(self.catalogue, decided_only=False)
        "".join(export.coco_parts(itertools.islice(newest, 5), description="all"))

    def close(self) -> None:
        self.line.__exit__(None, None, None)
        self.catalogue.close()
        self.stores.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    url = request.getfixturevalue("postgresql").create("every") if request.param == "postgresql" else None
    site = Site(tmp_path_factory.mktemp("every"), url)
    yield site
    site.close()


UP = [p.BaseFrame, p.BaseFrame, p.LeanFrame, p.FrameRun, p.Tombstone, p.Chunk, p.Refusal, p.Ping]


# An example is a whole way through the site: a third as many as of others, daily and in `make fuzz`.
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=max(20, settings().max_examples // 3))
@given(
    hello=packets(p.Hello),
    said=st.lists(st.tuples(st.booleans(), st.sampled_from(UP).flatmap(packets)), min_size=1, max_size=5),
    odd=st.sampled_from(list(p.KINDS.values())).flatmap(packets),
)
def test_every_packet_goes_its_way_or_is_refused(
    site: Site, hello: p.Hello, said: list[tuple[bool, p.Packet]], odd: p.Packet
) -> None:
    site.now += STEP_SECONDS
    for channel in ("bulk", "control"):
        values = {field.name: getattr(hello, field.name) for field in fields(hello)}
        site.say(channel.encode(), p.Hello(**{**values, "channel": channel}))
    for of_this_boot, packet in said:
        if of_this_boot:
            holder = packet.info if isinstance(packet, p.BaseFrame) else packet
            if hasattr(holder, "boot_id"):
                object.__setattr__(holder, "boot_id", hello.boot_id)
        for peer in (b"bulk", b"control"):
            site.say(peer, packet)
    site.say(b"bulk", odd)
    site.settle()
    site.work()
    site.look()


@pytest.mark.parametrize("at", ["low", "high"])
def test_a_frame_with_every_field_at_its_bound_is_filed_and_shown(site: Site, at: str) -> None:
    """So frames do go all the way."""
    site.now += STEP_SECONDS
    checks = {name: check for name, (_, check) in p._CHECKS[p.BaseFrame].items()}
    values = {name: getattr(check, at) for name, check in checks.items() if isinstance(check, Whole)}
    key = MAX_SEQ - 1 if at == "high" else None
    boot_id = ("1" if at == "low" else "2") * 32
    payload = b"\xff" * (MAX_BASE_BYTES if at == "high" else 1)
    values |= {"boot_id": boot_id, "height": 1, "payload": payload}
    boot = str(values["boot_id"])
    for channel in ("bulk", "control"):
        site.say(channel.encode(), p.Hello("z" * 64, boot, channel, "\U0001f600" * 200, MAX_SEQ, 0, "x"))
    if key is not None:
        site.say(b"bulk", p.BaseFrame._of_members({**values, "seq": key, "key_seq": None}))
    site.say(b"bulk", p.BaseFrame._of_members({**values, "key_seq": key}))
    site.say(b"control", p.Ping(values["captured_ns"]))
    site.settle()
    site.work()
    site.look()
    found = list(queries.exported_reviews(site.catalogue, decided_only=False))
    assert [review.frame.seq for review in found if review.frame.boot_id == boot][-1] == values["seq"]


def test_causes_of_other_errors_are_seen(site: Site) -> None:
    """So the check of causes can fail."""
    assert re.match(r"\w+", "OverflowError: too large")[0] not in OURS  # type: ignore[index]
    site.causes.append("OverflowError: too large")
    with pytest.raises(AssertionError):
        site.work()
    site.causes.clear()
