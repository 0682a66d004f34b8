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


@dataclass(frozen=True)
class Principal:
    """Who is behind a request. The local one, of a station without users, says its own name."""

    name: str | None
    role: Role
    via: Literal["local", "session", "token"]
    csrf: str = ""  # what a write of this session must carry


LOCAL = Principal(None, Role.REVIEWER, "local")
