"""What Alembic runs for each command: it works on the connection, and in the transaction, that it is handed."""

from __future__ import annotations

from alembic import context

_given = context.config.attributes
context.configure(
    connection=_given["connection"],
    target_metadata=_given["metadata"],
    version_table=_given["version_table"],
    render_as_batch=True,  # SQLite cannot change a table in its place
    compare_server_default=False,  # each database spells them in its own way
)
with context.begin_transaction():
    context.run_migrations()
