"""Passwords of tests are hashed with little work; what production takes is tested by itself. One browser for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from secondlook.cloud.accounts import passwords
from tests.cloud.station.browser import Browser, find_chromium
from tests.cloud.station.pages import Page, opened_page

REAL_HASHER = passwords._HASHER


@pytest.fixture(scope="package", autouse=True)
def cheap_hashes() -> Iterator[None]:
    passwords._HASHER = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    yield
    passwords._HASHER = REAL_HASHER


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    assert program is not None
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Opens the page over reviews in the given states, and says Ann's name."""
    with ExitStack() as stack:

        def opened(*states: str, **options: Any) -> Page:
            return stack.enter_context(opened_page(browser, tmp_path, *states, **options))

        yield opened
