"""Cameras of the test's own: HTTP and RTSP servers on loopback, good ones and bad ones."""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
import numpy as np

from tests.pictures import U8Image, photo

Answer = Callable[[BaseHTTPRequestHandler], None]
_RTP = 123_456_789  # the time stamp that the first picture happens to have
Send = Callable[[bytes, int], object]  # a packet, and its channel: 0 RTP, 1 RTCP


def jpeg(number: int, width: int = 64, height: int = 48) -> bytes:
    """A JPEG whose brightness tells its number."""
    picture = np.full((height, width, 3), 8 * (number % 30), np.uint8)
    return bytes(cv2.imencode(".jpg", picture)[1].tobytes())


def write_video(
    path: Path,
    frames: int = 25,
    *,
    codec: str = "mpeg4",
    size: tuple[int, int] = (64, 48),
    rate: int = 25,
    pts: Callable[[int], int] = lambda number: number,
    picture: Callable[[int], U8Image] | None = None,
) -> Path:
    """A video whose frame n is of brightness 8 n; `pts` gives their times in 1 / rate seconds."""
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = 5
        for number in range(frames):
            image = picture(number) if picture else np.full((height, width, 3), 8 * (number % 30), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = pts(number), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@contextlib.contextmanager
def http_server(**answers: Answer) -> Iterator[str]:
    """Serve ``/NAME...`` with the answer of that name; yields ``http://127.0.0.1:PORT``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                answers[self.path.lstrip("/").partition(".")[0].partition("?")[0]](self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def status(code: int) -> Answer:
    return lambda handler: handler.send_error(code)


def hang(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(30.0)


def text(handler: BaseHTTPRequestHandler) -> None:
    body = b"<html><body>Camera login</body></html>" * 20
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def file(path: Path) -> Answer:
    """A file server, with ranges."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        data = path.read_bytes()
        first = int(handler.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")[0])
        handler.send_response(206 if "Range" in handler.headers else 200)
        handler.send_header("Accept-Ranges", "bytes")
        handler.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - first))
        handler.end_headers()
        handler.wfile.write(data[first:])

    return answer


def mjpeg(
    frames: int,
    *,
    loose: bool = False,
    pause: float = 0.02,
    broken: tuple[int, ...] = (),
    sizes: Callable[[int], tuple[int, int]] = lambda _: (64, 48),
    hang_after: bool = False,
) -> Answer:
    """A multipart stream of JPEGs. `loose`: without lengths, boundaries as some cameras write them, bare newlines."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        boundary = "--myboundary" if loose else "frame"
        handler.send_header("Content-Type", f"multipart/x-mixed-replace;boundary={boundary}")
        handler.end_headers()
        for number in range(frames):
            body = jpeg(number, *sizes(number))
            if number in broken:
                body = body[:2] + bytes(len(body) - 4) + body[-2:]
            if loose:
                head = b"\nmyboundary\nContent-type: image/jpeg\nX-Time: now\n\n"
            else:
                head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body)
            handler.wfile.write(head + body + b"\r\n")
            time.sleep(pause)
        if hang_after:
            time.sleep(30.0)

    return answer


def with_login(user: str, password: str, answer: Answer) -> Answer:
    """Basic authentication before the answer."""
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def guarded(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("Authorization") == wanted:
            answer(handler)
            return
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", 'Basic realm="camera"')
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return guarded


class RtspCamera:
    """An RTSP server with one H.264 stream, over TCP, UDP or both; small pictures, one NAL unit a packet.

    `clock_ns`: what its wall clock says at the first picture; from the picture `reports_from` on it tells that by RTCP,
    every tenth one. Pictures are 40 ms apart.
    """

    def __init__(
        self,
        *,
        tcp: bool = True,
        udp: bool = True,
        status: int | None = None,
        clock_ns: int | None = None,
        reports_from: int = 0,
    ) -> None:
        self._tcp, self._udp, self._status = tcp, udp, status
        self._clock_ns, self._reports_from = clock_ns, reports_from
        self._units, self._parameters = _h264()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/stream"
        self._senders: list[socket.socket] = []
        self.transports: list[str] = []  # of each SETUP that came
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> RtspCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for sender in self._senders:
            sender.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        send: Send | None = None
        stopped = threading.Event()
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as requests:
            while (line := requests.readline()).strip():
                headers = {}
                while head := requests.readline().strip():
                    name, _, value = head.decode().partition(":")
                    headers[name.lower()] = value.strip()
                verb = line.split()[0].decode()
                code, extra, body = 200, "Session: 1\r\n", ""
                if self._status is not None and verb == "DESCRIBE":
                    code = self._status
                elif verb == "DESCRIBE":
                    body = self._description()
                    extra = f"Content-Base: {self.address}/\r\nContent-Type: application/sdp\r\n"
                elif verb == "SETUP":
                    wish = headers["transport"]
                    self.transports.append("tcp" if "TCP" in wish else "udp")
                    code, extra, send = self._set_up(wish, connection)
                answer = f"RTSP/1.0 {code} OK\r\nCSeq: {headers['cseq']}\r\n{extra}"
                connection.sendall(f"{answer}Content-Length: {len(body)}\r\n\r\n{body}".encode())
                if verb == "PLAY" and send is not None:
                    threading.Thread(target=self._play, args=(send, stopped), daemon=True).start()
                if verb == "TEARDOWN":
                    break
        stopped.set()

    def _set_up(self, wish: str, connection: socket.socket) -> tuple[int, str, Send | None]:
        if "TCP" in wish:
            answer = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"

            def interleaved(packet: bytes, channel: int) -> None:
                connection.sendall(struct.pack("!cBH", b"$", channel, len(packet)) + packet)

            return (200, answer, interleaved) if self._tcp else (461, "", None)
        if not self._udp:
            return 461, "", None
        ports = wish.partition("client_port=")[2].partition(";")[0]
        port = int(ports.partition("-")[0])
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._senders.append(sender)
        sender.bind(("127.0.0.1", 0))
        own = sender.getsockname()[1]
        answer = (
            f"Transport: RTP/AVP;unicast;client_port={ports};server_port={own}-{own + 1}\r\nSession: 1\r\n"
        )
        return 200, answer, lambda packet, channel: sender.sendto(packet, ("127.0.0.1", port + channel))

    def _description(self) -> str:
        sets = ",".join(base64.b64encode(unit).decode() for unit in self._parameters)
        return (
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
            "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
            f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={sets}\r\na=control:track\r\n"
        )

    def _play(self, send: Send, stopped: threading.Event) -> None:
        sequence = 0
        with contextlib.suppress(OSError):
            for number in range(10_000):
                units = self._units[number % len(self._units)]
                since = number - self._reports_from
                if self._clock_ns is not None and since >= 0 and since % 10 == 0:
                    send(sender_report(self._clock_ns + number * 40_000_000, _RTP + number * 3600), 1)
                for index, unit in enumerate(units):
                    last = index == len(units) - 1
                    marked = 96 | (0x80 if last else 0)
                    head = struct.pack("!BBHII", 0x80, marked, sequence & 0xFFFF, _RTP + number * 3600, 7)
                    send(head + unit, 0)
                    sequence += 1
                if stopped.wait(0.04):
                    return


def sender_report(wall_ns: int, rtp: int) -> bytes:
    """RTCP: at this time stamp of RTP it was this time, in Unix nanoseconds."""
    seconds, rest = divmod(wall_ns, 10**9)
    ntp = seconds + 2_208_988_800, (rest << 32) // 10**9
    return struct.pack("!BBHIIIIII", 0x80, 200, 6, 7, *ntp, rtp, 1, 1)


def _h264() -> tuple[list[list[bytes]], list[bytes]]:
    """(NAL units of each picture, parameter sets) of a short scene in which every picture stands alone."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "keyint=1:slices=1"}
    pictures, parameters = [], []
    for number in range(25):
        frame = av.VideoFrame.from_ndarray(photo(48, 64, number + 1), format="rgb24")
        frame.pts = number
        for packet in encoder.encode(frame):
            units = [u.lstrip(b"\0") for u in bytes(packet).split(b"\0\0\1")]
            units = [unit.rstrip(b"\0") for unit in units if unit]
            parameters = parameters or [unit for unit in units if unit[0] & 31 in (7, 8)]
            pictures.append([unit for unit in units if unit[0] & 31 in (5, 7, 8)])
    return pictures, parameters
