"""What ships passes the tests that plug-ins are given, and what does not do as it must fails one of them."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from secondlook import conformance
from secondlook.conformance import (
    CodecConformance,
    DetectorConformance,
    PeerConformance,
    PostFilterConformance,
    SourceConformance,
    picture,
)
from secondlook.edge.source.sources import SourceFrame
from secondlook.shared import peers, plugins
from secondlook.shared.codec import load_codec
from secondlook.shared.errors import ConfigError
from secondlook.shared.layers import Encoded, Layers
from secondlook.shared.peers import Peer


class TestLite(CodecConformance):
    """With deltas."""

    model = "lite"
    seeds = 12


class TestBuiltin(DetectorConformance):
    """The detector that ships."""

    detector = "builtin"


class TestFast(PostFilterConformance):
    """A filter that is an ONNX graph."""

    postfilter = "rrdb-fast"


class TestVirtualCamera(SourceConformance):
    """A source that ships."""

    address = "demo:"


class Wrapped:
    """`lite`, but for what a test changes."""

    def __init__(self, **changed: Callable[..., Any]) -> None:
        self._codec = load_codec("lite", threads=1)
        self._changed = changed

    def __getattr__(self, name: str) -> Any:
        return self._changed.get(name) or getattr(self._codec, name)


def careless(layer: str) -> Callable[..., Any]:
    """A decoder that shows grey for what it cannot decode."""
    codec = load_codec("lite", threads=1)

    def decode(*data: bytes, **_: Any) -> Any:
        try:
            return getattr(codec, layer)(*data)
        except Exception:  # noqa: BLE001 carelessly
            return np.full((80, 96, 3), 128, np.uint8)

    return decode


def noisy(image: Any, **qualities: Any) -> Encoded:
    """An encoder whose bytes differ each time."""
    coded = load_codec("lite", threads=1).encode(image, **qualities)
    turns.append(1)
    return dataclasses.replace(
        coded, layers=Layers(coded.layers.base, coded.layers.enhancement + bytes(len(turns)))
    )


turns: list[int] = []

BROKEN_CODECS = {
    "damaged_layers_are_refused": {"decode_base": careless("decode_base")},
    "layers_that_do_not_belong": {"decode_base": careless("decode_base")},
    "a_small_payload_cannot": {"decode_base": careless("decode_base")},
    "the_same_bytes": {"encode": noisy},
    "pictures_of_any_size": {"decode_base": lambda data, **_: np.zeros((80, 96, 3), np.uint8)},
}


@pytest.mark.parametrize("name", BROKEN_CODECS)
def test_a_careless_codec_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "_codec", lambda _: Wrapped(**BROKEN_CODECS[name]))
    case = type("Tried", (CodecConformance,), {"model": "lite"})()
    (test,) = (getattr(case, one) for one in dir(case) if one.startswith(f"test_{name}"))
    with pytest.raises(AssertionError):
        test()


def declare(monkeypatch: pytest.MonkeyPatch, group: str, **things: Any) -> None:
    """Entry points as if a package with these were installed."""
    entries = [EntryPoint(name, f"secondlook_of_others:{name}", group) for name in things]
    monkeypatch.setitem(__import__("sys").modules, "secondlook_of_others", types.SimpleNamespace(**things))
    monkeypatch.setattr(
        plugins, "entry_points", lambda *, group: [one for one in entries if one.group == group]
    )


class Finder:
    """A detector whose faults a test chooses."""

    name = "finder"
    classes: ClassVar[tuple[str, ...]] = ("thing",)

    def __init__(self, fault: str, min_score: float) -> None:
        self.fault, self.min_score, self.calls = fault, min_score, 0

    def detect(self, image: Any) -> list[Any]:
        from secondlook.shared.detection import Detection

        height, width = image.shape[:2]
        self.calls += 1
        label = "other" if self.fault == "label" else "thing"
        right = width + 5.0 if self.fault == "outside" else float(width)
        scores = [0.2, 0.9] if self.fault == "order" else [0.9, 0.2]
        if self.fault == "moods" and self.calls % 2:
            scores = [0.8, 0.2]
        kept = [score for score in scores if score >= self.min_score or self.fault == "score"]
        return [Detection(label, score, (0.0, 0.0, right, float(height))) for score in kept]


@pytest.mark.parametrize("fault", ["", "label", "outside", "order", "moods", "score"])
def test_a_detector_is_judged(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(
        monkeypatch,
        plugins.DETECTORS,
        finder=lambda folder, *, threads, min_score, device: Finder(fault, min_score),
    )
    said: list[str] = []
    failed = conformance.run("detector", "finder", said.append)
    assert (failed > 0) == bool(fault), said


class Shader:
    """A post-filter whose faults a test chooses."""

    name = "shader"

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.identity = "shader" if fault == "identity" else "shader:1"

    def apply(self, image: Any, progress: Any = lambda: None, *, quality: int = 40) -> Any:
        if image.ndim != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ConfigError("a picture is uint8[H,W,3]")
        if self.fault != "silent":
            progress()
        if self.fault == "same":
            return image
        return (
            np.zeros_like(image)
            if self.fault == "black"
            else image[:-1]
            if self.fault == "size"
            else image.copy()
        )


@pytest.mark.parametrize("fault", ["", "identity", "silent", "same", "black", "size"])
def test_a_postfilter_is_judged(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, plugins.POSTFILTERS, shader=lambda folder, *, threads, device: Shader(fault))
    said: list[str] = []
    failed = conformance.run("postfilter", "shader", said.append)
    assert (failed > 0) == bool(fault), said


def squeeze(image: Any, quality: int) -> bytes:
    """A codec of coarse steps."""
    import zlib

    return b"%d %d %d " % (*image.shape[:2], quality) + zlib.compress((image // quality).tobytes())


def spread(data: bytes) -> Any:
    import zlib

    height, width, step, rest = data.split(b" ", 3)
    values = np.frombuffer(zlib.decompress(rest), np.uint8).reshape(int(height), int(width), 3)
    return values * int(step)


def test_peers_come_from_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(
        monkeypatch,
        plugins.PEERS,
        steps=Peer(squeeze, spread, (32, 4)),
        turned=Peer(squeeze, spread, (4, 32)),
    )
    assert conformance.run("peer", "steps", lambda _: None) == 0
    assert conformance.run("peer", "turned", lambda _: None) == 1
    assert type("Tried", (PeerConformance,), {"peer": "steps"})
    with pytest.raises(ConfigError, match="no codec 'gone' to compare with; there are own, steps, turned"):
        peers.find_peer("gone", {"own": Peer(squeeze, spread, (1,))})
    declare(monkeypatch, plugins.PEERS, wrong=lambda: 3)
    with pytest.raises(ConfigError, match="is no Peer with qualities"):
        peers.find_peer("wrong", {})


def test_sources_come_from_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def grab(address: str) -> Any:
        asked.append(address)
        return (SourceFrame(n / 5, picture(40, 30, n)) for n in range(4))

    def backwards(address: str) -> Any:
        return (SourceFrame(9 - n / 5, picture(40, 30, n)) for n in range(4))

    declare(
        monkeypatch,
        plugins.SOURCES,
        grabber=grab,
        backwards=backwards,
        arrays=lambda address: iter([picture(40, 30)] * 3),
        broken=lambda address: iter([SourceFrame(0.0, picture(40, 30)), *map(int, ["1", "x"])]),
    )
    said: list[str] = []
    assert conformance.run("source", "grabber://2", said.append) == 0, said
    assert asked == ["grabber://2"]
    assert conformance.run("source", "backwards://2", said.append) == 1
    assert conformance.run("source", "arrays://2", said.append) == 1
    assert "hands out SourceFrame, not ndarray" in said[-1]
    assert conformance.run("source", "broken://2", said.append) == 1
    assert "read by an unknown package, failed: ValueError" in said[-1]
    assert conformance.run("source", "nobody://2", said.append) == 1
    assert "addresses of nobody:// are not read" in said[-1]


def test_two_packages_with_one_name_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [EntryPoint("same", value, plugins.DETECTORS) for value in ("one:load", "two:load")]
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: both)
    with pytest.raises(ConfigError, match=r"two packages bring 'same'.*one:load.*two:load"):
        plugins.find_plugin(plugins.DETECTORS, "same")


@pytest.mark.parametrize(
    ("value", "told"),
    [("no_such_module:load", "needs no_such_module"), ("json:load_it", "cannot be loaded from json")],
)
def test_a_package_that_cannot_be_imported_is_one_line(value: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        plugins.load_plugin(EntryPoint("mine", value, plugins.DETECTORS))
    assert "\n" not in str(caught.value)


def test_a_folder_names_its_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The verified folder reaches the package; without the package, it is named."""
    from secondlook.cloud.workers.detectors import load_detector
    from secondlook.cloud.workers.postfilter import load_postfilter
    from secondlook.shared.errors import DetectorError

    for kind in ("detector", "postfilter"):
        (tmp_path / kind).mkdir()
        manifest = {"name": "mine", "kind": kind, "engine": "theirs", "files": {}, "report_score": 0.4}
        (tmp_path / kind / "manifest.json").write_text(json.dumps(manifest))
    got: dict[str, Any] = {}
    declare(
        monkeypatch,
        plugins.DETECTORS,
        theirs=lambda folder, **named: got.update(named, folder=folder.name) or got,
    )
    load_detector(str(tmp_path / "detector"), threads=3, device="cpu")
    assert got == {"folder": "mine", "threads": 3, "min_score": 0.4, "device": "cpu"}
    with pytest.raises(
        ConfigError, match="post-filter mine: no installed package brings the engine 'theirs'"
    ):
        load_postfilter(tmp_path / "postfilter")
    declare(monkeypatch, plugins.POSTFILTERS, theirs=lambda folder, **named: got.update(filter=folder.path))
    load_postfilter(tmp_path / "postfilter")
    assert got["filter"] == tmp_path / "postfilter"
    with pytest.raises(DetectorError, match="model mine: no installed package brings the detector 'theirs'"):
        load_detector(str(tmp_path / "detector"), threads=1)


def test_the_command_says_what_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert conformance.main(["postfilter", "no-such-filter"]) == 1
    assert "no model 'no-such-filter'" in capsys.readouterr().out
    declare(monkeypatch, plugins.POSTFILTERS, shader=lambda folder, *, threads, device: Shader("silent"))
    assert conformance.main(["postfilter", "shader"]) == 1
    said = capsys.readouterr().out
    assert "failed  progress is told and may end the work: progress was never called" in said
    assert said.count("ok ") == 6
