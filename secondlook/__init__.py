"""Machines look at every camera frame; people get a second look at the few that need one.

The names below are the public surface; `docs/library.md` says what each does and what may change. They are loaded when
they are first used, so that a camera host imports no more than it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from secondlook.shared.version import __version__

if TYPE_CHECKING:
    from secondlook.api import (
        Latents,
        Rate,
        bpp,
        decode_base,
        decode_enhanced,
        decode_latents,
        detect,
        encode,
        encode_batch,
        inspect,
        load_codec,
        load_torch_codec,
        refine,
    )
    from secondlook.client import Client
    from secondlook.edge.program import Agent
    from secondlook.shared.detection import Detection
    from secondlook.shared.errors import SecondlookError
    from secondlook.shared.layers import Layers
    from secondlook.webhooks import verify_webhook

_HOMES = {
    "Agent": "secondlook.edge.program",
    "Client": "secondlook.client",
    "Detection": "secondlook.shared.detection",
    "Layers": "secondlook.shared.layers",
    "SecondlookError": "secondlook.shared.errors",
    "verify_webhook": "secondlook.webhooks",
}

__all__ = [
    "Agent",
    "Client",
    "Detection",
    "Latents",
    "Layers",
    "Rate",
    "SecondlookError",
    "__version__",
    "bpp",
    "decode_base",
    "decode_enhanced",
    "decode_latents",
    "detect",
    "encode",
    "encode_batch",
    "inspect",
    "load_codec",
    "load_torch_codec",
    "refine",
    "verify_webhook",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "secondlook.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
