"""Passwords in addresses: how an address is shown, whether it holds a secret, and how user and password are taken out.

Cameras and their makers write addresses that no standard knows: raw ``#``, ``/``, ``?`` and ``[`` in a password,
``rtsp://host/user=admin&password=...`` in a path. So what is shown is decided by plain rules and not by a parser:
everything between ``//`` and the last ``@`` is a login, and whatever follows a name like ``password=`` is a secret.
Too much may be hidden by this, too little may not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from secondlook.shared.errors import ConfigError

HIDDEN = "***"
# In these a lone name before the "@" is a user; elsewhere it may be a token.
_NAME_ALONE = ("postgres", "mysql", "rtsp", "rtmp")
_LOCAL = ("file", "sqlite")
_SCHEME = re.compile(r"(?<![a-zA-Z0-9+.-])([a-zA-Z][a-zA-Z0-9+.-]{0,40})://")
_WORD = re.compile(r"\S+")
_USER = re.compile(r"[\w.+%~-]*")
_KEY = (
    r"(?P<name>(?:(?<![A-Za-z0-9])(?:[A-Za-z0-9]{1,20}[_-]){0,3}[A-Za-z0-9]{0,20}"
    r"(?:pass(?:word|wd|phrase|code)?|pwd|psw|secret|token|signature|credentials?)"
    r"|[?&;/](?:key|api_?key|sig|auth))=)"
)
_ANOTHER = r"(?!&[A-Za-z_][\w.-]*=)"
_SECRET = re.compile(
    _KEY + rf"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|(?:{_ANOTHER}[^\s'\"])+)", re.IGNORECASE
)
_WHOLE_SECRET = re.compile(_KEY + rf"(?:{_ANOTHER}.)+", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::\d{1,5})?(?=[/?#]|$)")
_HOST_AND_PORT = re.compile(r"[^:]*(?::\d{0,5})?|\[[^\]]*\](?::\d{0,5})?")


def redacted(text: str) -> str:
    """``text`` with the secrets of all addresses in it replaced by ``***``. An address ends at white space."""
    return _WORD.sub(lambda found: _hide_login(found[0]), _SECRET.sub(_hide_value, text))


def redacted_address(address: str) -> str:
    """One address, with its secrets replaced by ``***``; the secrets may hold anything, white space too."""
    return _hide_login(_WHOLE_SECRET.sub(_hide_value, address))


def has_secret(address: str) -> bool:
    """Whether an address carries a password or another secret."""
    return redacted_address(address) != address


def refuse_on_command_line(flag: str, address: object, cure: str) -> None:
    """Raise ConfigError, which names the flag and the cure, when an address given there holds a secret."""
    if isinstance(address, str) and has_secret(address):
        raise ConfigError(f"{flag}: everybody can read a command line; {cure}")


def _hide_value(found: re.Match[str]) -> str:
    return f"{found['name']}{HIDDEN}"


def _hide_login(address: str) -> str:
    """Without what stands between the first ``//`` and the last ``@``."""
    at = address.rfind("@")
    found = next((one for one in _SCHEME.finditer(address) if not one[1].lower().startswith(_LOCAL)), None)
    if found is None or at < found.end():
        return address
    user, colon, password = address[found.end() : at].partition(":")
    plain = _USER.fullmatch(user) is not None
    if colon and plain and not password:
        return address  # a name with an empty password is no secret
    if not colon and plain and found[1].lower().startswith(_NAME_ALONE):
        return address
    shown = f"{user}:{HIDDEN}" if colon and plain else HIDDEN
    return f"{address[: found.end()]}{shown}{address[at:]}"


@dataclass(frozen=True)
class Login:
    """User and password as they are, not encoded for an address."""

    user: str
    password: str


def split_login(address: str) -> tuple[str, Login | None]:
    """(address without its login, login or None) of ``scheme://[user[:password]@]host...``.

    A password may hold ``@ # / ?`` and ``[`` raw, as long as the host behind it can be made out.
    """
    scheme, slashes, rest = address.partition("://")
    if not slashes:
        return address, None
    head = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in head:
        at = head.rindex("@")
    elif _HOST_AND_PORT.fullmatch(head):
        return address, None
    else:  # not a host: the password goes on behind the "/", "?" or "#"
        ends = [found.start() for found in re.finditer("@", rest) if _HOST.match(rest, found.end())]
        if not ends:
            return address, None
        at = ends[0]
    user, _, password = rest[:at].partition(":")
    return f"{scheme}://{rest[at + 1 :]}", Login(unquote(user), unquote(password))


def with_login(address: str, login: Login) -> str:
    """The address with this login, encoded, in place of the one that it had."""
    scheme, _, rest = split_login(address)[0].partition("://")
    return f"{scheme}://{quote(login.user, safe='')}:{quote(login.password, safe='')}@{rest}"
