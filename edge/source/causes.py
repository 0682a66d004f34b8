"""Why a file or stream cannot be read: FFmpeg's errors as ours, one class per cause."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

import av.error

from secondlook.shared.errors import (
    SourceError,
    SourceHostUnknown,
    SourceNotFound,
    SourceStalled,
    SourceUnauthorized,
    SourceUnreachable,
    SourceUnreadable,
    SourceUnsupported,
)


def lost(error: BaseException, shown: str, seconds: float) -> SourceError:
    """Why a live stream that was open ended."""
    if isinstance(error, av.error.ExitError | av.error.TimeoutError):
        return SourceStalled(f"source {shown} sent nothing for {seconds:.0f} s")
    if isinstance(error, OSError) and error.errno not in (None, errno.EIO):
        return SourceUnreachable(f"source {shown} broke the connection ({words(error)})")
    return SourceUnreadable(f"source {shown} delivers no more frames")


@dataclass(frozen=True)
class Peer:
    """Whom an error is about: the source as it may be shown, ``host[:port]/...`` if it is not a file."""

    shown: str
    host: str | None
    has_login: bool


def cause(error: BaseException, peer: Peer, seconds: float) -> SourceError:
    """Why a source cannot be opened."""
    shown = peer.shown
    if isinstance(error, av.error.HTTPUnauthorizedError):
        what = "refuses this user or password" if peer.has_login else "asks for a user and password"
        return SourceUnauthorized(f"source {shown}: its server {what} (401)")
    if isinstance(error, av.error.HTTPForbiddenError):
        return SourceUnauthorized(f"source {shown}: its server forbids this to us (403)")
    if isinstance(error, av.error.HTTPNotFoundError):
        return SourceNotFound(f"source {shown}: its server knows no such path (404)")
    if isinstance(error, av.error.FileNotFoundError | av.error.IsADirectoryError):
        return SourceNotFound(f"source {shown} does not exist")
    if isinstance(error, av.error.HTTPError):
        return SourceUnreadable(f"source {shown}: its server answers with an error ({words(error)})")
    if isinstance(error, av.error.ConnectionRefusedError):
        return SourceUnreachable(f"source {shown}: its host refuses the connection; is the port right?")
    if isinstance(error, av.error.ExitError | av.error.TimeoutError):
        return SourceStalled(f"source {shown} did not answer with a stream in {seconds:.0f} s")
    if isinstance(
        error, av.error.DecoderNotFoundError | av.error.DemuxerNotFoundError | av.error.ProtocolNotFoundError
    ):
        return SourceUnsupported(f"source {shown}: its format or codec is not known here ({words(error)})")
    if isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return SourceUnreachable(f"source {shown}: no way leads to its host ({words(error)})")
    if isinstance(error, OSError) and error.errno == errno.EIO and not _resolves(peer.host):
        return SourceHostUnknown(f"source {shown}: the name of its host has no address (DNS)")
    if isinstance(error, OSError) and error.errno == errno.EPROTONOSUPPORT:
        return SourceUnsupported(f"source {shown} does not offer this transport (source.transport)")
    if isinstance(error, av.error.InvalidDataError):
        return SourceUnreadable(f"source {shown} is not a video or stream that can be decoded")
    return SourceUnreadable(f"source {shown} cannot be opened ({words(error)})")


def words(error: BaseException) -> str:
    """What FFmpeg says, without the address that it may add."""
    return str(getattr(error, "strerror", None) or type(error).__name__)


def _resolves(host: str | None) -> bool:
    """Whether the host of ``host[:port]/...`` has an address; a file needs none."""
    if host is None:
        return True
    authority = host.partition("/")[0].partition("?")[0]
    name = authority[1:].partition("]")[0] if authority.startswith("[") else authority.partition(":")[0]
    try:
        socket.getaddrinfo(name, None)
    except (OSError, UnicodeError):
        return False
    return True
