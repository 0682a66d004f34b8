"""`python -m tests.migration NAME` writes the next migration of the catalogue from what its tables have changed."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from alembic import command
from sqlalchemy import MetaData

import secondlook.cloud.accounts.schema  # noqa: F401 the tables of accounts are in the same metadata
from secondlook.cloud.catalogue import migrate
from secondlook.cloud.catalogue.schema import Base
from secondlook.cloud.storage.sql import open_engine

_NAME = re.compile(r"[a-z][a-z0-9_]{0,26}")


def write(name: str, folder: Path, tables: MetaData = Base.metadata) -> Path:
    """Write the file that leads from the last migration to ``tables``; ``folder`` is for a database of that one.

    ValueError for a name that is none.
    """
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name: up to 27 of a-z, 0-9 and _, a letter first")
    engine = open_engine(f"sqlite:///{folder}/catalogue.db", "catalogue")
    migrate.upgrade(engine)
    revision = f"{len(migrate.revisions()) + 1:04}_{name}"
    with engine.connect() as connection:
        config = migrate.alembic_config(connection, tables)
        config.set_main_option("file_template", "%%(rev)s")
        made = command.revision(config, message=name.replace("_", " "), rev_id=revision, autogenerate=True)
    engine.dispose()
    assert made is not None and not isinstance(made, list)
    return Path(made.path)


if __name__ == "__main__":
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="what it adds, in words joined by _")
    with tempfile.TemporaryDirectory() as made_in:
        print(write(parser.parse_args().name, Path(made_in)))
