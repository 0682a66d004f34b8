"""The part of the station's API that is about people: logging in and out, passwords, tokens, users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from secondlook.cloud import accounts
from secondlook.cloud.accounts import Principal, Role
from secondlook.cloud.accounts.login import LoginThrottle, log_in
from secondlook.cloud.accounts.passwords import MAX_LENGTH
from secondlook.cloud.accounts.sessions import csrf_of
from secondlook.cloud.accounts.users import NAME_PATTERN
from secondlook.cloud.catalogue import Catalogue
from secondlook.cloud.config import SessionTimes
from secondlook.cloud.station.access import (
    Caller,
    GuardedRoute,
    clear_session_cookie,
    session_secret,
    set_session_cookie,
)
from secondlook.cloud.station.schema import Incoming
from secondlook.shared.errors import AccountConflict, LoginRefused

_NANOSECONDS = 1_000_000_000
_DAY_NS = 86_400 * _NANOSECONDS
_MAX_DAYS = 3650

Name = Annotated[str, Path(pattern=f"^{NAME_PATTERN}$")]
TokenId = Annotated[int, Path(ge=1, le=2**63 - 1)]
Password = Annotated[str, Field(max_length=MAX_LENGTH, repr=False)]


class LoginIn(Incoming):
    name: str = Field(max_length=64)
    password: Password


class PasswordChangeIn(Incoming):
    present: Password
    new: Password


class PasswordIn(Incoming):
    password: Password


class RoleIn(Incoming):
    role: Role


class UserIn(Incoming):
    name: str = Field(pattern=f"^{NAME_PATTERN}$")
    role: Role
    password: Password


class TokenIn(Incoming):
    label: str = Field(min_length=1, max_length=64)
    role: Role = Role.VIEWER
    days: int | None = Field(None, ge=1, le=_MAX_DAYS)


class Me(BaseModel):
    name: str | None = Field(description="Null where there is no log-in; the reviewer then names itself.")
    role: Role
    csrf: str = Field(description="To be sent as `X-CSRF-Token` with every write of this session.")


class User(BaseModel):
    name: str
    role: Role
    removed: bool


class Token(BaseModel):
    id: int
    label: str
    role: Role
    expires_ns: int | None
    revoked: bool


class NewToken(BaseModel):
    id: int
    token: str = Field(description="Shown this once. Send it as `Authorization: Bearer …`.")


def build_account_router(
    catalogue: Catalogue, throttle: LoginThrottle, times: SessionTimes, *, now_ns: Callable[[], int]
) -> APIRouter:
    """Routes about people, below /api."""
    router = APIRouter(prefix="/api", route_class=GuardedRoute)
    _add_login(router, catalogue, throttle, times, now_ns=now_ns)
    _add_own(router, catalogue, throttle, now_ns=now_ns)
    _add_users(router, catalogue, now_ns=now_ns)
    return router


def _add_login(
    router: APIRouter,
    catalogue: Catalogue,
    throttle: LoginThrottle,
    times: SessionTimes,
    *,
    now_ns: Callable[[], int],
) -> None:
    @router.post("/login")
    def login(body: LoginIn, request: Request, response: Response) -> Me:
        """Log in; the session is a cookie. 401 for a wrong name or password, 429 after too many of them."""
        now = now_ns()
        name = log_in(
            catalogue,
            throttle,
            body.name.strip().lower(),
            body.password,
            address=_address(request),
            now=now / _NANOSECONDS,
        )
        former = session_secret(request)
        if former is not None:
            accounts.end_session(catalogue, former)
        secret = accounts.open_session(catalogue, name, times, now_ns=now)
        principal = accounts.find_session(catalogue, secret, times, active=False, now_ns=now)
        if principal is None:
            raise AccountConflict(f"{name} was removed this moment")
        set_session_cookie(request, response, secret)
        return Me(name=name, role=principal.role, csrf=csrf_of(secret))

    @router.post("/logout", status_code=204)
    def logout(request: Request) -> Response:
        """End this session."""
        response = Response(status_code=204)
        secret = session_secret(request)
        if secret is not None:
            accounts.end_session(catalogue, secret)
        clear_session_cookie(request, response)
        return response

    @router.get("/me")
    def me(caller: Caller) -> Me:
        """Who is behind this request."""
        return Me(name=caller.name, role=caller.role, csrf=caller.csrf)


def _add_own(
    router: APIRouter, catalogue: Catalogue, throttle: LoginThrottle, *, now_ns: Callable[[], int]
) -> None:
    @router.post("/password", status_code=204)
    def change_password(body: PasswordChangeIn, caller: Caller, request: Request) -> Response:
        """Change one's own password; ends all one's sessions, this one too."""
        now, name = now_ns(), _logged_in(caller)
        try:
            log_in(catalogue, throttle, name, body.present, address=_address(request), now=now / _NANOSECONDS)
        except LoginRefused as error:
            # No 401, which says that one is not logged in.
            raise AccountConflict("the present password is wrong") from error
        accounts.set_password(catalogue, name, body.new, actor=name, now_ns=now)
        response = Response(status_code=204)
        clear_session_cookie(request, response)
        return response

    @router.get("/tokens")
    def tokens(caller: Caller) -> list[Token]:
        """One's own API tokens, without their secrets."""
        return [
            Token(id=t.id, label=t.label, role=t.role, expires_ns=t.expires_ns, revoked=t.revoked)
            for t in accounts.list_tokens(catalogue, _logged_in(caller))
        ]

    @router.post("/tokens")
    def new_token(body: TokenIn, caller: Caller) -> NewToken:
        """Make an API token for oneself, with one's own role or less."""
        now, name = now_ns(), _logged_in(caller)
        expires_ns = None if body.days is None else now + body.days * _DAY_NS
        id_, token = accounts.create_token(
            catalogue, name, label=body.label, role=body.role, expires_ns=expires_ns, actor=name, now_ns=now
        )
        return NewToken(id=id_, token=token)

    @router.post("/tokens/{token_id}/revoke", status_code=204)
    def revoke_token(token_id: TokenId, caller: Caller) -> Response:
        """Revoke an API token of one's own."""
        name = _logged_in(caller)
        accounts.revoke_token(catalogue, token_id, actor=name, now_ns=now_ns(), user=name)
        return Response(status_code=204)


def _add_users(router: APIRouter, catalogue: Catalogue, *, now_ns: Callable[[], int]) -> None:
    @router.get("/users")
    def users() -> list[User]:
        """All users, removed ones too."""
        return [User(name=u.name, role=u.role, removed=u.removed) for u in accounts.list_users(catalogue)]

    @router.post("/users", status_code=204)
    def add_user(body: UserIn, caller: Caller) -> Response:
        """Add a user."""
        actor = _logged_in(caller)
        accounts.add_user(catalogue, body.name, body.role, body.password, actor=actor, now_ns=now_ns())
        return Response(status_code=204)

    @router.post("/users/{name}/role", status_code=204)
    def set_role(name: Name, body: RoleIn, caller: Caller) -> Response:
        """Change a user's role; it holds from the next request on."""
        accounts.set_role(catalogue, name, body.role, actor=_logged_in(caller), now_ns=now_ns())
        return Response(status_code=204)

    @router.post("/users/{name}/password", status_code=204)
    def set_password(name: Name, body: PasswordIn, caller: Caller) -> Response:
        """Set a user's password, and end the user's sessions."""
        accounts.set_password(catalogue, name, body.password, actor=_logged_in(caller), now_ns=now_ns())
        return Response(status_code=204)

    @router.post("/users/{name}/remove", status_code=204)
    def remove_user(name: Name, caller: Caller) -> Response:
        """Remove a user with all sessions and tokens. The name is not given out again."""
        accounts.remove_user(catalogue, name, actor=_logged_in(caller), now_ns=now_ns())
        return Response(status_code=204)


def _logged_in(caller: Principal) -> str:
    """The name of a person who logged in. A token manages no accounts: it could make itself last for ever."""
    if caller.via != "session" or caller.name is None:
        raise AccountConflict("accounts are managed by people who are logged in")
    return caller.name


def _address(request: Request) -> str:
    return "" if request.client is None else request.client.host
