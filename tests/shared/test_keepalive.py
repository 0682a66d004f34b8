"""A machine that is gone without a word: its connections end by themselves, quiet ones and busy ones."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from secondlook.shared.keepalive import set_keepalive
from tests.chaos.namespace import Namespace, namespaces_permitted
from tests.chaos.proxy import Weather

_PEER = """
import sys, time, zmq
with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
    dealer.connect(sys.argv[1])
    dealer.send(b"here")
    time.sleep(60)
"""


@pytest.mark.parametrize("busy", [False, True])
def test_connections_of_a_machine_that_is_gone_end_in_time(busy: bool) -> None:
    if not namespaces_permitted():
        pytest.skip("network namespaces are not permitted here")
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        set_keepalive(router)
        assert router.getsockopt(zmq.HEARTBEAT_IVL) == 0
        cable = Namespace(router.bind_to_random_port("tcp://0.0.0.0"))
        monitor = router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        with subprocess.Popen([*cable.prefix, sys.executable, "-c", _PEER, cable.gateway]) as peer:
            try:
                identity, _ = router.recv_multipart()
                cable.weather = Weather.HALF_OPEN
                cut = time.monotonic()
                if busy:
                    router.send_multipart([identity, b"are you there?"])
                assert monitor.poll(25_000), "the connection still stands"
                assert recv_monitor_message(monitor)["event"] == zmq.EVENT_DISCONNECTED
                assert 8 < time.monotonic() - cut < 20
            finally:
                peer.kill()
                cable.close()
                router.disable_monitor()
                monitor.close(0)
