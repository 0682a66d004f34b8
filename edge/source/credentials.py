"""User and password of a source: where they may stand, and how they reach its address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from secondlook.edge.config import SourceConfig
from secondlook.shared.config import SOURCE_CREDENTIALS as VARIABLE
from secondlook.shared.errors import ConfigError
from secondlook.shared.keyfiles import check_private, read_private
from secondlook.shared.redact import Login, has_secret, with_login
from secondlook.shared.settings import SourceAddress

CURE = (
    "put user and password into a private file (source.credentials_file) or into"
    f" {VARIABLE}, or the whole address into the --config file"
)
_SYSTEMD_FOLDER = "CREDENTIALS_DIRECTORY"
_SYSTEMD_NAME = "source-credentials"


def with_credentials(
    source: SourceConfig, config_file: Path | None, environment: Mapping[str, str]
) -> SourceConfig:
    """The source with its user and password in the address.

    They come from `credentials_file`, else from the environment, else from the systemd credential
    ``source-credentials``; an address of the configuration file that holds them itself wants that file private.

    :raises ConfigError: they cannot be read, or the source has no use for them
    :raises SecretExposed: others may read the file
    """
    if config_file is not None and has_secret(source.address):
        try:
            status = config_file.stat()
        except OSError as error:
            raise ConfigError(f"cannot read {config_file}: {error.strerror}") from error
        check_private(config_file, status)
    found = _credentials(source, environment)
    if found is None:
        return source
    where, text = found
    user, colon, password = text.strip("\r\n").partition(":")
    if not colon or not user or "\n" in text.strip("\r\n"):
        raise ConfigError(f"{where} does not hold one line USER:PASSWORD")
    if "://" not in source.address or source.address.lower().startswith("file:"):
        if source.credentials_file is None:
            return source  # they are there for another source
        raise ConfigError(f"{where}: only a source that is an address takes user and password")
    return replace(source, address=SourceAddress(with_login(source.address, Login(user, password))))


def _credentials(source: SourceConfig, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """(where they stand, their text), or None when there are none."""
    path = source.credentials_file
    if path is None and environment.get(VARIABLE):
        return VARIABLE, environment[VARIABLE]
    if path is None and environment.get(_SYSTEMD_FOLDER):
        candidate = Path(environment[_SYSTEMD_FOLDER], _SYSTEMD_NAME)
        path = candidate if candidate.exists() else None
    if path is None:
        return None
    try:
        return str(path), read_private(path)
    except OSError as error:
        raise ConfigError(f"cannot read credentials_file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text") from error
