"""How large a frame may be before it is decoded."""

from __future__ import annotations

from secondlook.shared.bitstream import Bitstream, parse
from secondlook.shared.errors import BitstreamError, MalformedBitstream, PictureTooLarge
from secondlook.shared.videobits import BackgroundPacket, GroupHead, is_of_group, parse_base


def check_pixels(width: int, height: int, most: int) -> None:
    """Raises PictureTooLarge for a picture of more than `most` pixels."""
    if width * height > most:
        raise PictureTooLarge(f"{width}x{height} is {width * height} pixels, at most {most} are taken")


def check_layer(layer: bytes, most: int, *, announced: tuple[int, int] | None = None) -> None:
    """Read a layer's header before anything is decoded, which is what costs.

    `announced`: (width, height) as its packet has them. Raises PictureTooLarge, MalformedBitstream. Bytes that are no
    layer, or a damaged one, pass: their codec has the better words for them.
    """
    header: Bitstream | BackgroundPacket
    try:
        if is_of_group(layer):
            packet = parse_base(layer)
            if not isinstance(packet, GroupHead):
                return  # its size is that of its group's head
            header = packet.background
        else:
            header = parse(layer)
    except BitstreamError:
        return
    check_pixels(header.width, header.height, most)
    if announced is not None and announced != (header.width, header.height):
        width, height = announced
        raise MalformedBitstream(f"{header.width}x{header.height} in its header, {width}x{height} announced")
