"""Frames that an agent passed over, from its encoder through gateway and worker into the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.edge.coding.encode import choose_encoder
from secondlook.edge.config import CodecConfig, SourceConfig, SpoolConfig
from secondlook.edge.source.camera import Frame
from secondlook.edge.spool import Spool, Spoolable
from secondlook.edge.spooled import PassedOver
from secondlook.shared.codec import load_codec
from tests.cloud.helpers import BOOT, Edge, running, settings, wait_until
from tests.cloud.test_workers import Site
from tests.pictures import photo

GROUND = photo(64, 96)
# What becomes of frame after frame; behind each group stand the frames that were thinned out in its time.
FATES = ["", "", "thinned", "", "idle", "idle", "idle", "", "", "thinned", "thinned", "", "idle", "", ""]


def shot(number: int) -> Frame:
    image = GROUND.copy()
    left = (13 * number) % 70
    image[20:40, left : left + 20] = (230, 220, 200)
    return Frame(image, (number + 1) * 10**9)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running(settings(tmp_path)) as gateway, Edge(gateway.edge_address) as edge:
        edge.hello()
        site = Site(gateway, edge, tmp_path)
        with site.broker:
            yield site
        site.catalogue.close()


def test_the_catalogue_tells_what_did_not_move_from_what_was_thinned_out_and_decodes_the_rest(
    site: Site, tmp_path: Path
) -> None:
    encoder = choose_encoder(
        load_codec(threads=1), CodecConfig(family="video", base_quality=40), SourceConfig("demo:"), BOOT
    )
    made: list[Spoolable] = []
    captured: dict[int, int] = {}  # by sequence: the number of the frame that was coded
    for number, fate in enumerate(FATES):
        if fate:
            encoder.pass_over(shot(number), fate)
        else:
            coded = encoder.encode(shot(number))
            made += [*encoder.take_passed(), coded]
            captured[coded.info.seq] = number
    made += encoder.take_passed(all_of_them=True)
    (tmp_path / "edge").mkdir()
    spool = Spool(tmp_path / "edge", SpoolConfig(min_free_bytes=0), BOOT, 1)
    spool.put(made, 2)
    for tombstone in spool.tombstones(0):
        site.edge.send(tombstone.packet())
    site.deliver(*spool.read(BOOT, 0, 1 << 20))
    spool.close()
    wait_until(lambda: site.machine.step() == 0 and len(site.frames()) == FATES.count(""))
    assert [seq for seq, _ in site.frames()] == list(captured)
    with site.catalogue.reading() as session:
        times = dict(session.execute(select(cat.Frame.seq, cat.Frame.captured_ns)).all())
    assert times == {seq: shot(number).captured_ns for seq, number in captured.items()}

    def told() -> list[PassedOver]:
        site.machine._tombstones_at = 0.0
        site.machine.step()
        with site.catalogue.reading() as session:
            rows = session.scalars(select(cat.Tombstone).order_by(cat.Tombstone.first_seq)).all()
            return [PassedOver(row.first_seq, row.last_seq, row.reason) for row in rows]

    expected = [item for item in made if isinstance(item, PassedOver)]
    wait_until(lambda: told() == expected)
    assert sum(one.last_seq - one.first_seq + 1 for one in expected if one.reason == "idle") == 4
    numbers = sorted(seq for item in expected for seq in range(item.first_seq, item.last_seq + 1)) + list(
        captured
    )
    assert sorted(numbers) == list(range(len(FATES))), "every captured frame has its number"
