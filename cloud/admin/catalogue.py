"""The commands `secondlook catalogue` and `secondlook audit`: schema, agreement of stores, trail."""

from __future__ import annotations

import argparse
import json
import logging
import time
from typing import TYPE_CHECKING

from secondlook.cloud.admin.store import add_store_flags, store_config
from secondlook.shared.flags import Flag

if TYPE_CHECKING:
    from secondlook.cloud.admin.agreement import Agreement


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `catalogue` and `audit` to the `secondlook` parser."""
    catalogue = subparsers.add_parser(
        "catalogue",
        help="look at and upgrade the catalogue's schema",
        description="The schema of the catalogue. Every process of the cloud brings it up to date when it starts.",
    )
    actions = catalogue.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    current = actions.add_parser(
        "current",
        help="show the schema's revision",
        description="Show the revision of the schema, and the migrations that would bring it up to date.",
    )
    upgrade = actions.add_parser(
        "upgrade",
        help="bring the schema up to date",
        description="Take the migrations that are missing, all of them or none. Back the database up before.",
    )
    audit = subparsers.add_parser(
        "audit",
        help="check that ledger, catalogue and blobs agree, and the audit trail",
        description="Check that every frame is accounted for, and that ledger, catalogue and blobs agree: gaps, frames "
        "that count twice, blobs without rows and rows without blobs. Changes nothing. The exit status is 0 where they "
        "agree, 1 where they do not. `verify` checks the audit trail, whose entries form a chain of hashes.",
    )
    add_store_flags(audit, _BLOBS)
    audit.add_argument("--json", action="store_true", help="print the report as JSON")
    audit.add_argument(
        "--hashes", action="store_true", help="read every picture that people judged, and check its hash"
    )
    audit.set_defaults(run=run_audit, extra="cloud", action=None)
    checks = audit.add_subparsers(title="actions", metavar="ACTION", dest="action")
    verify = checks.add_parser(
        "verify",
        help="check every entry",
        description="Check that no entry was changed, removed or added by anything else than this program.",
    )
    verify.add_argument(
        "--noted",
        metavar="HASH",
        help="a last hash that an earlier check printed: it must be in the chain still",
    )
    for parser, run in ((current, run_current), (upgrade, run_upgrade), (verify, run_verify)):
        add_store_flags(parser)
        parser.set_defaults(run=run, extra="cloud")
    for action in verify._actions:
        if action.dest not in ("help", "noted"):
            action.default = argparse.SUPPRESS  # what stands ahead of the action holds


_BLOBS: Flag = ("--blobs", "blobs", str, "folder or fsspec URL of the blobs")


def run_audit(args: argparse.Namespace) -> int:
    """Compare the stores. Returns 1 when they do not agree."""
    from secondlook.cloud.admin.agreement import look
    from secondlook.cloud.admin.ledgers import ledger_read
    from secondlook.cloud.catalogue import open_catalogue
    from secondlook.cloud.storage.blobs import open_blobs

    config = store_config(args, _BLOBS)
    before = time.time() - config.retention.grace_minutes * 60
    with ledger_read(config) as (ledger, queued):
        catalogue = open_catalogue(config.catalogue_url)
        found = look(
            catalogue,
            open_blobs(config.blobs_url),
            ledger,
            queued=queued,
            before=before,
            with_hashes=args.hashes,
        )
        catalogue.close()
    if args.json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        print("\n".join(_lines(found)))
    return 0 if found.agrees else 1


def _lines(found: Agreement) -> list[str]:
    reasons = ", ".join(f"{many} {reason}" for reason, many in sorted(found.by_reason.items()))
    reviews = ", ".join(f"{many} {state}" for state, many in sorted(found.reviews.items()))
    received = "no ledger was read" if found.received is None else f"{found.received} received"
    unseen = f" ({found.unseen} not looked at)" if found.unseen else ""
    queued = "" if found.queued is None else f", {found.queued} in the queue"
    return [
        f"cameras     {found.cameras}, in {found.boots} starts",
        f"frames      {received}, {found.frames} filed{unseen}, {found.deleted} deleted by retention{queued}",
        f"tombstones  {found.tombstones}, over {found.tombstoned} frames{f': {reasons}' if reasons else ''}",
        f"reviews     {reviews or 'none'}; {found.verdicts} verdicts, {found.conflicts} in conflict with another's",
        f"blobs       {found.blobs}, {found.blob_bytes / 1e6:.1f} MB",
        *found.problems,
        *(f"{kind}: {many} in all" for kind, many in found.counts.items() if many > 20),
        "the stores agree" if found.agrees else f"{found.counts.total()} disagreements",
    ]


def run_current(args: argparse.Namespace) -> int:
    """Print the revision, and what is missing. Changes nothing."""
    from secondlook.cloud.catalogue.migrate import current_schema
    from secondlook.cloud.storage.sql import named_errors, open_engine

    engine = open_engine(store_config(args).catalogue_url, "catalogue")
    with named_errors(engine, "catalogue"):
        schema = current_schema(engine)
    engine.dispose()
    print(f"{schema.revision or 'without migrations'}{'' if schema.missing else ' (up to date)'}")
    for revision in schema.missing:
        print(f"missing: {revision}")
    return 0


def run_upgrade(args: argparse.Namespace) -> int:
    """Take the migrations that are missing."""
    from secondlook.cloud.catalogue.migrate import revisions, upgrade
    from secondlook.cloud.storage.sql import named_errors, open_engine

    logging.basicConfig(level=logging.WARNING)
    engine = open_engine(store_config(args).catalogue_url, "catalogue")
    with named_errors(engine, "catalogue"):
        before = upgrade(engine)
    engine.dispose()
    if before.missing:
        print(f"{before.revision or 'without migrations'} -> {revisions()[-1]}")
    else:
        print(f"{before.revision} (up to date)")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Check the chain, and print its length and last hash."""
    from secondlook.cloud.catalogue import open_catalogue
    from secondlook.cloud.catalogue.audit import verify_audit

    catalogue = open_catalogue(store_config(args).catalogue_url)
    trail = verify_audit(catalogue, noted=args.noted)
    catalogue.close()
    print(f"whole: {trail.entries} entries, the last {trail.sha256}")
    return 0
