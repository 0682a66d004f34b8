"""Passwords of tests are hashed with little work; what production takes is tested by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher

from secondlook.cloud.accounts import passwords

REAL_HASHER = passwords._HASHER


@pytest.fixture(scope="package", autouse=True)
def cheap_hashes() -> Iterator[None]:
    passwords._HASHER = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    yield
    passwords._HASHER = REAL_HASHER
