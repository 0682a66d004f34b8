"""How each person wants the station to be."""

from __future__ import annotations

from typing import Any

from secondlook.cloud.catalogue.schema import Preferences, table_of
from secondlook.cloud.catalogue.store import Catalogue
from secondlook.cloud.storage.sql import insert


def preferences_of(catalogue: Catalogue, person: str) -> dict[str, Any]:
    """What a person chose; empty where nothing was chosen."""
    with catalogue.reading() as session:
        row = session.get(Preferences, person)
        return {} if row is None else dict(row.chosen)


def set_preferences(catalogue: Catalogue, person: str, chosen: dict[str, Any]) -> None:
    """Keep what a person chose instead of what was chosen before."""
    with catalogue.writing() as session:
        connection, table = session.connection(), table_of(Preferences)
        new = insert(connection, table).values(person=person, chosen=chosen)
        connection.execute(
            new.on_conflict_do_update(index_elements=[table.c.person], set_={"chosen": new.excluded.chosen})
        )
