"""The commands `secondlook catalogue` and `secondlook audit`: the schema of the catalogue, and its audit trail."""

from __future__ import annotations

import argparse
import logging

from secondlook.cloud.admin.store import add_store_flags, store_config


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
        help="check the audit trail",
        description="The audit trail, whose entries form a chain of hashes.",
    )
    checks = audit.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
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
