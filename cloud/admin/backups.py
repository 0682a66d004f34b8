"""The commands `secondlook backup` and `secondlook restore`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from secondlook.cloud.admin.store import add_store_flags, store_config
from secondlook.shared.flags import Flag

_BLOBS: Flag = ("--blobs", "blobs", str, "folder or fsspec URL of the blobs")


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `backup` and `restore` to the `secondlook` parser."""
    backup = subparsers.add_parser(
        "backup",
        help="copy a site's stores while it runs",
        description="Copy queue, ledger, catalogue and blobs into a new folder, while everything runs. Key files and "
        "settings are not in it, and neither is a queue on NATS: docs/operations.md.",
    )
    backup.add_argument(
        "folder", type=Path, metavar="FOLDER", help="where it goes: a folder that is new or empty"
    )
    backup.add_argument(
        "--than",
        type=Path,
        metavar="FOLDER",
        help="an earlier backup on the same disk: what it has is linked, not copied",
    )
    backup.add_argument("--no-blobs", action="store_true", help="databases only")
    restore = subparsers.add_parser(
        "restore",
        help="put a backup in place",
        description="Put a backup in place of the stores that the settings name. Gateways, workers, refiners, stations "
        "and retention must be stopped.",
    )
    restore.add_argument("folder", type=Path, metavar="FOLDER", help="a folder that `secondlook backup` made")
    restore.add_argument(
        "--check", action="store_true", help="only look whether every file is what was written"
    )
    restore.add_argument("--overwrite", action="store_true", help="replace stores that are there")
    for parser, run in ((backup, run_backup), (restore, run_restore)):
        add_store_flags(parser, _BLOBS)
        parser.set_defaults(run=run, extra="cloud")


def run_backup(args: argparse.Namespace) -> int:
    """Make a backup, and print what is in it."""
    from secondlook.cloud.admin.backup import back_up

    manifest = back_up(store_config(args, _BLOBS), args.folder, with_blobs=not args.no_blobs, than=args.than)
    print(json.dumps(_summary(manifest)))
    return 0


def run_restore(args: argparse.Namespace) -> int:
    """Check a backup, and put it in place."""
    from secondlook.cloud.admin.backup import check, restore

    if args.check:
        manifest = check(args.folder)
    else:
        manifest = restore(store_config(args, _BLOBS), args.folder, overwrite=args.overwrite)
    print(json.dumps(_summary(manifest)))
    return 0


def _summary(manifest: dict[str, object]) -> dict[str, object]:
    """The manifest with counts where it has long lists."""
    shown = {key: value for key, value in manifest.items() if key not in ("blobs", "missing")}
    for key in ("blobs", "missing"):
        value = manifest[key]
        assert isinstance(value, dict | list)
        shown[key] = len(value)
    return shown
