"""Users: added, changed and removed, each in one transaction that leaves a line in the audit trail."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from secondlook.cloud.accounts.passwords import check_password, hash_password
from secondlook.cloud.accounts.roles import Role
from secondlook.cloud.accounts.schema import User, UserSession
from secondlook.cloud.catalogue import Handover
from secondlook.cloud.catalogue.store import Catalogue, append_audit
from secondlook.shared.errors import AccountConflict, AccountNotFound, ConfigError

NAME_PATTERN = r"[a-z0-9][a-z0-9._@-]{0,63}"


@dataclass(frozen=True)
class UserRecord:
    name: str
    role: Role
    created_ns: int
    removed: bool


def any_users(catalogue: Catalogue) -> bool:
    """Whether there is, or ever was, a user."""
    with catalogue.reading() as session:
        return session.scalars(select(User.name).limit(1)).first() is not None


def list_users(catalogue: Catalogue) -> list[UserRecord]:
    """All users by name, removed ones too."""
    with catalogue.reading() as session:
        return [
            UserRecord(user.name, user.role, user.created_ns, user.removed_ns is not None)
            for user in session.scalars(select(User).order_by(User.name))
        ]


def add_user(catalogue: Catalogue, name: str, role: Role, password: str, *, actor: str, now_ns: int) -> None:
    """Raises ConfigError for a bad name, PasswordTooWeak, AccountConflict when the name is or was taken."""
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise ConfigError(f"{name!r} is not a user name: 1 to 64 of a-z, 0-9 and . _ @ -, the first no sign")
    check_password(name, password)
    hashed = hash_password(password)
    with catalogue.writing() as session:
        known = session.get(User, name)
        if known is not None:
            was = "is taken" if known.removed_ns is None else "belonged to a user who was removed"
            raise AccountConflict(f"the name {name} {was}")
        session.add(User(name=name, role=role, password_hash=hashed, created_ns=now_ns))
        _audit(session, now_ns, actor, "user added", name, {"role": role.value})


def set_password(catalogue: Catalogue, name: str, password: str, *, actor: str, now_ns: int) -> None:
    """Also ends the user's sessions. Raises PasswordTooWeak, AccountNotFound."""
    check_password(name, password)
    hashed = hash_password(password)
    with catalogue.writing() as session:
        present(session, name).password_hash = hashed
        end_sessions_of(session, name)
        _audit(session, now_ns, actor, "password changed", name, {})


def set_role(catalogue: Catalogue, name: str, role: Role, *, actor: str, now_ns: int) -> None:
    """Takes effect with the user's next request; who judges no more, is handed no frames. Raises AccountNotFound."""
    with catalogue.writing() as session:
        user = present(session, name)
        detail = {"role_before": user.role.value, "role": role.value}
        user.role = role
        if not role.includes(Role.REVIEWER):
            _give_back(session, name)
        _audit(session, now_ns, actor, "role changed", name, detail)


def remove_user(catalogue: Catalogue, name: str, *, actor: str, now_ns: int) -> None:
    """Ends the user's sessions and tokens; the name is not given out again, and frames handed to it are everybody's.

    Raises AccountNotFound.
    """
    with catalogue.writing() as session:
        user = present(session, name)
        user.removed_ns, user.password_hash = now_ns, ""
        _give_back(session, name)
        end_sessions_of(session, name)
        _audit(session, now_ns, actor, "user removed", name, {})


def present(session: Session, name: str) -> User:
    """A user who was not removed. Raises AccountNotFound."""
    user = session.get(User, name)
    if user is None or user.removed_ns is not None:
        raise AccountNotFound(f"there is no user {name}")
    return user


def end_sessions_of(session: Session, name: str) -> None:
    session.execute(delete(UserSession).where(UserSession.user == name))


def _give_back(session: Session, name: str) -> None:
    session.execute(delete(Handover).where(Handover.colleague == name))


def _audit(session: Session, now_ns: int, actor: str, action: str, name: str, detail: dict[str, str]) -> None:
    append_audit(session, at_ns=now_ns, actor=actor, action=action, subject=f"user {name}", detail=detail)
