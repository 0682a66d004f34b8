"""Reviews of which a crop is fetched: what is asked for and stored, what is shown, and how the rest comes."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.retention import _blob_keys
from secondlook.cloud.config import PolicyConfig, RequestTimes
from secondlook.cloud.storage.blobs import crop_key, enhancement_key
from secondlook.cloud.storage.database import EmbeddedDatabase, open_database
from secondlook.cloud.storage.requests import RequestTable
from secondlook.cloud.workers.policy import FrameIdentity, crop_wanted, wish_for_review
from secondlook.shared import packet as p
from secondlook.shared.crop import Crop
from secondlook.shared.detection import Detection
from secondlook.shared.errors import PacketMalformed, RequestRefused, ReviewConflict
from secondlook.shared.layers import Layers
from secondlook.shared.video import VideoEncoder, VideoSettings
from secondlook.shared.videobits import CropLayers, GroupHead, join_layers
from tests.cloud.helpers import BOOT, OneBox, base_frame, grey, wait_until
from tests.cloud.test_workers import Site, site
from tests.pictures import photo

__all__ = ["site"]  # the fixture

WIDTH, HEIGHT = 256, 160
BOX = (100.0, 60.0, 130.0, 80.0)
CROP = Crop(80, 32, 160, 112)  # around it, on the grid
WHOLE = join_layers(Layers(grey(7), grey(9)))
LAYERS = CropLayers(CROP.left, CROP.top, Layers(grey(100), grey(50))).to_bytes()  # 8x6 pixels
LOOKS = PolicyConfig(uncertain_apart_seconds=0, once_per_object=False, audit_every=0, fetch="boxes")


class Boxed(OneBox):
    def detect(self, image: np.ndarray) -> list[Detection]:
        return [Detection("cat", 0.4, BOX)]


def first_frame(seq: int = 0) -> p.BaseFrame:
    """The head of a group."""
    encoder = VideoEncoder(VideoSettings())
    frame = encoder.encode(photo(HEIGHT, WIDTH), base_quality=40).frame
    base = GroupHead(encoder.background, frame).to_bytes()
    return base_frame(seq, base, width=WIDTH, height=HEIGHT)


@pytest.fixture
def looking(site: Site) -> Site:
    """A site that fetches crops, from a camera host that knows them."""
    site.machine.detector, site.machine.policy = Boxed(), LOOKS
    site.edge.send(p.Hello("gate", BOOT, "control", "yard", 0, 0, f"secondlook 9{p.CROPS}"), "control")
    site.edge.expect("control")
    return site


def send(site: Site, request: p.Packet, layer: bytes) -> None:
    assert isinstance(request, p.EnhancementRequest)
    site.edge.send(p.Chunk(request.request_id, 0, len(layer), zlib.crc32(layer), layer), "control")
    assert site.edge.expect("control") == p.ChunkCredit(request.request_id, len(layer))


def picture(site: Site, key: str | None) -> np.ndarray:
    assert key is not None
    return np.asarray(Image.open(io.BytesIO(site.blobs.get(key))))


def until(site: Site, state: cat.ReviewState) -> cat.Review:
    wait_until(lambda: site.refiner.step() >= 0 and site.review().state is state)
    return site.review()


def show_crop(site: Site) -> None:
    """A frame comes, is in doubt, and a crop of it is fetched and shown."""
    site.deliver(first_frame())
    site.machine.step()
    send(site, site.edge.expect("control"), LAYERS)
    until(site, cat.ReviewState.READY)


def test_the_crop_around_what_is_in_doubt_is_fetched_and_shown_in_its_place(looking: Site) -> None:
    site = looking
    site.deliver(first_frame())
    assert site.machine.step() == 1
    assert site.review().crop == str(CROP)
    request = site.edge.expect("control")  # ahead, as the link is idle
    assert isinstance(request, p.CropRequest)
    assert Crop(request.left, request.top, request.right, request.bottom) == CROP
    send(site, request, LAYERS)
    review = until(site, cat.ReviewState.READY)
    shown = Crop(CROP.left, CROP.top, CROP.left + 8, CROP.top + 6)
    assert (review.crop, review.wants_whole) == (str(shown), False)
    assert review.enhancement_blob == crop_key("gate", BOOT, 0)
    assert review.enhancement_bytes == len(LAYERS)
    base, enhanced, refined = (
        picture(site, key) for key in (review.base_image, review.enhanced_image, review.refined_image)
    )
    outside = np.ones((HEIGHT, WIDTH), bool)
    outside[shown.index] = False
    for better, level in ((enhanced, 150), (refined, 151)):
        assert (better[shown.index] == level).all()
        assert np.array_equal(better[outside], base[outside]), "the filter leaves the rest alone"


def test_the_rest_comes_when_somebody_asks_and_what_is_shown_stays_meanwhile(looking: Site) -> None:
    site = looking
    show_crop(site)
    cat.want_whole_frame(site.catalogue, 1, actor="bea", now_ns=1)
    review = site.review()
    assert (review.state, review.wants_whole) == (
        cat.ReviewState.DUE,
        True,
    ) and review.refined_image is not None
    wait_until(lambda: site.refiner.step() >= 0 and site.review().state is cat.ReviewState.LEASED)
    request = site.edge.expect("control")
    assert type(request) is p.EnhancementRequest
    send(site, request, WHOLE)
    wait_until(lambda: site.refiner.step() >= 0 and site.review().state is not cat.ReviewState.LEASED)
    # The helper's codec makes 8x6 pixels of any layers.
    review = site.review()
    assert (review.state, review.crop, review.wants_whole) == (cat.ReviewState.READY, None, False)
    assert review.enhancement_blob == enhancement_key("gate", BOOT, 0)
    cat.want_whole_frame(site.catalogue, 1, actor="bea", now_ns=2)
    assert site.review().state is cat.ReviewState.READY, "there is no rest"


def test_where_the_rest_cannot_be_had_the_crop_stays_to_be_judged(looking: Site) -> None:
    site = looking
    show_crop(site)
    cat.want_whole_frame(site.catalogue, 1, actor="bea", now_ns=1)
    wait_until(lambda: site.refiner.step() >= 0 and site.review().state is cat.ReviewState.LEASED)
    request = site.edge.expect("control")
    assert isinstance(request, p.EnhancementRequest)
    site.edge.send(p.Refusal(request.request_id, "expired"), "control")
    review = until(site, cat.ReviewState.READY)
    assert review.crop is not None and review.why_expired == "enhancement refused: expired"
    cat.want_whole_frame(site.catalogue, 1, actor="bea", now_ns=2)
    assert (site.review().state, site.review().why_expired) == (cat.ReviewState.DUE, None)


@pytest.mark.parametrize(
    ("left", "top", "why"),
    [(WIDTH - 7, 0, "a crop at 249,0,257,6 of a frame of 256x160"), (0, HEIGHT, "a crop at 0,160,8,166")],
)
def test_a_crop_beyond_its_frame_is_refused(looking: Site, left: int, top: int, why: str) -> None:
    site = looking
    site.deliver(first_frame())
    site.machine.step()
    outside = CropLayers(left, top, Layers(grey(1), grey(2))).to_bytes()
    send(site, site.edge.expect("control"), outside)
    review = until(site, cat.ReviewState.EXPIRED)
    assert review.why_expired is not None and why in review.why_expired


def test_a_camera_host_of_an_earlier_version_is_asked_for_whole_frames(site: Site) -> None:
    site.machine.detector, site.machine.policy = Boxed(), LOOKS
    site.deliver(first_frame())
    site.machine.step()
    request = site.edge.expect("control")
    assert type(request) is p.EnhancementRequest
    send(site, request, WHOLE)
    review = until(site, cat.ReviewState.READY)
    assert (review.crop, review.enhancement_blob) == (None, enhancement_key("gate", BOOT, 0))


def test_stills_and_frames_drawn_at_random_are_fetched_whole(looking: Site) -> None:
    site = looking
    site.deliver(base_frame(0, grey(5)))
    site.machine.step()
    assert site.review().crop is None
    site.machine.policy = replace(LOOKS, audit_every=1)
    site.deliver(first_frame(1))
    site.machine.step()
    assert site.review(2).crop is None


def test_a_review_that_shows_a_crop_tries_nobody(looking: Site) -> None:
    site = looking
    site.deliver(first_frame())
    site.machine.step()
    send(site, site.edge.expect("control"), LAYERS)
    shown = until(site, cat.ReviewState.READY).shown_sha256
    assert shown is not None
    cat.record_verdict(
        site.catalogue,
        1,
        cat.NewVerdict(reviewer="bea", kind=cat.VerdictKind.CONFIRM, shown_sha256=shown),
        now_ns=5,
    )
    with pytest.raises(ReviewConflict, match="review 1 shows a crop"):
        cat.set_known(site.catalogue, 1, True, actor="ann", now_ns=6)
    with pytest.raises(ReviewConflict, match="review 1 is decided: no more of it can be fetched now"):
        cat.want_whole_frame(site.catalogue, 1, actor="bea", now_ns=7)


def test_both_layers_of_a_frame_go_with_it(looking: Site) -> None:
    site = looking
    site.deliver(first_frame())
    site.machine.step()
    with site.catalogue.reading() as session:
        frame = session.get_one(cat.Frame, 1)
        keys = _blob_keys(frame, frame.review)
    assert {crop_key("gate", BOOT, 0), enhancement_key("gate", BOOT, 0)} <= set(keys)


def test_the_crop_is_of_all_that_the_rules_speak_of() -> None:
    found = [
        Detection("cat", 0.4, (10.0, 10.0, 40.0, 40.0)),
        Detection("dog", 0.9, (60.0, 10.0, 90.0, 40.0)),
        Detection("cat", 0.99, (500.0, 300.0, 600.0, 400.0)),
    ]
    name, size = FrameIdentity("gate", BOOT, 1), (1280, 720)

    def crop(policy: PolicyConfig) -> Crop | None:
        return crop_wanted(policy, wish_for_review(policy, name, found, secret=b"s", size=size), found, size)

    only_doubt = replace(LOOKS, fetch_margin=0.0)
    assert crop(only_doubt) == Crop(0, 0, 64, 64)
    assert crop(replace(only_doubt, watched_labels=("dog",))) == Crop(0, 0, 112, 64)
    assert crop(replace(only_doubt, audit_every=1)) is None
    assert crop(replace(only_doubt, fetch="frame")) is None
    assert crop(replace(only_doubt, uncertain_low=0.0, uncertain_high=0.1)) is None, "no rule, no review"


def test_requests_for_a_crop_and_for_the_whole_are_kept_apart(tmp_path: Path) -> None:
    raw = open_database(tmp_path / "gateway.db")
    table = RequestTable(EmbeddedDatabase(raw), RequestTimes())

    def ask(crop: Crop | None, *, gone: bool = False) -> int:
        return table.ask("gate", BOOT, 5, deadline=9.0, priority=1, blob_gone=gone, now=0.0, crop=crop)

    other = Crop(0, 0, 64, 64)
    first = ask(CROP)
    assert ask(CROP) == first and ask(other) != first
    whole = ask(None)
    assert whole != first
    assert ask(CROP) == ask(other) == ask(None) == whole, "the whole holds every crop"
    assert [one.crop for one in table.to_send("gate", now=1.0)] == [CROP, other, None]
    found = table.of_frame("gate", BOOT, 5)
    assert found is not None and found.id == whole
    table.done(whole, "key")
    assert ask(CROP) == whole and ask(CROP, gone=True) not in (first, whole)
    raw.close()


def test_a_crop_that_holds_nothing_is_refused_by_the_gateway(site: Site) -> None:
    frame = {"edge_id": "gate", "boot_id": BOOT, "seq": 0, "deadline_seconds": 1, "priority": 1}
    with pytest.raises(RequestRefused, match="holds nothing"):
        site.broker._call("request_enhancement", **frame, crop="5,5,5,9")
    with pytest.raises(PacketMalformed):
        site.broker._call("request_enhancement", **frame, crop="0,0,700000,9")


def test_a_gateway_of_an_earlier_version_is_asked_for_the_whole_frame(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    def call(op: str, **arguments: object) -> int:
        asked.append(arguments)
        if "crop" in arguments:
            raise PacketMalformed("request_enhancement has no argument crop")
        return 7

    monkeypatch.setattr(site.broker, "_call", call)
    found = site.broker.request_enhancement("gate", BOOT, 1, deadline_seconds=5, priority=1, crop=CROP)
    assert found == 7 and len(asked) == 2
