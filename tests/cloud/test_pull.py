"""`secondlook pull`: a folder that keeps up with a station, whatever is cut, changed, damaged or undone on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondlook.cloud.pull.folder import PullFolder
from secondlook.cloud.pull.main import parse_since
from secondlook.cloud.pull.run import pull, verify
from secondlook.cloud.station.app import create_app
from secondlook.main import main
from secondlook.shared.errors import ConfigError, StationRefused, StationUnreachable
from secondlook.stationlink import StationLink
from tests.cloud.station.people import add_people, as_user
from tests.cloud.station.seed import SECOND, START, Scene, drawn_scene, seed
from tests.cloud.station.server import serving


class Site:
    """A station with five ready frames, on a clock that goes on by a second each time it is asked."""

    def __init__(self, address: str, client: httpx.Client, folder: Path) -> None:
        self.address, self.client, self.folder = address, client, folder
        self.links: list[StationLink] = []

    def say(self, review_id: int, verdict: str, **parts: Any) -> None:
        digest = self.client.get(f"/api/reviews/{review_id}/images/refined").headers["x-content-sha256"]
        body = {"reviewer": "Ann", "verdict": verdict, "shown_sha256": digest, **parts}
        assert self.client.post(f"/api/reviews/{review_id}/verdicts", json=body).status_code == 200

    def station(self) -> StationLink:
        self.links.append(StationLink(self.address, sleep=lambda _seconds: None))
        return self.links[-1]

    def pull(self, since: str | None = None) -> tuple[dict[str, int], list[dict[str, Any]]]:
        """What a run did, and the lines of the folder."""
        folder = PullFolder(self.folder, self.station().address, since)
        done = pull(self.station(), folder)
        text = (self.folder / "frames.jsonl").read_text()
        return vars(done), [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    now = [START + 3600 * SECOND]

    def clock() -> int:
        now[0] += SECOND
        return now[0]

    scenes = [drawn_scene(0), drawn_scene(1), Scene(drawn_scene(2).image, []), drawn_scene(3), drawn_scene(4)]
    (tmp_path / "site").mkdir()
    seeded = seed(tmp_path / "site", ["ready"] * 5, scenes)
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url, now_ns=clock)
    with serving(app) as address, httpx.Client(base_url=address, timeout=20) as client:
        site = Site(address, client, tmp_path / "out")
        yield site
        for link in site.links:
            link.close()


def test_what_was_decided_comes_with_its_picture(site: Site) -> None:
    site.say(1, "reject", box_index=0)
    site.say(1, "confirm", box_index=1)
    site.say(2, "unsure")
    site.say(3, "no_object")
    done, lines = site.pull()
    assert (done["frames"], done["pictures"]) == (2, 2)
    assert [line["review_id"] for line in lines] == [1, 3]
    assert [box["label"] for box in lines[0]["boxes"]] == ["car"] and lines[1]["no_object"]
    for line in lines:
        data = (site.folder / line["file_name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == line["sha256"]
        assert data == site.client.get(f"/api/reviews/{line['review_id']}/images/refined").content


def test_a_run_goes_on_where_the_last_one_ended(site: Site) -> None:
    site.say(1, "confirm")
    assert site.pull()[0]["pictures"] == 1
    assert site.pull()[0]["frames"] == 0
    site.say(3, "no_object")
    site.say(4, "confirm")
    done, lines = site.pull()
    assert (done["frames"], done["pictures"], len(lines)) == (2, 2, 3)
    # What is undone goes, and what is decided otherwise is as it is now.
    site.client.post("/api/undo", json={"reviewer": "Ann"})
    site.say(1, "reject")
    done, lines = site.pull()
    assert (done["dropped"], done["pictures"]) == (1, 0)
    assert [(line["review_id"], len(line["boxes"])) for line in lines] == [(1, 0), (3, 0)]
    assert len(list((site.folder / "images").iterdir())) == 2


def test_since(site: Site) -> None:
    site.say(1, "confirm")
    entry = site.client.get("/api/history").json()["entries"][0]
    site.say(3, "no_object")
    done, lines = site.pull(since=(datetime.fromisoformat(entry["at"]) + timedelta(seconds=0.1)).isoformat())
    assert [line["review_id"] for line in lines] == [3] and done["frames"] == 1
    now = datetime(2026, 11, 29, 12, tzinfo=UTC)
    assert parse_since("7d", now) == "2026-11-22T12:00:00+00:00"
    assert parse_since("12h", now) == "2026-11-29T00:00:00+00:00"
    assert parse_since("2026-11-01", now) == "2026-11-01T00:00:00+00:00"
    with pytest.raises(ConfigError, match="is no instant"):
        parse_since("lately", now)


class Cut:
    """A station whose line breaks after so many answers."""

    def __init__(self, station: StationLink, answers: int) -> None:
        self._station, self._left = station, answers

    def json(self, path: str, query: dict[str, Any]) -> Any:
        return self._station.json(path, query)

    def data(self, path: str) -> bytes:
        if self._left == 0:
            raise StationUnreachable("cut")
        self._left -= 1
        return self._station.data(path)


def test_a_run_that_breaks_off_loses_and_doubles_nothing(site: Site) -> None:
    for review_id in (1, 2, 4, 5):
        site.say(review_id, "confirm")
    for answers in (0, 1, 2):
        with pytest.raises(StationUnreachable):
            pull(Cut(site.station(), answers), PullFolder(site.folder, site.address))
    with (site.folder / "frames.jsonl").open("a") as stream:
        stream.write('{"name": "half')  # and the program died while it wrote
    done, lines = site.pull()
    assert done["pictures"] == 1  # the others are here already
    assert [line["review_id"] for line in lines] == [1, 5, 2, 4]


class Lying(Cut):
    """A station that sends other bytes for the first frame than those that were judged."""

    def data(self, path: str) -> bytes:
        data = super().data(path)
        return data[:-1] if "/reviews/1/" in path else data


def test_a_picture_that_is_not_the_one_that_was_judged_keeps_nothing_back(site: Site) -> None:
    for review_id in (1, 2):
        site.say(review_id, "confirm")
    done = pull(Lying(site.station(), 99), PullFolder(site.folder, site.address))
    assert (done.frames, done.pictures, done.damaged, done.gone) == (2, 1, 1, 0)
    first, second = site.pull()[1]
    assert first["file_name"] is None and second["file_name"] is not None
    assert [path.name for path in (site.folder / "images").iterdir()] == [Path(second["file_name"]).name]
    # It is asked for again, and is there once the station has it whole.
    folder = PullFolder(site.folder, site.address)
    verify(Lying(site.station(), 99), folder, done)
    assert (done.damaged, done.gone) == (1, 0)
    verify(site.station(), folder, done)
    assert (done.damaged, done.pictures) == (0, 2)
    line = site.pull()[1][0]
    path = site.folder / line["file_name"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == line["sha256"]
    site.say(1, "unsure")
    assert site.pull()[0]["dropped"] == 1 and not path.exists()


def test_a_picture_that_is_damaged_in_the_folder_comes_anew(site: Site) -> None:
    site.say(1, "confirm")
    _, (line,) = site.pull()
    path = site.folder / line["file_name"]
    path.write_bytes(b"damaged")
    folder = PullFolder(site.folder, site.address)
    done = pull(site.station(), folder)
    verify(site.station(), folder, done)
    assert (
        done.pictures == 1
        and done.damaged == 0
        and hashlib.sha256(path.read_bytes()).hexdigest() == line["sha256"]
    )


def test_a_picture_that_the_station_has_lost_keeps_nothing_back(site: Site) -> None:
    for review_id in (1, 2):
        site.say(review_id, "confirm")
    kept = next((site.folder.parent / "site/blobs/image/1").glob("refined.*"))
    data = kept.read_bytes()
    kept.unlink()
    done, (first, second) = site.pull()
    assert (done["gone"], done["pictures"]) == (1, 1)
    assert first["file_name"] is None and second["file_name"] is not None
    kept.write_bytes(data)  # from a backup
    again = pull(site.station(), folder := PullFolder(site.folder, site.address))
    verify(site.station(), folder, again)
    assert (again.gone, again.pictures) == (0, 1)
    assert [line["file_name"] is None for line in site.pull()[1]] == [False, False]


def test_what_is_handed_out_is_in_the_audit_trail_page_by_page(site: Site) -> None:
    for review_id in (1, 2):
        site.say(review_id, "confirm")

    def asked(**query: Any) -> list[dict[str, Any]]:
        assert site.client.get("/api/export/changes", params=query).status_code == 200
        entries = site.client.get("/api/history").json()["entries"]
        return [one["detail"] for one in entries if one["action"] == "exported"]

    assert asked(after=0) == [{"after": 0, "frames": 2}]
    last = site.client.get("/api/export/changes", params={"after": 0, "limit": 1}).json()["next"]
    assert asked(after=last)[0] == {"after": last, "frames": 1}
    # Who looks whether there is anything leaves no line.
    end = site.client.get("/api/export/changes", params={"after": last}).json()["next"]
    lines = len(asked(after=end))
    assert len(asked(after=end)) == lines


def test_a_token_that_ends_meanwhile_makes_no_picture_gone(site: Site) -> None:
    site.say(1, "confirm")

    class Ended(Cut):
        def data(self, path: str) -> bytes:
            raise StationRefused(401, "log in first")

    with pytest.raises(StationRefused, match="log in first"):
        pull(Ended(site.station(), 99), PullFolder(site.folder, site.address))
    done, lines = site.pull()
    assert (done["pictures"], done["gone"]) == (1, 0) and lines[0]["file_name"]


def test_a_folder_is_of_one_station(site: Site, tmp_path: Path) -> None:
    site.pull()
    with pytest.raises(ConfigError, match="holds frames of"):
        PullFolder(site.folder, "https://other.example.org")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        PullFolder(tmp_path / "full", site.address)
    for wrong in ("review.example.org", "ftp://x", "https://x/?a=1"):
        with pytest.raises(ConfigError, match="a station's address is"):
            StationLink(wrong)


def test_refusals_and_absence(site: Site, unused_port: int) -> None:
    with pytest.raises(StationRefused, match=r"refused \(404\)"):
        site.station().json("/api/nothing", {})
    waits: list[float] = []
    with (
        StationLink(f"http://127.0.0.1:{unused_port}", sleep=waits.append) as away,
        pytest.raises(StationUnreachable, match=f"127.0.0.1:{unused_port}"),
    ):
        away.data("/")
    assert len(waits) == 3


@pytest.fixture
def unused_port() -> int:
    from tests.cloud.servers import free_port

    return free_port()


def test_the_command_with_a_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeded = seed(tmp_path, ["ready"] * 2)
    add_people(seeded.catalogue_url)
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)
    with serving(app) as address, as_user(address, "rolf") as rolf:
        token = rolf.post("/api/tokens", json={"label": "pull", "role": "viewer", "days": 1}).json()
        shown = rolf.get("/api/reviews/1/images/refined").headers["x-content-sha256"]
        rolf.post("/api/reviews/1/verdicts", json={"verdict": "confirm", "shown_sha256": shown})
        out = tmp_path / "out"
        assert main(["pull", address, "--out", str(out)]) == 1
        assert "refused (401): log in first" in capsys.readouterr().err
        secret = tmp_path / "token"
        secret.write_text(token["token"] + "\n")
        secret.chmod(0o600)
        flags = ["--out", str(out), "--token-file", str(secret), "--since", "3650d", "--verify"]
        assert main(["pull", address, *flags]) == 0, capsys.readouterr().err
        told = json.loads(capsys.readouterr().out)
        assert (told["frames"], told["pictures"], told["kept"]) == (1, 1, 1)
        entry = rolf.get("/api/history").json()["entries"][0]
        assert (entry["actor"], entry["subject"]) == ("rolf", "export changes")
        # One that is damaged is left out, and the command says so in its status.
        (picture,) = (tmp_path / "blobs/image/1").glob("refined.*")
        picture.write_bytes(picture.read_bytes()[:-1])
        anew = ["--out", str(tmp_path / "anew"), "--token-file", str(secret)]
        assert main(["pull", address, *anew]) == 1
        printed = capsys.readouterr()
        assert json.loads(printed.out)["damaged"] == 1 and "damaged at the station: 1" in printed.err
