"""E-mail by SMTP, with the standard library: where it is handed in, and handing it in.

Two things use it: conditions that begin and end (`shared.alerts`), and `secondlook notify`. A message is handed in when
the server has taken it; what a receiver far away makes of it, nobody here hears.
"""

from __future__ import annotations

import logging
import re
import smtplib
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate
from pathlib import Path
from typing import Annotated, Literal

from secondlook.shared.address import is_loopback
from secondlook.shared.errors import ConfigError, DeliveryFailed
from secondlook.shared.keyfiles import read_private
from secondlook.shared.settings import Settings, within

log = logging.getLogger(__name__)

_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,255}")
_MAX_SUBJECT = 200  # characters


@dataclass(frozen=True)
class SmtpConfig(Settings):
    """The server that takes e-mail of `[watch]` and `[[email]]` (docs/operations.md)."""

    host: str = ""  # name or address of the server; none: no e-mail
    port: Annotated[int, within(1, 65_535, "")] = 587  # with tls 465, as a rule; with none 25
    # starttls, tls from the first byte on, or none: on this machine, or a network of one's own, and without a password
    security: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: Path | None = None  # who signed its certificate; else the system's
    user: str = ""  # who logs in; none: nobody
    password_file: Path | None = None  # the user's; for its owner's eyes alone
    sender: str = ""  # address that mails come from
    # a server that is silent for this long has not taken the mail
    timeout_seconds: Annotated[float, within(0.1, 600, "seconds")] = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.host:
            return
        check_addresses("sender", (self.sender,))
        if (self.password_file is None) != (not self.user):
            raise ConfigError("user and password_file go together")
        if self.user and self.security == "none" and not is_loopback(f"tcp://{self.host}:{self.port}"):
            raise ConfigError(f'security is "none": the password would travel to {self.host} in the clear')


def check_addresses(setting: str, addresses: Sequence[str]) -> None:
    """Raises ConfigError for what is no address of e-mail, as name@example.org."""
    for address in addresses:
        if _ADDRESS.fullmatch(address) is None:
            raise ConfigError(f"{setting}: {address!r} is not as name@example.org")


class Mailer:
    """Hands mails in, each over a connection of its own: they are few, and servers end connections that wait."""

    def __init__(self, config: SmtpConfig) -> None:
        """Raises ConfigError, SecretExposed for a password or certificate that cannot be used."""
        if not config.host:
            raise ConfigError("e-mail is asked for, and no server is set: smtp.host")
        self._config = config
        try:
            self._password = ""
            if config.password_file is not None:
                self._password = read_private(config.password_file).partition("\n")[0]
            self._tls = ssl.create_default_context(cafile=config.ca_file)
        except ConfigError:
            raise
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"smtp: {error}") from error

    def send(self, to: Sequence[str], subject: str, text: str, uid: str) -> None:
        """Returns when the server has the mail. `uid` makes its Message-ID, the same each time it is tried.

        Raises DeliveryFailed. Where the server refuses some of several addresses, the others have it: the log says so.
        """
        message = EmailMessage(policy=SMTP)
        message["From"] = self._config.sender
        message["To"] = ", ".join(to)
        message["Subject"] = one_line(subject)
        message["Date"] = formatdate()
        message["Message-ID"] = f"<{uid}@{self._config.sender.partition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"  # nobody's holiday notice answers it
        message.set_content(text)
        with self._connected() as server:
            refused = server.send_message(message, self._config.sender, list(to))
        for address, (code, why) in refused.items():
            log.warning(
                "%s: the mail server does not take mail for %s: %s", self._where, address, _said(code, why)
            )

    def check(self) -> None:
        """Connect and log in, and send nothing. Raises DeliveryFailed."""
        with self._connected() as server:
            server.noop()

    @property
    def _where(self) -> str:
        return f"{self._config.host}:{self._config.port}"

    @contextmanager
    def _connected(self) -> Iterator[smtplib.SMTP]:
        """A server that knows us, until the block ends. Raises DeliveryFailed, of the block too."""
        config = self._config
        try:
            with self._open() as server:
                if config.security == "starttls":
                    server.starttls(context=self._tls)
                if config.user:
                    server.login(config.user, self._password)
                yield server
        except smtplib.SMTPRecipientsRefused as error:
            whys = {_said(*why) for why in error.recipients.values()}
            raise DeliveryFailed(f"{self._where}: no address is taken: {'; '.join(sorted(whys))}") from error
        except smtplib.SMTPResponseException as error:
            raise DeliveryFailed(f"{self._where}: {_said(error.smtp_code, error.smtp_error)}") from error
        except (OSError, ValueError) as error:  # smtplib's own are OSErrors, too
            why = " ".join(str(error).split()) or type(error).__name__
            raise DeliveryFailed(f"{self._where}: {why}") from error

    def _open(self) -> smtplib.SMTP:
        config = self._config
        if config.security == "tls":
            return smtplib.SMTP_SSL(
                config.host, config.port, timeout=config.timeout_seconds, context=self._tls
            )
        return smtplib.SMTP(config.host, config.port, timeout=config.timeout_seconds)


def one_line(text: str) -> str:
    """A text that may stand in a header: names of cameras and classes come from elsewhere."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:_MAX_SUBJECT]


def _said(code: int, why: bytes | str) -> str:
    text = why.decode("utf-8", "replace") if isinstance(why, bytes) else why
    return f"{code} {one_line(text)}"
