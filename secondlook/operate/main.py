"""Registers the operator's commands; what they need is imported only when one runs."""

from __future__ import annotations

from secondlook.operate import configs, doctor, status
from secondlook.shared.commands import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `doctor`, `status` and `config`."""
    for part in (doctor, status, configs):
        part.register(subparsers)
