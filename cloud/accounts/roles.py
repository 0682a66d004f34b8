"""Roles, and who is behind a request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Role(StrEnum):
    """Each role has the rights of those before it."""

    VIEWER = "viewer"  # sees everything, changes nothing
    REVIEWER = "reviewer"  # gives verdicts and undoes their own
    ADMIN = "admin"  # manages users

    def includes(self, other: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(other)


class Scope(StrEnum):
    """What a token is for. It has no more than its role either."""

    READ = "read"
    REVIEW = "review"
    ADMIN = "admin"
    UNSETTLED = "unsettled"  # hears of verdicts on frames that others have yet to judge; never had without being named


# A role's own rights, and the scope that a token needs for them.
SCOPES = {Role.VIEWER: Scope.READ, Role.REVIEWER: Scope.REVIEW, Role.ADMIN: Scope.ADMIN}
ALL_SCOPES = frozenset(SCOPES.values())


def scopes_of(role: Role) -> frozenset[Scope]:
    """What a role's tokens are for, where nothing else is said."""
    return frozenset(scope for lesser, scope in SCOPES.items() if role.includes(lesser))


def reach_of(role: Role) -> frozenset[Scope]:
    """All that a role's tokens can be for."""
    return scopes_of(role) | ({Scope.UNSETTLED} if role is Role.ADMIN else frozenset())


@dataclass(frozen=True)
class Principal:
    """Who is behind a request. The local one, of a station without users, says its own name."""

    name: str | None
    role: Role
    via: Literal["local", "session", "token"]
    csrf: str = ""  # what a write of this session must carry
    scopes: frozenset[Scope] = ALL_SCOPES
    token_id: int | None = None

    @property
    def key(self) -> str:
        """Under which name its requests are counted: each token for itself."""
        return f"{self.via} {self.name if self.token_id is None else self.token_id}"


LOCAL = Principal(None, Role.REVIEWER, "local")
