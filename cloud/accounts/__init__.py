"""Who may use the station: users with roles, their sessions and API tokens, kept in the catalogue."""

from __future__ import annotations

from secondlook.cloud.accounts.roles import Principal, Role, Scope
from secondlook.cloud.accounts.sessions import end_session, find_session, open_session
from secondlook.cloud.accounts.tokens import TokenRecord, create_token, find_token, list_tokens, revoke_token
from secondlook.cloud.accounts.users import (
    UserRecord,
    add_user,
    any_users,
    list_users,
    remove_user,
    set_password,
    set_role,
)

__all__ = [
    "Principal",
    "Role",
    "Scope",
    "TokenRecord",
    "UserRecord",
    "add_user",
    "any_users",
    "create_token",
    "end_session",
    "find_session",
    "find_token",
    "list_tokens",
    "list_users",
    "open_session",
    "remove_user",
    "revoke_token",
    "set_password",
    "set_role",
]
