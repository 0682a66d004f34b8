"""Logging in: limits first, then the password, and one answer whatever was wrong."""

from __future__ import annotations

import ipaddress
import logging
import math

from secondlook.cloud.accounts.passwords import hash_password, is_outdated, password_fits
from secondlook.cloud.accounts.schema import User
from secondlook.cloud.catalogue.store import Catalogue
from secondlook.cloud.config import LoginLimits
from secondlook.cloud.gateway.ratelimit import Latest, TokenBucket
from secondlook.shared.errors import LoginRefused, TooManyAttempts

log = logging.getLogger(__name__)

_MAX_REMEMBERED = 10_000  # accounts, and addresses
_NETWORK_BITS = 64  # of IPv6: one customer has so many addresses that only the network tells one from another


class LoginThrottle:
    """Counts wrong attempts, without a clock; ``now`` is seconds.

    By name and address together, so that nobody keeps a person out from elsewhere; by address, over all names; and
    by name over all addresses, against one that is guessed from everywhere. Where a person has logged in before,
    that last limit does not hold.
    """

    def __init__(self, limits: LoginLimits) -> None:
        self._pairs = _buckets(limits.account_attempts, limits.account_seconds)
        self._addresses = _buckets(limits.address_attempts, limits.address_seconds)
        self._names = _buckets(limits.name_attempts, limits.name_seconds)
        self._known: Latest[list[bool]] = Latest(lambda _now: [False], most=_MAX_REMEMBERED)

    def attempt(self, name: str, address: str, *, now: float) -> None:
        """Count an attempt before it is checked. Raises TooManyAttempts, having counted nothing."""
        buckets = self._of(name, address, now)
        wait = max(bucket.seconds_until(1.0, now) for bucket in buckets)
        if wait > 0:
            raise TooManyAttempts(math.ceil(wait))
        for bucket in buckets:
            bucket.take(1.0, now)

    def succeeded(self, name: str, address: str, *, now: float) -> None:
        """The attempt was right and does not count."""
        for bucket in self._of(name, address, now):
            bucket.give_back(1.0)
        self._known.of(_pair(name, address), now)[0] = True

    def _of(self, name: str, address: str, now: float) -> list[TokenBucket]:
        pair = _pair(name, address)
        buckets = [self._pairs.of(pair, now), self._addresses.of(_network(address), now)]
        if not self._known.of(pair, now)[0]:
            buckets.append(self._names.of(name, now))
        return buckets


def log_in(
    catalogue: Catalogue, throttle: LoginThrottle, name: str, password: str, *, address: str, now: float
) -> str:
    """Check a password; returns the user's name.

    Raises TooManyAttempts, and LoginRefused without telling a wrong name from a wrong password.
    """
    throttle.attempt(name, address, now=now)
    with catalogue.reading() as session:
        user = session.get(User, name)
        stored = "" if user is None else user.password_hash
    if not password_fits(stored, password):
        # The name stays out of the log: people type passwords into the wrong field.
        log.warning("a log-in from %s was refused", address)
        raise LoginRefused("name or password is wrong")
    throttle.succeeded(name, address, now=now)
    if is_outdated(stored):
        renewed = hash_password(password)
        with catalogue.writing() as session:
            user = session.get(User, name)
            if user is not None and user.password_hash == stored:
                user.password_hash = renewed
    return name


def _buckets(attempts: int, seconds: float) -> Latest[TokenBucket]:
    return Latest(lambda now: TokenBucket(1 / seconds, attempts, now=now), most=_MAX_REMEMBERED)


def _pair(name: str, address: str) -> str:
    return f"{_network(address)} {name}"


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, _NETWORK_BITS), strict=False))
