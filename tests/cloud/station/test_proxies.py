"""The samples in deploy/proxy before a real station: with the proxies themselves where they are installed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from secondlook.cloud.config import LOOPBACK_NAMES, CloudConfig
from secondlook.cloud.station.app import create_app
from secondlook.shared.config import load
from tests.cloud.servers import free_port
from tests.cloud.station.people import PASSWORDS, add_people
from tests.cloud.station.seed import seed
from tests.cloud.station.server import serving

SAMPLES = Path(__file__).parents[3] / "deploy" / "proxy"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
CADDY = shutil.which("caddy")
OPENSSL = shutil.which("openssl")
PLACES = {"root": ("review.example.org", ""), "review": ("example.org", "/review")}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with fullchain.pem and privkey.pem for both names."""
    if OPENSSL is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    names = ",".join(f"DNS:{name}" for name, _ in PLACES.values())
    command = [
        OPENSSL,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=example.org",
    ]
    command += ["-addext", f"subjectAltName={names}"]
    files = ["-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem")]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return folder


@dataclass(frozen=True)
class Running:
    """A proxy that runs: the port of https, and of http where it has one."""

    port: int
    plain_port: int | None


@contextmanager
def process(command: list[str], port: int, folder: Path, **environment: str) -> Iterator[None]:
    log = folder / "proxy.log"
    with log.open("wb") as stream:
        running = subprocess.Popen(
            command, stdout=stream, stderr=stream, cwd=folder, env={**os.environ, **environment}
        )
    try:
        deadline = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert running.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        running.terminate()
        running.wait(10)


def placed(text: str, changes: dict[str, str]) -> str:
    """A sample with what stands for the reader's own replaced; each must be there."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def nginx(place: str, station: int, certificate: Path, folder: Path) -> Iterator[Running]:
    assert NGINX is not None
    port, plain = free_port(), free_port()
    name = PLACES[place][0]
    changes = {
        "127.0.0.1:7600": f"127.0.0.1:{station}",
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "listen [::]:443 ": f"listen [::1]:{port} ",
        f"/etc/ssl/{name}": str(certificate),
    }
    if place == "root":
        changes |= {"listen 80;": f"listen 127.0.0.1:{plain};", "listen [::]:80;": f"listen [::1]:{plain};"}
    text = placed((SAMPLES / f"nginx-{place}.conf").read_text(), changes)
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        text = re.sub(r"^ *listen \[::1\].*\n", "", text, flags=re.MULTILINE)
    (folder / "site.conf").write_text(text)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log stderr warn;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}include {folder}/site.conf;\n}}\n"
    )
    command = [NGINX, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0 and "[warn]" not in checked.stderr.replace('"user" directive', ""), (
        checked.stderr
    )
    with process(command, port, folder):
        yield Running(port, plain if place == "root" else None)


@contextmanager
def caddy(place: str, station: int, certificate: Path, folder: Path) -> Iterator[Running]:
    """With a certificate at hand in the place of one that it would fetch."""
    assert CADDY is not None
    port, name = free_port(), PLACES[place][0]
    own = f"\n\ttls {certificate}/fullchain.pem {certificate}/privkey.pem\n"
    changes = {"127.0.0.1:7600": f"127.0.0.1:{station}", f"\n{name} {{\n": f"\nhttps://{name}:{port} {{{own}"}
    text = placed((SAMPLES / f"Caddyfile-{place}").read_text(), changes)
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n"
    (folder / "Caddyfile").write_text(options + text)
    data = {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "HOME": str(folder)}
    files = ["--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    with process([CADDY, "run", *files], port, folder, **data):
        yield Running(port, None)


PROXIES = {"nginx": (nginx, NGINX), "caddy": (caddy, CADDY)}


@pytest.fixture(params=[f"{proxy}-{place}" for proxy in PROXIES for place in PLACES])
def client(
    request: pytest.FixtureRequest, certificate: Path, tmp_path: Path
) -> Iterator[tuple[httpx.Client, str]]:
    """A browser that reaches the station by a proxy, and the folder below which it is."""
    proxy, place = request.param.split("-")
    run, program = PROXIES[proxy]
    if program is None:
        pytest.skip(f"{proxy} is not installed")
    config = load(SAMPLES / f"station-{place}.toml", CloudConfig, {}, {}).station
    seeded = seed(tmp_path, ("ready", "ready"))
    add_people(seeded.catalogue_url)
    app = create_app(
        catalogue_url=seeded.catalogue_url,
        blobs_url=seeded.blobs_url,
        allowed_hosts=(*LOOPBACK_NAMES, *config.allowed_hosts),
        exposed=config.is_exposed,
        trusted_proxies=config.trusted_proxies,
        root_path=config.root_path,
        instance=config.instance(7600),
    )
    name, root = PLACES[place]
    (tmp_path / proxy).mkdir()
    with ExitStack() as stack:
        address = stack.enter_context(serving(app))
        station = int(address.rpartition(":")[2])
        running = stack.enter_context(run(place, station, certificate, tmp_path / proxy))
        yield stack.enter_context(browser(name, running)), root


@contextmanager
def browser(name: str, running: Running) -> Iterator[httpx.Client]:
    """Asks for ``name``, whatever address it has."""

    def aimed(request: httpx.Request) -> None:
        request.extensions["sni_hostname"] = name
        request.headers["host"] = f"{name}:{running.port}"
        request.headers["origin"] = f"https://{name}:{running.port}"
        request.headers["sec-fetch-site"] = "same-origin"

    with httpx.Client(
        base_url=f"https://127.0.0.1:{running.port}",
        verify=False,
        timeout=30,
        event_hooks={"request": [aimed]},
    ) as made:
        made.plain_port = running.plain_port  # type: ignore[attr-defined]
        yield made


def log_in(client: httpx.Client, root: str, name: str) -> httpx.Response:
    answer = client.post(f"{root}/api/login", json={"name": name, "password": PASSWORDS[name]})
    if answer.status_code == 200:
        client.headers["x-csrf-token"] = answer.json()["csrf"]
        # httpx keeps cookies by the address that it asked, and a browser by the name
        client.headers["cookie"] = answer.headers["set-cookie"].partition(";")[0]
    return answer


def test_the_station_works_behind_it(client: tuple[httpx.Client, str]) -> None:
    made, root = client
    assert made.get(f"{root}/").headers["location"] == f"{root}/login"
    page = made.get(f"{root}/login")
    assert page.status_code == 200 and f'"{root}/static/' in page.text
    assert page.headers["strict-transport-security"]  # the station knows that TLS was there
    answer = log_in(made, root, "rolf")
    assert answer.status_code == 200, answer.text
    assert "__Host-" in answer.headers["set-cookie"] and "Secure" in answer.headers["set-cookie"]
    summary = made.get(f"{root}/api/summary")
    assert summary.status_code == 200 and summary.headers["cache-control"] == "no-store"
    picture = made.get(f"{root}/api/reviews/1/images/refined")
    assert picture.headers["content-type"] == "image/webp" and len(picture.content) > 100
    exported = made.get(f"{root}/api/export/coco.json", params={"undecided": True})
    assert exported.json()["images"][0]["station_path"].startswith(f"{root}/api/reviews/")
    verdict = {"verdict": "confirm", "shown_sha256": picture.headers["x-content-sha256"]}
    judged = made.post(f"{root}/api/reviews/1/verdicts", json=verdict)
    assert judged.status_code == 200, judged.text  # a write, with the Host that browsers sent, port and all
    assert made.head(f"{root}/api/summary").status_code == 200
    if root:
        assert made.get(root).headers["location"].endswith(f"{root}/")
        outside = made.get("/api/summary")  # the rest of the site is not the station's
        assert not outside.headers.get("content-type", "").startswith("application/json")


def test_who_asks_is_what_the_proxy_saw(
    client: tuple[httpx.Client, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Thirty wrong passwords from one address make it wait, whatever addresses the client claims."""
    made, root = client
    statuses = [
        made.post(
            f"{root}/api/login",
            json={"name": f"nobody{number}", "password": "x" * 12},
            headers={"x-forwarded-for": f"203.0.113.{number}"},
        ).status_code
        for number in range(40)
    ]
    assert 401 in statuses and statuses[-1] == 429


def test_http_is_led_to_https(client: tuple[httpx.Client, str]) -> None:
    made, _ = client
    plain: int | None = made.plain_port  # type: ignore[attr-defined]
    if plain is None:
        pytest.skip("this sample leaves http to the site, or to the proxy itself")
    answer = httpx.get(f"http://127.0.0.1:{plain}/reviews/12?a=b", headers={"host": "review.example.org"})
    assert (answer.status_code, answer.headers["location"]) == (
        308,
        "https://review.example.org/reviews/12?a=b",
    )


@pytest.mark.skipif(CADDY is None, reason="caddy is not installed")
@pytest.mark.parametrize("place", PLACES)
def test_caddy_takes_the_sample_as_it_is(place: str, tmp_path: Path) -> None:
    assert CADDY is not None
    files = ["--config", str(SAMPLES / f"Caddyfile-{place}"), "--adapter", "caddyfile"]
    done = subprocess.run(
        [CADDY, "adapt", *files],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("place", PLACES)
def test_stations_before_which_they_stand(place: str) -> None:
    config = load(SAMPLES / f"station-{place}.toml", CloudConfig, {}, {}).station
    name, root = PLACES[place]
    assert config.host == "127.0.0.1" and config.is_exposed  # so that it starts with users only
    assert (config.allowed_hosts, config.root_path, config.port) == ((name,), root, 7600)
    for sample in SAMPLES.glob(f"*-{place}*"):
        if sample.suffix != ".toml":
            assert f"127.0.0.1:{config.port}" in sample.read_text() and name in sample.read_text(), sample


@pytest.mark.parametrize("place", PLACES)
def test_what_traefik_is_told_refers_to_what_is_there(place: str) -> None:
    static: dict[str, Any] = yaml.safe_load((SAMPLES / "traefik.yaml").read_text())
    site: dict[str, Any] = yaml.safe_load((SAMPLES / f"traefik-{place}.yaml").read_text())
    assert site.keys() == {"http"} and site["http"].keys() == {"routers", "services"}
    (router,), (service,) = site["http"]["routers"].values(), site["http"]["services"].values()
    name, root = PLACES[place]
    assert set(router["entryPoints"]) <= set(static["entryPoints"])
    assert router["service"] in site["http"]["services"]
    assert router["tls"]["certResolver"] in static["certificatesResolvers"]
    called = re.findall(r"(\w+)\(`([^`]*)`\)", router["rule"])
    assert ("Host", name) in called
    assert [one for one in called if one[0] != "Host"] == (
        [("Path", root), ("PathPrefix", f"{root}/")] if root else []
    )
    balancer = service["loadBalancer"]
    assert balancer["passHostHeader"] is True and balancer["servers"] == [{"url": "http://127.0.0.1:7600"}]
    redirect = static["entryPoints"]["web"]["http"]["redirections"]["entryPoint"]
    assert redirect["to"] in static["entryPoints"] and redirect["scheme"] == "https"
    # Whose X-Forwarded-For is believed: nobody's.
    assert not any("forwardedHeaders" in entry for entry in static["entryPoints"].values())
    assert static["providers"]["file"]["directory"] in (SAMPLES / f"traefik-{place}.yaml").read_text()


def test_every_sample_is_on_the_page() -> None:
    page = (SAMPLES / "README.md").read_text()
    linked = set(re.findall(r"\]\(([^)]+)\)", page))
    assert linked == {path.name for path in SAMPLES.iterdir()} - {"README.md"}
