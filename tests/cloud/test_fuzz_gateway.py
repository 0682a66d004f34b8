"""A short run of `tests.fuzz_gateway`, and what its watch over strangers would notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz_gateway import GREETING, Leak, Target, _await_port, fuzz, handshake_only, overheard

pytestmark = pytest.mark.process


@pytest.mark.timeout(300)
def test_hostile_bytes_for_a_while(tmp_path: Path) -> None:
    done = fuzz(12.0, 20261125, tmp_path)
    assert done["honest_frames"] > 5
    assert set(done["attacks"]) == {"raw", "wrong-key", "slow", "rogue", "calls"}


@pytest.mark.timeout(120)
def test_a_stranger_gets_the_handshake_and_not_a_byte_more(tmp_path: Path) -> None:
    """Counted on the wire: greeting, WELCOME, ERROR; a registered key beside it gets more."""
    import zmq

    from secondlook.shared import packet as p
    from tests.cloud.helpers import BOOT

    target = Target(tmp_path)
    try:
        _await_port(target)
        sizes = {}
        for name in ("stranger", "gate"):
            with overheard(target.edges) as (port, came):
                context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
                dealer = context.socket(zmq.DEALER)
                dealer.setsockopt(zmq.RECONNECT_IVL, 60_000)
                dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = target.curve(name)
                dealer.connect(f"tcp://127.0.0.1:{port}")
                dealer.send_multipart(p.Hello("gate", BOOT, "bulk", "y", 0, 0, "t").to_frames())
                answered = dealer.poll(10_000 if name == "gate" else 1500)
                context.destroy(linger=0)
            assert bool(answered) is (name == "gate")
            sizes[name] = len(came)
            if name == "stranger":
                handshake_only(bytes(came))
        assert sizes["stranger"] == 64 + 170 + 12
        assert sizes["gate"] > 64 + 170 + 100
    finally:
        target.process.kill()
        target.process.wait()


@pytest.mark.parametrize("more", [b"\x00\x05hello", b"\x04\x1a\x05READY" + bytes(20), b"\x06" + bytes(9)])
def test_the_watch_notices_what_is_no_handshake(more: bytes) -> None:
    handshake_only(GREETING)
    handshake_only(GREETING + b"\x04\x0a\x05ERROR\x03400")
    with pytest.raises(Leak):
        handshake_only(GREETING + more)
