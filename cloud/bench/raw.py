"""The engines underneath, without our protocol: what the same machine can do at best, in the same run.

Each takes packets of the same size, has the same number in flight, and counts a packet once it is as safe as the
gateway's acknowledgement would make it (the echo alone stores nothing).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
import time
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TypeAlias

import zmq

from secondlook.shared.errors import GatewayUnreachable
from secondlook.shared.sqlite import immediate, prepare

_Socket: TypeAlias = "zmq.Socket[bytes]"
_Context: TypeAlias = "zmq.Context[_Socket]"

SQLITE_BATCH = 32
_ACK = b"k" * 60  # about as long as an Ack
_STREAM = "secondlook-bench-raw"


def echo_rate(edges: int, packets: int, payload: bytes, in_flight: int) -> float:
    """Packets a second that a ROUTER takes from `edges` DEALERs and acknowledges one by one."""
    methods = multiprocessing.get_context("spawn")
    stop = methods.Event()
    reader, writer = methods.Pipe(duplex=False)
    server = methods.Process(target=_serve_echo, args=(writer, stop), daemon=True)
    server.start()
    context: _Context = zmq.Context()
    try:
        return _send_echo(context, reader.recv(), edges, packets, payload, in_flight)
    finally:
        context.destroy(linger=0)
        stop.set()
        server.join()


def _serve_echo(address: multiprocessing.connection.Connection, stop: Event) -> None:
    context: _Context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind("tcp://127.0.0.1:0")
    address.send(router.getsockopt_string(zmq.LAST_ENDPOINT))
    while not stop.is_set():
        if router.poll(100):
            peer, *_ = router.recv_multipart()
            router.send_multipart([peer, _ACK, b""])
    context.destroy(linger=0)


def _send_echo(
    context: _Context, address: str, edges: int, packets: int, payload: bytes, in_flight: int
) -> float:
    poller = zmq.Poller()
    left: dict[_Socket, int] = {}
    share = max(1, packets // edges)
    for _ in range(edges):
        socket = context.socket(zmq.DEALER)
        socket.connect(address)
        poller.register(socket, zmq.POLLIN)
        left[socket] = share
    started = time.monotonic()
    unsent = dict.fromkeys(left, share)
    for socket in left:
        for _ in range(min(in_flight, share)):
            socket.send_multipart([_ACK, payload])
            unsent[socket] -= 1
    while left:
        ready = poller.poll(30_000)
        if not ready:
            raise GatewayUnreachable("the echo does not answer")
        for socket, _ in ready:
            socket.recv_multipart()
            left[socket] -= 1
            if unsent[socket]:
                unsent[socket] -= 1
                socket.send_multipart([_ACK, payload])
            elif not left[socket]:
                del left[socket]
                poller.unregister(socket)
                socket.close()
    return share * edges / (time.monotonic() - started)


def sqlite_rate(folder: Path, packets: int, payload: bytes) -> float:
    """Rows a second that SQLite commits with a sync, in batches of 32."""
    with closing(sqlite3.connect(folder / "raw.db", isolation_level=None)) as db:
        prepare(db, busy_seconds=10)
        db.execute("DROP TABLE IF EXISTS packets")
        db.execute("CREATE TABLE packets (id INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT")
        batches = max(1, packets // SQLITE_BATCH)
        started = time.monotonic()
        for _ in range(batches):
            with immediate(db):
                db.executemany("INSERT INTO packets (payload) VALUES (?)", [(payload,)] * SQLITE_BATCH)
        return batches * SQLITE_BATCH / (time.monotonic() - started)


def jetstream_rate(url: str, packets: int, payload: bytes, in_flight: int) -> float:
    """Messages a second that JetStream acknowledges into a file stream of its own, deleted afterwards."""
    return asyncio.run(_publish(url, packets, payload, in_flight))


async def _publish(url: str, packets: int, payload: bytes, in_flight: int) -> float:
    import nats
    import nats.errors
    import nats.js.api

    async def ignore(_: Exception) -> None:
        """The client would print every failed attempt; what matters is raised."""

    try:
        client = await nats.connect(url, allow_reconnect=False, error_cb=ignore)
    except (OSError, nats.errors.Error) as error:
        raise GatewayUnreachable(f"no NATS server answers at the address of the queue ({error})") from error
    try:
        stream = client.jetstream(publish_async_max_pending=in_flight)
        config = nats.js.api.StreamConfig(
            name=_STREAM,
            subjects=[f"{_STREAM}.*"],
            storage=nats.js.api.StorageType.FILE,
            retention=nats.js.api.RetentionPolicy.WORK_QUEUE,
        )
        await stream.add_stream(config)
        try:
            started = time.monotonic()
            waiting = []
            for number in range(packets):
                waiting.append(await stream.publish_async(f"{_STREAM}.{number % 16}", payload))
                if len(waiting) >= in_flight:
                    await waiting.pop(0)
            for answer in waiting:
                await answer
            return packets / (time.monotonic() - started)
        finally:
            await stream.delete_stream(_STREAM)
    finally:
        await client.close()
