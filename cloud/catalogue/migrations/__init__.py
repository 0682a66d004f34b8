"""Alembic's environment of the catalogue; ``cloud.catalogue.migrate`` runs it."""
