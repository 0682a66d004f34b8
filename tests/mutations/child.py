"""A chunk of streams in a process of its own, which may crash, hang or allocate without end."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from secondlook.shared.codec import load_codec
from tests.mutations import Attack, Tally
from tests.mutations.streams import Stream

HANG_SECONDS = 300.0  # without a stream finished, on a machine that may be busy
ADDRESS_SPACE = 4 << 30  # bytes a child may take beyond what a process with the model loaded has
SPAWN = multiprocessing.get_context("spawn")


def attack_lite(streams: list[Stream], seed: int) -> Attack:
    """The attack on the shipped `lite` model."""
    return Attack(load_codec(threads=1), streams, seed)


def _child(
    make: Any, streams: list[Any], seed: int, first: int, count: int, at: Any, out: Connection
) -> None:
    attack = make(streams, seed)
    with open("/proc/self/statm") as file:
        have = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (have + ADDRESS_SPACE, have + ADDRESS_SPACE))
    tally = Tally()
    parent = os.getppid()
    for number in range(first, first + count):
        if os.getppid() != parent:
            return  # nobody is left to tell
        at.value = number
        attack.one(number, tally)
    out.send(tally)


def run_chunk(
    streams: list[Any], seed: int, first: int, count: int, make: Callable[[list[Any], int], Any] = attack_lite
) -> tuple[Tally, int]:
    """What a child of its own found, and the number of the stream to go on with. `make`: the attack it carries out."""
    at = SPAWN.Value("q", first)
    receiver, sender = SPAWN.Pipe(duplex=False)
    child = SPAWN.Process(target=_child, args=(make, streams, seed, first, count, at, sender))
    child.start()
    sender.close()
    seen, since = at.value, time.monotonic()
    while not receiver.poll(1.0):
        if at.value != seen:
            seen, since = at.value, time.monotonic()
        elif time.monotonic() - since > HANG_SECONDS:
            child.kill()
            child.join()
            failed = f"stream {seen}: nothing came of it in {HANG_SECONDS:.0f} s"
            return Tally(failures=[failed]), seen + 1
    try:
        tally = receiver.recv()
    except EOFError:
        child.join()
        failed = f"stream {at.value}: its decoder ended with status {child.exitcode}"
        return Tally(failures=[failed]), at.value + 1
    child.join()
    return tally, first + count
