"""Words that wake loops up."""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import threading
import time
from pathlib import Path

import pytest

from secondlook.shared.stop import SignalEvent, Stop, Wake, descriptors


def readable(one: SignalEvent | Wake) -> bool:
    return bool(select.select([one], [], [], 0)[0])


def test_a_stop_is_an_event_that_can_be_waited_for_beside_others() -> None:
    stop = Stop()
    assert not stop.is_set() and not readable(stop)
    for _ in range(70_000):  # more than a pipe holds
        stop.set()
    assert stop.is_set() and readable(stop) and readable(stop), "and stays so"
    assert descriptors(stop) == [stop.fileno()] and descriptors(threading.Event()) == []


def test_a_wait_ends_when_it_is_set_and_not_before() -> None:
    stop = Stop()
    began = time.monotonic()
    assert not stop.wait(0.0) and not stop.wait(-1.0) and not stop.wait(0.15)
    assert 0.14 < time.monotonic() - began < 10
    threading.Timer(0.1, stop.set).start()
    assert stop.wait(1e9) and stop.wait() and stop.wait(0.0)


@pytest.mark.timeout(30)
def test_it_can_be_set_by_a_handler_that_interrupts_whoever_holds_its_lock() -> None:
    """The main thread holds the lock of an event on its way into a wait, and a handler runs in the main thread."""
    stop = SignalEvent()
    heard = threading.Event()

    def interrupted() -> None:
        with stop._cond:  # type: ignore[attr-defined]
            stop.set()
        heard.set()

    threading.Thread(target=interrupted, daemon=True).start()
    assert heard.wait(5.0) and stop.is_set()


def test_signals_in_the_middle_of_waits_are_all_heard() -> None:
    event, heard = SignalEvent(), 0
    before = signal.signal(signal.SIGUSR1, lambda *_: event.set())
    over = threading.Event()

    def send() -> None:
        while not over.wait(0.0002):
            os.kill(os.getpid(), signal.SIGUSR1)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        while heard < 200:
            if event.wait(5.0):
                event.clear()
                heard += 1
            else:
                pytest.fail("a signal was not heard")
    finally:
        over.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)


def test_what_is_taken_back_is_not_heard_and_can_be_said_again() -> None:
    event = SignalEvent()
    for _ in range(70_000):
        event.set()
    event.clear()
    assert not event.is_set() and not readable(event) and not event.wait(0.0)
    event.set()
    assert event.is_set() and readable(event) and event.wait(0.0)


def test_a_signal_ends_a_wait() -> None:
    stop = Stop()
    before = signal.signal(signal.SIGUSR1, lambda *_: stop.set())
    try:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        began = time.monotonic()
        assert select.select([stop], [], [], 20.0)[0] and time.monotonic() - began < 10
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_its_descriptors_go_with_it() -> None:
    stop = Stop()
    read = stop.fileno()
    del stop
    fresh = Stop()  # takes the numbers that are free again
    assert fresh.fileno() == read


def test_a_wake_up_call_is_heard_once() -> None:
    wake = Wake()
    assert not wake.wait(0.0)
    for _ in range(70_000):
        wake.call()
    while wake.take():
        pass
    assert not readable(wake)
    threading.Timer(0.05, wake.call).start()
    assert wake.wait(20.0) and not wake.wait(0.0)
    wake.close()


def test_a_word_is_heard_by_a_process_with_many_files_open() -> None:
    """`select()` takes no descriptor beyond 1,023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip("this user may open no more than 1,200 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1030)]
    wake = Wake()
    try:
        assert wake.fileno() > 1023
        assert not wake.wait(0.0)
        wake.call()
        assert wake.wait(20.0)
    finally:
        wake.close()
        for one in opened:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_module_with_signal_handlers_makes_events_that_take_a_lock() -> None:
    root = Path(__file__).parents[2]
    texts = {
        path: path.read_text() for room in ("edge", "cloud", "shared") for path in (root / room).rglob("*.py")
    }
    with_handlers = {path for path, text in texts.items() if "signal.signal(" in text}
    assert {root / "edge" / "main.py", root / "cloud" / "main.py"} <= with_handlers
    assert not [path for path in with_handlers if re.search(r"(?<!Signal)\bEvent\(\)", texts[path])]
