"""Processes that put, lease and acknowledge until they are killed, and say of each step what can be relied on.

``python -m tests.cloud.queue_user WHERE ROUNDS`` starts one after the other and kills it after a random time. Each
prints ``put SEQ...`` after a put has returned, ``acking SEQ`` before and ``acked SEQ`` after an acknowledgement.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from typing import NoReturn

from secondlook.cloud.config import QueueLimits
from tests.cloud.queues import lease, open_queue, put, queued

SEQS_A_ROUND = 100_000
LIMITS = QueueLimits(max_bytes=64 << 20, max_attempts=100)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def use(where: str, first_seq: int, worker: str) -> NoReturn:
    queue = open_queue(where, LIMITS)
    seqs = itertools.count(first_seq)
    for turn in itertools.count():
        batch = [queued(next(seqs), 2000) for _ in range(1 + turn % 5)]
        put(queue, *batch)
        say("put", *(frame.info.seq for frame in batch))
        for item in lease(queue, 1 + turn % 4, ttl=1.0, worker=worker):
            if turn % 3:
                say("acking", item.frame.info.seq)
                queue.ack([item.id], worker=worker)
                say("acked", item.frame.info.seq)
    raise AssertionError


def main(where: str, rounds: int) -> None:
    moments = random.Random(7)
    for number in range(rounds):
        user = os.fork()
        if not user:
            use(where, number * SEQS_A_ROUND, f"u{number}")
        time.sleep(moments.uniform(0.05, 0.5))
        os.kill(user, signal.SIGKILL)
        _, status = os.waitpid(user, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
