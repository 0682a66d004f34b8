"""Checks of a machine that both sides share: packages, models, providers, disk, clock, key files, owners."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from secondlook.operate.findings import Finding, fault, ok, skipped, warning
from secondlook.shared.conditions import WatchConfig, shown
from secondlook.shared.errors import ConfigError, DeliveryFailed, SecondlookError
from secondlook.shared.hostinfo import clock_is_kept, temperatures, throttle_counts
from secondlook.shared.mail import Mailer, SmtpConfig
from secondlook.shared.models import find_model

# Module, and the package that brings it, by the extra that wants them.
PACKAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "edge": (("av", "av"), ("PIL", "pillow"), ("onnxruntime", "onnxruntime")),
    "cloud": (
        ("alembic", "alembic"),
        ("argon2", "argon2-cffi"),
        ("av", "av"),
        ("fastapi", "fastapi"),
        ("fsspec", "fsspec"),
        ("onnxruntime", "onnxruntime"),
        ("PIL", "pillow"),
        ("sqlalchemy", "sqlalchemy"),
        ("uvicorn", "uvicorn"),
    ),
    "scale": (("nats", "nats-py"), ("psycopg", "psycopg"), ("s3fs", "s3fs")),
}
_EARLIEST = 1_700_000_000  # no clock of a host that runs this is before 2023
_HOT_CELSIUS = 80.0


def check_packages(extras: Sequence[str]) -> Iterator[Finding]:
    for extra in extras:
        missing = [name for module, name in PACKAGES[extra] if importlib.util.find_spec(module) is None]
        if missing:
            text = f"{', '.join(missing)} not installed"
            yield fault(f"packages of {extra}", text, f"pip install 'secondlook[{extra}]'")
        else:
            yield ok(
                f"packages of {extra}", ", ".join(f"{name} {_version(name)}" for _, name in PACKAGES[extra])
            )


def _version(name: str) -> str:
    for candidate in (name, f"{name}-gpu"):
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def check_model(what: str, name: str, kind: str | None = None) -> Finding:
    """Whether a model is there, and is what its manifest says."""
    try:
        folder = find_model(name, kind=kind)
    except SecondlookError as error:
        return fault(
            what, str(error), "put the model back (pip install, or `secondlook models add`), or name another"
        )
    return ok(what, f"{folder.name}, hash {folder.model_hash.hex()}")


def check_device(what: str, device: str) -> Finding:
    from secondlook.shared.inference import choose_device

    try:
        chosen = choose_device(device)
    except SecondlookError as error:
        return fault(what, str(error), 'install the GPU\'s libraries, or set device = "auto"')
    return ok(what, f"networks run on {chosen} (device = {device!r})")


def check_folder(what: str, folder: Path, watch: WatchConfig) -> Iterator[Finding]:
    """Whether a data folder is there, ours to write, closed to others, and has room."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        yield skipped(what, f"{folder} is not there yet; it is made at the first start")
        return
    except OSError as error:
        yield fault(what, f"{folder}: {error.strerror}", "run this as root, or as the service's user")
        return
    owner = user_name(status.st_uid)
    if not os.access(folder, os.W_OK | os.X_OK):
        me = user_name(os.geteuid())
        yield fault(
            what, f"{folder} belongs to {owner}, {me} may not write it", f"run as {owner}, or chown it"
        )
    elif stat.S_IMODE(status.st_mode) & 0o077:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        yield warning(what, f"{folder} is open to other users (mode {mode})", f"chmod 0700 {folder}")
    else:
        yield ok(what, f"{folder} belongs to {owner}")
    yield from check_disk(folder, watch)


def check_disk(folder: Path, watch: WatchConfig) -> Iterator[Finding]:
    usage, inodes = shutil.disk_usage(folder), os.statvfs(folder)
    free = shown(usage.free, "bytes")
    if usage.free <= watch.low_disk_bytes:
        yield fault(
            "disk", f"{free} are free at {folder}", "make room, or keep less ([retention], spool.max_bytes)"
        )
    elif inodes.f_files and inodes.f_favail < inodes.f_files // 100:
        yield fault("disk", f"{inodes.f_favail} inodes are free at {folder}", "delete many small files")
    else:
        yield ok("disk", f"{free} are free at {folder}")


def check_clock() -> Iterator[Finding]:
    now = time.gmtime(time.time())
    if time.time() < _EARLIEST:
        yield fault(
            "clock",
            f"it is {time.strftime('%Y-%m-%d', now)} here",
            "set the clock, and let it follow a time server",
        )
        return
    kept = clock_is_kept()
    if kept is None:
        yield skipped("clock", "the kernel does not say whether it is kept in time")
    elif kept:
        yield ok("clock", f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} UTC, kept in time")
    else:
        cure = "let it follow a time server (systemd-timesyncd, chrony); in a container that is the host's business"
        yield warning("clock", "nothing keeps it in time, as the kernel knows", cure)


def check_heat() -> Iterator[Finding]:
    heat, slowed = temperatures(), throttle_counts()
    if heat:
        sensor, celsius = max(heat.items(), key=lambda one: one[1])
        if celsius >= _HOT_CELSIUS:
            yield warning(
                "temperature", f"{sensor} has {celsius:.0f} °C", "give it air; a hot processor slows down"
            )
        else:
            yield ok("temperature", f"{sensor} has {celsius:.0f} °C")
    if any(slowed.values()):
        times = ", ".join(f"{what} {many}" for what, many in slowed.items())
        yield warning(
            "throttling", f"the processor was slowed down since the start: {times}", "cool it, or its supply"
        )


def check_key_file(what: str, path: Path | None, *, secret: bool) -> Iterator[Finding]:
    """Whether a CURVE key file can be read, and by whom. Yields nothing for one that is not set."""
    from secondlook.shared.keyfiles import read_key_pair, read_public_key

    if path is None:
        return
    try:
        key = read_key_pair(path)[0] if secret else read_public_key(path)
        owner, mode = user_name(path.stat().st_uid), stat.S_IMODE(path.stat().st_mode)
    except SecondlookError as error:
        yield fault(what, str(error), _key_cure(path, secret=secret))
        return
    yield ok(what, f"{path}, key {key.decode()}, owner {owner}, mode {mode:04o}")


def _key_cure(path: Path, *, secret: bool) -> str:
    if not path.exists():
        return "make it with `secondlook keys new`, or copy it here from where it was made"
    return f"chown secondlook {path} && chmod {'0600' if secret else '0644'} {path}"


def is_listening(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2.0):
            return True
    except OSError:
        return False


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def check_mail(config: SmtpConfig) -> Iterator[Finding]:
    """Whether the mail server takes us, where one is set. No mail is sent."""
    if not config.host:
        return
    where = f"{config.host}:{config.port}"
    try:
        Mailer(config).check()
    except ConfigError as error:
        yield fault("mail server", str(error), "see [smtp] in docs/config.md")
    except DeliveryFailed as error:
        yield fault("mail server", str(error), "check smtp.host, port, security, user and password_file")
    else:
        yield ok("mail server", f"{where} takes us")
