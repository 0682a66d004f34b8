"""Privacy masks, ignored regions and regions of interest: where they lie, and that nothing hidden is coded."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from secondlook.edge.agent import Agent
from secondlook.edge.coding.originals import picture
from secondlook.edge.coding.regions import IGNORED, MARGIN, MASKED, Regions
from secondlook.edge.config import CodecConfig, EdgeConfig, RegionsConfig, SourceConfig
from secondlook.edge.polygons import Polygon, fill
from secondlook.edge.source.camera import Frame
from secondlook.main import main
from secondlook.shared.codec import load_codec
from secondlook.shared.config import EDGE_VARIABLES, load
from secondlook.shared.errors import ConfigError
from secondlook.shared.video import GroupDecoder
from secondlook.shared.videobits import GroupHead, parse_base, split_layers
from tests.pictures import photo

HALF = "0%,0% 50%,0% 50%,100% 0%,100%"  # the left one
WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module")
def codec():
    return load_codec(threads=1)


def shot(number: int, secret: int) -> Frame:
    """A scene that moves on the right; on the left, what nobody shall see."""
    image = photo(HEIGHT, WIDTH).copy()
    image[20:40, 60 + 2 * number : 70 + 2 * number] = (230, 220, 200)
    rng = np.random.default_rng((secret, number))
    image[:, : WIDTH // 2] = rng.integers(0, 256, (HEIGHT, WIDTH // 2, 3))
    return Frame(image, number * 10**9)


def sent(
    codec, tmp_path: Path, secret: int, record: bool = False, **settings: object
) -> list[tuple[bytes, bytes]]:
    """All layers that an agent makes of six frames."""
    regions = RegionsConfig(privacy=(HALF,), mask_local=not record)
    source = SourceConfig("demo:", record_dir=tmp_path if record else None)
    config = EdgeConfig("gate", source, codec=CodecConfig(**settings), regions=regions, data_dir=tmp_path)
    agent = Agent(config, codec)
    for number in range(6):
        agent._take(shot(number, secret))
    return [(frame.base, frame.enhancement) for frame in agent._batch]


@pytest.mark.parametrize(
    "settings",
    [{"family": "lite"}, {"family": "lite", "key_interval": 3}, {"family": "video", "group_frames": 3}],
    ids=["lite", "lite deltas", "video"],
)
def test_no_layer_depends_on_what_a_privacy_mask_hides(codec, tmp_path: Path, settings) -> None:
    one, other = (sent(codec, tmp_path, secret, **settings) for secret in (1, 2))
    assert one == other
    shown = [
        codec.encode(shot(0, secret).image, base_quality=16, quality=40).layers.base for secret in (1, 2)
    ]
    assert shown[0] != shown[1], "without masks the bytes would tell the two apart"


def test_decoded_pictures_and_backgrounds_of_video_are_black_behind_a_mask(codec, tmp_path: Path) -> None:
    decoder = None
    inside = slice(0, WIDTH // 2 - 8)
    settings = {"family": "video", "group_frames": 3, "base_quality": 40}
    originals = [kept for _, kept in sent(codec, tmp_path, 1, **settings)]
    assert max(picture(kept)[:, inside].max() for kept in originals) < 8
    for base, enhancement in sent(codec, tmp_path, 1, enhancement="always", **settings):
        packet = parse_base(base)
        if isinstance(packet, GroupHead):
            decoder, packet = GroupDecoder(packet.background.to_bytes()), packet.frame
            assert decoder.background[:, inside].max() < 8
        assert decoder is not None
        shown = decoder.decode(packet.to_bytes())
        assert shown[:, inside].max() < 8 and shown[:, WIDTH // 2 + 8 :].mean() > 40
        layers = split_layers(enhancement)
        for decoded in (
            codec.decode_base(layers.base),
            codec.decode_enhanced(layers.base, layers.enhancement),
        ):
            # `lite` rings near a mask's edge: what it rings with is the picture outside.
            assert np.abs(decoded[:, : WIDTH // 4].astype(int)).mean() < 8


def test_decoded_pictures_of_lite_are_black_behind_a_mask(codec, tmp_path: Path) -> None:
    base, enhancement = sent(codec, tmp_path, 1, family="lite")[0]
    for decoded in (codec.decode_base(base), codec.decode_enhanced(base, enhancement)):
        assert np.abs(decoded[:, : WIDTH // 4].astype(int)).mean() < 8


@pytest.mark.parametrize("whole", [False, True])
def test_the_copy_on_the_host_is_masked_unless_the_settings_say_otherwise(
    codec, tmp_path: Path, whole: bool
) -> None:
    regions = RegionsConfig(privacy=(HALF,), mask_local=not whole)
    source = SourceConfig("demo:", record_dir=tmp_path)
    agent = Agent(EdgeConfig("gate", source, regions=regions, data_dir=tmp_path), codec)
    agent._take(shot(0, 1))
    (kept,) = tmp_path.glob("*.png")
    picture = cv2.cvtColor(cv2.imread(str(kept)), cv2.COLOR_BGR2RGB)
    assert (picture[:, : WIDTH // 2] == MASKED).all() == (not whole)
    assert (picture == shot(0, 1).image).all() == whole
    shown = slice(WIDTH // 2 + MARGIN + 1, None)  # the pixel that the polygon's edge lies in is masked, too
    assert (picture[:, shown] == shot(0, 1).image[:, shown]).all()


def test_a_mask_covers_every_pixel_that_its_polygon_touches() -> None:
    polygon = Polygon.parse("11.3%,7.7% 83.9%,21.2% 61.4%,93.8% 32.5%,71.6%")
    width, height, fine = 61, 47, 16
    touched = fill([polygon], width * fine, height * fine).reshape(height, fine, width, fine).any(axis=(1, 3))
    mask = fill([polygon], width, height, margin=MARGIN)
    assert mask[touched].all()
    grown = cv2.dilate(touched.astype(np.uint8), np.ones((2 * MARGIN + 3,) * 2, np.uint8))
    assert not mask[grown == 0].any()


def test_polygons_keep_their_place_in_frames_of_another_size() -> None:
    in_pixels = RegionsConfig(picture="1920x1080", privacy=("0,0 960,0 960,1080 0,1080",))
    in_percent = RegionsConfig(privacy=(HALF,))
    for height, width in ((1080, 1920), (432, 768), (63, 95)):
        white = np.full((height, width, 3), 255, np.uint8)
        one, other = (Regions(config).hide(white) for config in (in_pixels, in_percent))
        assert (one == other).all()
        assert abs(int((one[0] == MASKED).all(axis=1).sum()) - width // 2) <= MARGIN + 1
        assert white.min() == 255, "the frame itself is not changed"


def test_without_polygons_a_frame_is_handed_on_as_it_is() -> None:
    image = photo(HEIGHT, WIDTH)
    regions = Regions(RegionsConfig())
    assert regions.hide(image) is image
    assert regions.for_machines(image, None) is image
    assert regions.watched(HEIGHT, WIDTH) is None and not regions.need_background


def test_ignored_regions_are_grey_for_machines_and_shown_to_people(codec) -> None:
    regions = Regions(RegionsConfig(ignored=(HALF,)))
    image = photo(HEIGHT, WIDTH)
    shown = regions.for_machines(image, None)
    assert (shown[:, : WIDTH // 2] == IGNORED).all()
    assert (shown[:, WIDTH // 2 + 1 :] == image[:, WIDTH // 2 + 1 :]).all()
    assert (regions.hide(image) == image).all()


def test_outside_of_the_regions_of_interest_stands_the_background() -> None:
    regions = Regions(RegionsConfig(interest=(HALF,)))
    assert regions.need_background
    image, background = photo(HEIGHT, WIDTH), np.full((HEIGHT, WIDTH, 3), 9, np.uint8)
    shown = regions.for_machines(image, background)
    assert (shown[:, : WIDTH // 2] == image[:, : WIDTH // 2]).all()
    assert (shown[:, WIDTH // 2 + 1 :] == 9).all()
    with pytest.raises(ConfigError, match="a background of"):
        regions.for_machines(image, background[:8])


@pytest.mark.parametrize("family", ["lite", "video"])
def test_what_moves_outside_of_the_regions_of_interest_costs_no_bits(
    codec, tmp_path: Path, family: str
) -> None:
    sizes = {}
    for name, interest in (("everywhere", ()), ("left", (HALF,))):
        settings = CodecConfig(family=family, key_interval=9, base_quality=30)
        config = EdgeConfig(
            "gate",
            SourceConfig("demo:"),
            codec=settings,
            data_dir=tmp_path,
            regions=RegionsConfig(interest=interest),
        )
        agent = Agent(config, codec)
        for number in range(6):
            image = photo(HEIGHT, WIDTH).copy()
            image[10:50, 60 + 5 * number : 70 + 5 * number] = np.random.default_rng(number).integers(
                0, 256, (40, 10, 3)
            )
            agent._take(Frame(image, number * 10**9))
        sizes[name] = sum(len(frame.base) for frame in agent._batch[1:])
    assert sizes["left"] < 0.4 * sizes["everywhere"], sizes


def test_where_a_movement_counts() -> None:
    regions = Regions(RegionsConfig(interest=("0%,0% 100%,0% 100%,50% 0%,50%",), ignored=(HALF,)))
    watched = regions.watched(40, 40)
    assert watched is not None
    assert watched[2, 30] and not watched[2, 5] and not watched[38, 30]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"privacy": ("1%,1% 2%,2%",)}, "privacy[0] has 2 corners, a polygon has 3 to 100"),
        ({"ignored": (HALF, "a b c")}, "ignored[1] holds 'a', a corner is x,y in pixels or x%,y%"),
        ({"privacy": ("1%,1 2%,1% 3%,9%",)}, "privacy[0] holds '1%,1', a corner is x,y in pixels or x%,y%"),
        ({"privacy": ("1,1 5%,1% 3%,9%",)}, "privacy[0] mixes percent and pixels"),
        (
            {"interest": ("1,1 9,1 9,9",)},
            "interest[0] is in pixels, of which picture says regions.picture: set it",
        ),
        ({"privacy": ("0%,0% 101%,0% 50%,50%",)}, "privacy[0] has a corner 101,0 outside of 100x100"),
        (
            {"picture": "64x48", "privacy": ("0,0 64,0 64,49",)},
            "privacy[0] has a corner 64,49 outside of 64x48",
        ),
        ({"privacy": ("0%,0% 100%,100% 100%,0% 0%,100%",)}, "privacy[0] crosses itself"),
        ({"privacy": ("0%,0% 50%,50% 100%,100%",)}, "privacy[0] has no area"),
        ({"privacy": ("0%,0% 50%,0% 99%,0% 50%,0% 20%,80%",)}, "privacy[0] crosses itself"),
        ({"picture": "64"}, "picture '64' is not WIDTHxHEIGHT"),
        ({"picture": "0x9"}, "picture '0x9' is not WIDTHxHEIGHT"),
        ({"privacy": (HALF,) * 65}, "privacy has 65 polygons, it may have 64"),
        (
            {"privacy": ("1%,-1% 2%,2% 3%,3%",)},
            "privacy[0] holds '1%,-1%', a corner is x,y in pixels or x%,y%",
        ),
    ],
)
def test_what_is_no_polygon_is_refused_in_one_line(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}$"):
        RegionsConfig(**wrong)


def test_a_file_with_a_wrong_polygon_is_named(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    head = 'edge_id = "gate"\n[source]\naddress = "demo:"\n[regions]\n'
    path.write_text(head + 'ignored = ["0%,0% 9%,0% 9%,9%", "0%,0%"]\n')
    with pytest.raises(ConfigError) as caught:
        load(path, EdgeConfig, variables=EDGE_VARIABLES)
    assert str(caught.value) == f"{path}: regions.ignored[1] has 1 corners, a polygon has 3 to 100"


class TestSnapshot:
    """`secondlook edge snapshot`."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Path:
        cv2.imwrite(str(tmp_path / "scene.png"), np.full((120, 160, 3), 200, np.uint8))
        path = tmp_path / "edge.toml"
        path.write_text(
            'edge_id = "gate"\n[source]\naddress = "scene.png"\n[regions]\npicture = "160x120"\n'
            'privacy = ["20,20 60,20 60,60 20,60"]\nignored = ["90,10 150,10 150,50"]\n'
            'interest = ["10,70 150,70 150,110 10,110"]\n'
        )
        return path

    def picture(self, path: Path) -> np.ndarray:
        return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)

    def test_all_polygons_are_drawn_and_masks_filled(self, settings: Path, tmp_path: Path, capsys) -> None:
        out = tmp_path / "out.png"
        assert main(["edge", "snapshot", "--config", str(settings), str(out)]) == 0
        assert capsys.readouterr().out == f"{out}: 160x120\n"
        picture = self.picture(out)
        assert tuple(picture[40, 40]) == MASKED
        assert tuple(picture[90, 80]) == (200, 200, 200)
        for (row, column), strongest in (((40, 20), 0), ((10, 120), 0), ((70, 80), 1)):
            assert (
                np.argmax(picture[row, column]) == strongest and np.ptp(picture[row, column].astype(int)) > 60
            )

    def test_masks_are_outlines_where_one_may_see_through(self, settings: Path, tmp_path: Path) -> None:
        out = tmp_path / "out.png"
        assert main(["edge", "--config", str(settings), "snapshot", "--see-through", str(out)]) == 0
        picture = self.picture(out)
        assert tuple(picture[40, 40]) == (200, 200, 200) and picture[40, 20, 0] > picture[40, 20, 2] + 60

    def test_a_file_of_another_kind_and_a_source_without_pictures_are_told(
        self, settings: Path, tmp_path: Path, capsys
    ) -> None:
        assert main(["edge", "snapshot", "--config", str(settings), str(tmp_path / "out.txt")]) == 1
        assert "out.txt does not end in one of .png, .jpg" in capsys.readouterr().err
        arguments = ["edge", "snapshot", "--config", str(settings), "--source", str(tmp_path / "no.mp4")]
        assert main([*arguments, str(tmp_path / "out.png")]) == 1
        assert "does not exist" in capsys.readouterr().err
