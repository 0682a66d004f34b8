"""A connection to NATS JetStream for code that has no event loop.

The client library lives on asyncio. Its loop runs in one thread of its own; ``run`` hands it a piece of work and
waits for the end. Nothing is buffered while the server is away: work fails at once with StoreUnavailable, and the
library reconnects by itself. Work that runs into its time limit may have been carried out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import nats.errors
import nkeys
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from secondlook.cloud.storage.addresses import NatsAddress, redacted
from secondlook.shared.errors import ConfigError, DiskFull, QueueFull, SecondlookError, StoreUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

_PING_SECONDS = 5  # a server that has frozen is noticed after two of these
_RECONNECT_SECONDS = 1
_WRITTEN_AT_ONCE = 16  # messages
_SILENCE_SECONDS = 0.5  # a server that has something to deliver does so much sooner
_SYNCS_EACH_WRITE = (2, 10)  # the first version with ``sync_interval: always``
_NO_SPACE = ("no space left", "insufficient resources", "insufficient storage", "file too large")
_STATUS, _NO_RESPONDERS = "Status", "503"


class End(Enum):
    """How a pull ended."""

    ENOUGH = "as many as were asked for"
    EMPTY = "the consumer said that it has no more"
    SILENCE = "it said nothing: it may not deliver more before some are acknowledged, or cannot"


@dataclass(frozen=True)
class Pulled:
    messages: list[Msg]
    end: End


@dataclass(frozen=True)
class Request:
    """A message that is answered."""

    subject: str
    payload: bytes
    headers: dict[str, str] | None = None


class _ReplyBatch:
    """The answers to many requests, by their numbers."""

    def __init__(self, n: int) -> None:
        self.answers: list[Msg | None] = [None] * n
        self._missing = n
        self._all = asyncio.Event()
        if n == 0:
            self._all.set()

    def take(self, number: int, message: Msg) -> None:
        if self.answers[number] is None:
            self.answers[number] = message
            self._missing -= 1
            if self._missing == 0:
                self._all.set()

    async def wait(self, seconds: float) -> None:
        """Until all are there, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._all.wait()


class _Delivered:
    """Up to ``n`` messages of a pull, and how it ended."""

    def __init__(self, n: int) -> None:
        self.messages: list[Msg] = []
        self.status = ""
        self.end = End.SILENCE
        self._wanted = n
        self._ended = asyncio.Event()

    async def take(self, message: Msg) -> None:
        self.status = _status(message)
        if self.status:
            self.end = End.EMPTY
        elif len(self.messages) < self._wanted:
            self.messages.append(message)
            if len(self.messages) == self._wanted:
                self.end = End.ENOUGH
        if self.end is not End.SILENCE:
            self._ended.set()

    async def wait(self, seconds: float) -> None:
        """Until it ended, or nothing came for so long."""
        seen = -1
        while self.end is End.SILENCE and seen < len(self.messages):
            seen = len(self.messages)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._ended.wait()


class JetStream:
    """Open while the object lives; use ``close``. The methods that are coroutines run on the loop, inside ``run``."""

    def __init__(self, address: NatsAddress, *, seconds: float, nkey: Path | None, ca: Path | None) -> None:
        """``seconds`` limits each piece of work. Raises ConfigError, StoreUnavailable."""
        options: dict[str, Any] = {}
        if address.encrypted:
            options["tls"] = _tls(ca)
        if nkey is not None:
            options["nkeys_seed_str"] = _seed(nkey)
        self._address = address
        self._seconds = seconds
        self._client = Client()
        self._closing = False
        self._inbox = ""  # answers arrive on INBOX.BURST.QUESTION
        self._asked = 0
        self._batches: dict[str, _ReplyBatch] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nats", daemon=True)
        self._thread.start()
        with ExitStack() as undo:
            undo.callback(self.close)
            self._wait(self._connect(options))
            undo.pop_all()
        self.api: JetStreamContext = self._client.jetstream(timeout=seconds)

    @property
    def max_payload(self) -> int:
        """Bytes of the largest message that the server takes."""
        return int(self._client.max_payload)

    @property
    def is_connected(self) -> bool:
        return bool(self._client.is_connected)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``; NATS's errors become StoreUnavailable, QueueFull or DiskFull."""
        if not self.is_connected:
            work.close()
            raise StoreUnavailable(f"the queue at {self._where} is away")
        return self._wait(work)

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Let ``work`` run; ``end`` has its result."""
        return asyncio.run_coroutine_threadsafe(self._limited(work), self._loop)

    def end(self, work: Future[T]) -> T:
        """The result of what was begun, with the errors of ``run``."""
        try:
            return work.result()
        except (NatsError, OSError) as error:
            raise self._named(error) from error

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Let ``work`` run beside everything else until the connection is closed."""
        asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """End the connection and its thread."""
        if self._loop.is_closed():
            return
        self._closing = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> bool:
        """Store one message in the stream of ``subject``; False when it is there already, or was a moment ago."""
        (answer,) = await self.ask([Request(subject, payload, headers)])
        return stored(answer)

    async def request(self, subject: str, payload: bytes) -> Msg:
        """One answer to one message. Raises NoRespondersError when nothing listens to ``subject``."""
        (answer,) = await self.ask([Request(subject, payload)])
        return answered(answer)

    async def ask(self, requests: Sequence[Request]) -> list[Msg | None]:
        """Send all at once and in order; the answers in the same order, None where none came in time.

        One wait for all of them: a request of its own for each message costs the client library more time than
        everything else that a frame needs.
        """
        self._asked += 1
        key, batch = str(self._asked), _ReplyBatch(len(requests))
        self._batches[key] = batch
        try:
            for number, request in enumerate(requests):
                reply = f"{self._inbox}.{key}.{number}"
                await self._client.publish(request.subject, request.payload, reply, request.headers)
                if number % _WRITTEN_AT_ONCE == _WRITTEN_AT_ONCE - 1:
                    await asyncio.sleep(0)  # so that the server begins while the rest is made
            await batch.wait(self._seconds)
        finally:
            del self._batches[key]
        return batch.answers

    async def pull(self, subject: str, n: int) -> Pulled:
        """Up to ``n`` messages that a pull consumer has now.

        A message that arrives too late stays with the consumer, which delivers it again.
        """
        delivered = _Delivered(n)
        # A delivery bears the subject of its message, not that of the inbox: only a subscription tells pulls apart.
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, cb=delivered.take)
        try:
            await self._client.publish(subject, json.dumps({"batch": n, "no_wait": True}).encode(), inbox)
            await delivered.wait(_SILENCE_SECONDS)
        finally:
            await subscription.unsubscribe()
        if delivered.status == _NO_RESPONDERS:
            raise StoreUnavailable(f"the queue at {self._where} has no consumer")
        return Pulled(delivered.messages, delivered.end)

    async def tell(self, subject: str, payload: bytes) -> None:
        """Say something to whoever listens now; nobody answers, and nothing is stored."""
        await self._client.publish(subject, payload)

    async def listen(self, subject: str, hear: Callable[[bytes], None]) -> None:
        """Hand on what is told under ``subject``, also after a reconnection."""

        async def take(message: Msg) -> None:
            hear(message.data)

        await self._client.subscribe(subject, cb=take)

    async def _sort(self, message: Msg) -> None:
        """An answer, which bears the number of its batch and of its request."""
        *_, key, number = message.subject.rsplit(".", 2)
        batch = self._batches.get(key)
        if batch is not None:
            batch.take(int(number), message)

    @property
    def _where(self) -> str:
        return ", ".join(self._address.servers)

    async def _connect(self, options: dict[str, Any]) -> None:
        # Nothing is kept for a server that is away: what it would say to it later could be long out of date.
        connecting = self._client.connect(
            servers=list(self._address.servers),
            user=self._address.user,
            password=self._address.password,
            name="secondlook",
            pending_size=0,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RECONNECT_SECONDS,
            connect_timeout=max(1, int(self._seconds)),
            ping_interval=_PING_SECONDS,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
            **options,
        )
        await connecting
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.>", cb=self._sort)
        version = self._client.connected_server_version
        if (version.major, version.minor) < _SYNCS_EACH_WRITE:
            log.warning("NATS %s cannot sync each write: a power cut may lose acknowledged frames", version)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.end(self.begin(work))

    async def _limited(self, work: Coroutine[Any, Any, T]) -> T:
        async with asyncio.timeout(2 * self._seconds):
            return await work

    def _named(self, error: NatsError | OSError) -> SecondlookError:
        if isinstance(error, APIError) and not isinstance(error, NotFoundError):
            return _refusal(str(error.description))
        # A time limit has no text of its own.
        return StoreUnavailable(f"the queue at {self._where} does not answer ({_line(error)})")

    async def _end(self) -> None:
        await self._client.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _on_error(self, error: Exception) -> None:
        log.debug("queue: %s", _line(error))

    async def _on_disconnect(self) -> None:
        if not self._closing:
            log.warning("the queue at %s went away", self._where)

    async def _on_reconnect(self) -> None:
        log.warning("the queue at %s is back", self._where)


def answered(answer: Msg | None) -> Msg:
    """An answer. Raises nats.errors.TimeoutError where none came, NoRespondersError where nothing listens."""
    if answer is None:
        raise nats.errors.TimeoutError
    if _status(answer) == _NO_RESPONDERS:
        raise NoRespondersError
    return answer


def stored(answer: Msg | None) -> bool:
    """Whether a stream has stored a message now; False when it was there already, or a moment ago.

    Raises what ``answered`` does, and our error for a refusal.
    """
    said = json.loads(answered(answer).data)
    refused = said.get("error")
    if refused is None:
        return not said.get("duplicate", False)
    text = str(refused.get("description"))
    if "messages per subject" in text:
        return False
    raise _refusal(text)


def is_missing(error: NatsError) -> bool:
    """Whether an error says that a stream, or a message in it, is not there."""
    return isinstance(error, NotFoundError | NoRespondersError)


def _status(message: Msg) -> str:
    """What the server says about a message that has no content; empty for a message."""
    return "" if message.data or message.headers is None else message.headers.get(_STATUS, "")


def _refusal(text: str) -> SecondlookError:
    """Our error for what the server said when it could not store something."""
    if "maximum bytes" in text:
        return QueueFull("the queue's stream holds as many bytes as it may")
    if any(phrase in text.lower() for phrase in _NO_SPACE):
        return DiskFull(f"the queue's server has no space left ({redacted(text)})")
    return StoreUnavailable(f"the queue's server refused ({redacted(text)})")


def _line(error: BaseException) -> str:
    return redacted(" ".join(str(error).split())) or type(error).__name__


def _seed(file: Path) -> str:
    try:
        seed = file.read_text(encoding="ascii").strip()
        nkeys.from_seed(bytearray(seed.encode())).wipe()
    except (OSError, ValueError, nkeys.NkeysError) as error:
        raise ConfigError(f"{file} holds no NKey seed") from error
    return seed


def _tls(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as error:
        raise ConfigError(f"cannot read the certificates in {ca}: {error.strerror}") from error
