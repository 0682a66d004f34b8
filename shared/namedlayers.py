"""Layers of codec families that packages of others bring: written and read with all that the container asks for."""

from __future__ import annotations

from secondlook.shared.bitstream import Bitstream, Codec, Layer, parse
from secondlook.shared.errors import LayerMismatch, ModelNotFound, UnsupportedBitstream
from secondlook.shared.models import ModelFolder


def base_layer(
    folder: ModelFolder,
    size: tuple[int, int],
    *,
    quality: int,
    symbol_crc: int,
    payload: bytes,
    reference: tuple[int, int] | None = None,
) -> Bitstream:
    """A base layer of the family that `folder` names. `size`: width and height.

    `symbol_crc`: CRC-32 of what the family takes for its symbols. `reference`: of a delta, the sequence number of its
    key, and the symbol CRC of that key's base layer. Raises MalformedBitstream for what is out of range.
    """
    return Bitstream(
        codec=Codec.NAMED,
        model_hash=folder.model_hash,
        layer=Layer.BASE,
        quality=quality,
        base_quality=quality,
        width=size[0],
        height=size[1],
        reference=None if reference is None else reference[0],
        reference_crc=0 if reference is None else reference[1],
        symbol_crc=symbol_crc,
        base_symbol_crc=symbol_crc,
        payload=payload,
        family_name=str(folder.manifest["family"]),
    )


def enhancement_layer(
    base: Bitstream, *, quality: int, symbol_crc: int, payload: bytes, reference_crc: int = 0
) -> Bitstream:
    """The enhancement of a base layer; of a delta, `reference_crc` is the symbol CRC of its key's enhancement."""
    return Bitstream(
        codec=base.codec,
        model_hash=base.model_hash,
        layer=Layer.ENHANCEMENT,
        quality=quality,
        base_quality=base.quality,
        width=base.width,
        height=base.height,
        reference=base.reference,
        reference_crc=reference_crc,
        symbol_crc=symbol_crc,
        base_symbol_crc=base.symbol_crc,
        payload=payload,
        family_name=base.family_name,
    )


def read_layer(folder: ModelFolder, data: bytes, *, base: Bitstream | None = None) -> Bitstream:
    """The header and payload of a base layer that `folder` coded, or of the enhancement of `base`.

    Raises a subclass of BitstreamError, UnsupportedBitstream for another family, LayerMismatch for the other layer or
    one of another frame, ModelNotFound for another model's.
    """
    layer = parse(data)
    family, wanted = folder.manifest["family"], Layer.BASE if base is None else Layer.ENHANCEMENT
    if layer.family != family:
        raise UnsupportedBitstream(f"this layer is of the codec family {layer.family}, not {family}")
    if layer.layer is not wanted:
        raise LayerMismatch(f"expected the {wanted.name.lower()} layer, got the {layer.layer.name.lower()}")
    if layer.model_hash != folder.model_hash:
        raise ModelNotFound(
            f"this layer was coded with model {layer.model_hash.hex()}; {folder.name} is {folder.model_hash.hex()}"
        )
    if base is not None:
        frame = (layer.width, layer.height, layer.base_quality, layer.base_symbol_crc, layer.reference)
        if frame != (base.width, base.height, base.quality, base.symbol_crc, base.reference):
            raise LayerMismatch("this enhancement belongs to another base layer")
    return layer
