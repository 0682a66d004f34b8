"""API tokens: made for a user, shown once, stored as a hash, with the user's role or less."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import or_, select

from secondlook.cloud.accounts.roles import Principal, Role, Scope, reach_of, scopes_of
from secondlook.cloud.accounts.schema import ApiToken, User
from secondlook.cloud.accounts.sessions import sha256
from secondlook.cloud.accounts.users import present
from secondlook.cloud.catalogue.store import Catalogue, append_audit
from secondlook.shared.errors import AccountConflict, AccountNotFound

PREFIX = "slk_"  # so that a token found in a text is known for what it is
_SECRET_BYTES = 32


@dataclass(frozen=True)
class TokenRecord:
    id: int
    user: str
    label: str
    role: Role
    created_ns: int
    expires_ns: int | None
    revoked: bool
    scopes: frozenset[Scope]


def create_token(
    catalogue: Catalogue,
    user: str,
    *,
    label: str,
    role: Role,
    expires_ns: int | None,
    actor: str,
    now_ns: int,
    scopes: Collection[Scope] = (),
) -> tuple[int, str]:
    """Number and text of a new token; without ``scopes`` it is for all that its role may.

    Raises AccountNotFound, AccountConflict for a role above the user's, or a scope that the role does not reach.
    """
    token = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    beyond = sorted(set(scopes) - reach_of(role))
    if beyond:
        raise AccountConflict(f"the role {role.value} does not reach the scope {beyond[0].value}")
    with catalogue.writing() as session:
        if not present(session, user).role.includes(role):
            raise AccountConflict(f"{user} is no {role.value}, so no token of theirs can be one")
        entry = ApiToken(
            user=user,
            label=label,
            role=role,
            secret_sha256=sha256(token),
            created_ns=now_ns,
            expires_ns=expires_ns,
            scopes=",".join(sorted(set(scopes))),
        )
        session.add(entry)
        session.flush()
        detail = {"token_id": entry.id, "label": label, "role": role.value}
        if scopes:
            detail["scopes"] = entry.scopes
        append_audit(
            session, at_ns=now_ns, actor=actor, action="token made", subject=f"user {user}", detail=detail
        )
        return entry.id, token


def find_token(catalogue: Catalogue, token: str, *, now_ns: int) -> Principal | None:
    """Whom a token speaks for; None for one that is unknown, revoked or expired, or whose user was removed."""
    with catalogue.reading() as session:
        found = session.execute(
            select(ApiToken.user, ApiToken.role, User.role, ApiToken.id, ApiToken.scopes)
            .join(User, User.name == ApiToken.user)
            .where(
                ApiToken.secret_sha256 == sha256(token),
                ApiToken.revoked_ns.is_(None),
                or_(ApiToken.expires_ns.is_(None), ApiToken.expires_ns > now_ns),
                User.removed_ns.is_(None),
            )
        ).one_or_none()
    if found is None:
        return None
    name, granted, present_role, id_, scopes = found
    # The user may have lost a role since.
    role = granted if present_role.includes(granted) else present_role
    return Principal(name, role, "token", scopes=_scopes(scopes, role), token_id=id_)


def list_tokens(catalogue: Catalogue, user: str | None = None) -> list[TokenRecord]:
    """All tokens, or those of one user, revoked ones too."""
    query = select(ApiToken).order_by(ApiToken.id)
    if user is not None:
        query = query.where(ApiToken.user == user)
    with catalogue.reading() as session:
        return [
            TokenRecord(
                entry.id,
                entry.user,
                entry.label,
                entry.role,
                entry.created_ns,
                entry.expires_ns,
                entry.revoked_ns is not None,
                _scopes(entry.scopes, entry.role),
            )
            for entry in session.scalars(query)
        ]


def revoke_token(catalogue: Catalogue, id_: int, *, actor: str, now_ns: int, user: str | None = None) -> None:
    """Revoke a token; with ``user`` only one of theirs. Raises AccountNotFound."""
    with catalogue.writing() as session:
        entry = session.get(ApiToken, id_)
        if entry is None or entry.revoked_ns is not None or user not in (None, entry.user):
            raise AccountNotFound(f"there is no token {id_}")
        entry.revoked_ns = now_ns
        append_audit(
            session,
            at_ns=now_ns,
            actor=actor,
            action="token revoked",
            subject=f"user {entry.user}",
            detail={"token_id": id_},
        )


def _scopes(stored: str, role: Role) -> frozenset[Scope]:
    named = frozenset(map(Scope, filter(None, stored.split(","))))
    return named & reach_of(role) if named else scopes_of(role)
