"""What the processes of a site share through the catalogue, and whether they may write to it at all."""

from __future__ import annotations

import secrets

from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError, ProgrammingError

from secondlook.cloud.catalogue.schema import (
    Frame,
    Review,
    ReviewState,
    SiteSecret,
    StationSecret,
    table_of,
)
from secondlook.cloud.catalogue.store import Catalogue
from secondlook.cloud.storage.sql import insert
from secondlook.shared.errors import UnsupportedStore

AUDIT_SECRET = "audit"


def site_secret(catalogue: Catalogue, name: str) -> bytes:
    """32 random bytes that all workers of this site share; made by the first that asks."""
    return _secret(catalogue, SiteSecret, name)


def station_secret(catalogue: Catalogue, name: str) -> bytes:
    """32 random bytes that all stations of this site share; made by the first that asks."""
    return _secret(catalogue, StationSecret, name)


def _secret(catalogue: Catalogue, kind: type[SiteSecret] | type[StationSecret], name: str) -> bytes:
    table = table_of(kind)
    wanted = select(kind.value).where(kind.name == name)
    with catalogue.reading() as session:
        known = session.scalars(wanted).one_or_none()
    if known is None:
        with catalogue.writing() as session:
            connection = session.connection()
            new = insert(connection, table).values(name=name, value=secrets.token_hex(32))
            connection.execute(new.on_conflict_do_nothing())
            known = session.scalars(wanted).one()
    return bytes.fromhex(known)


def check_catalogue(catalogue: Catalogue) -> None:
    """Find out now, not at the first frame, that nothing can be written here. Raises Unwritable, UnsupportedStore."""
    try:
        with catalogue.writing() as session:
            # No row, but the right to change one: in a column that every worker changes.
            session.execute(update(Review).where(Review.id == -1).values(state=ReviewState.DUE))
            # Not all tables: a role may have no business with some.
            for kind in (Frame, Review):
                session.execute(select(table_of(kind)).limit(0))
    except (OperationalError, ProgrammingError) as error:  # what is no trouble of the database itself
        raise UnsupportedStore(
            f"catalogue: its tables are not those of this version ({error.orig})"
        ) from error
