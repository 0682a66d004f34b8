"""Sessions of browsers: a random secret in a cookie, its hash in the catalogue, an end after idleness or in any case.

A page that keeps itself up to date asks all the time; only what a person does counts against idleness.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from sqlalchemy import delete, or_, select

from secondlook.cloud.accounts.roles import Principal
from secondlook.cloud.accounts.schema import User, UserSession
from secondlook.cloud.accounts.users import present
from secondlook.cloud.catalogue.store import Catalogue, append_audit
from secondlook.cloud.config import SessionTimes

_NANOSECONDS = 1_000_000_000
_WRITE_EVERY_NS = 60 * _NANOSECONDS
_SECRET_BYTES = 32


def open_session(catalogue: Catalogue, name: str, times: SessionTimes, *, now_ns: int) -> str:
    """Log a user in; returns the secret for the cookie. Raises AccountNotFound."""
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    with catalogue.writing() as session:
        present(session, name)
        session.execute(
            delete(UserSession).where(
                or_(
                    UserSession.seen_ns <= now_ns - times.idle_ns,
                    UserSession.created_ns <= now_ns - times.max_ns,
                )
            )
        )
        session.add(UserSession(secret_sha256=sha256(secret), user=name, created_ns=now_ns, seen_ns=now_ns))
        append_audit(session, at_ns=now_ns, actor=name, action="logged in", subject=f"user {name}", detail={})
    return secret


def find_session(
    catalogue: Catalogue, secret: str, times: SessionTimes, *, active: bool, now_ns: int
) -> Principal | None:
    """Who is logged in with this secret; None when nobody is. ``active``: a person did something."""
    with catalogue.reading() as session:
        found = session.execute(
            select(UserSession, User.role)
            .join(User, User.name == UserSession.user)
            .where(UserSession.secret_sha256 == sha256(secret), User.removed_ns.is_(None))
        ).one_or_none()
        if found is None:
            return None
        entry, role = found
        name, seen_ns, created_ns = entry.user, entry.seen_ns, entry.created_ns
    if now_ns - seen_ns >= times.idle_ns or now_ns - created_ns >= times.max_ns:
        return None
    if active and now_ns - seen_ns >= _WRITE_EVERY_NS:
        with catalogue.writing() as session:
            again = session.get(UserSession, sha256(secret))
            if again is not None:
                again.seen_ns = max(again.seen_ns, now_ns)
    return Principal(name, role, "session", csrf=csrf_of(secret))


def end_session(catalogue: Catalogue, secret: str) -> None:
    """Log out."""
    with catalogue.writing() as session:
        session.execute(delete(UserSession).where(UserSession.secret_sha256 == sha256(secret)))


def csrf_of(secret: str) -> str:
    """What a page must send along with each write: a page of another site cannot know it."""
    return hmac.new(secret.encode(), b"csrf", hashlib.sha256).hexdigest()


def sha256(secret: str) -> str:
    # A secret of 256 random bits needs no slow hash.
    return hashlib.sha256(secret.encode()).hexdigest()
