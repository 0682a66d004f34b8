"""What packages of others build on: codec families, detectors, post-filters, peers of the benches, sources of frames.

docs/plugins.md says how each is made and declared; `secondlook.conformance` tries them. The names below keep to the
promise of docs/library.md. They are loaded when they are first used: a codec family needs no torch, a peer no FFmpeg.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secondlook.edge.source.sources import SourceFrame
    from secondlook.shared.bitstream import Bitstream, Codec, Layer, check_frame, parse
    from secondlook.shared.detection import Detection, Detector
    from secondlook.shared.errors import (
        BitstreamError,
        ConfigError,
        DetectorError,
        LayerMismatch,
        MalformedBitstream,
        ModelCorrupt,
        ModelNotFound,
        ReferenceMissing,
        SecondlookError,
        SourceError,
        SourceNotFound,
        SourceUnreadable,
        SymbolMismatch,
        TruncatedBitstream,
        UnsupportedBitstream,
    )
    from secondlook.shared.filters import ImageFilter
    from secondlook.shared.inference import Session, open_session
    from secondlook.shared.layers import Encoded, Key, LayeredCodec, Layers
    from secondlook.shared.models import ModelFolder
    from secondlook.shared.namedlayers import base_layer, enhancement_layer, read_layer
    from secondlook.shared.peers import Peer

_HOMES = {
    "edge.source.sources": ("SourceFrame",),
    "shared.bitstream": ("Bitstream", "Codec", "Layer", "check_frame", "parse"),
    "shared.detection": ("Detection", "Detector"),
    "shared.errors": (
        "BitstreamError",
        "ConfigError",
        "DetectorError",
        "LayerMismatch",
        "MalformedBitstream",
        "ModelCorrupt",
        "ModelNotFound",
        "ReferenceMissing",
        "SecondlookError",
        "SourceError",
        "SourceNotFound",
        "SourceUnreadable",
        "SymbolMismatch",
        "TruncatedBitstream",
        "UnsupportedBitstream",
    ),
    "shared.filters": ("ImageFilter",),
    "shared.inference": ("Session", "open_session"),
    "shared.layers": ("Encoded", "Key", "LayeredCodec", "Layers"),
    "shared.models": ("ModelFolder",),
    "shared.namedlayers": ("base_layer", "enhancement_layer", "read_layer"),
    "shared.peers": ("Peer",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Bitstream",
    "BitstreamError",
    "Codec",
    "ConfigError",
    "Detection",
    "Detector",
    "DetectorError",
    "Encoded",
    "ImageFilter",
    "Key",
    "Layer",
    "LayerMismatch",
    "LayeredCodec",
    "Layers",
    "MalformedBitstream",
    "ModelCorrupt",
    "ModelFolder",
    "ModelNotFound",
    "Peer",
    "ReferenceMissing",
    "SecondlookError",
    "Session",
    "SourceError",
    "SourceFrame",
    "SourceNotFound",
    "SourceUnreadable",
    "SymbolMismatch",
    "TruncatedBitstream",
    "UnsupportedBitstream",
    "base_layer",
    "check_frame",
    "enhancement_layer",
    "open_session",
    "parse",
    "read_layer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"secondlook.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
