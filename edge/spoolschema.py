"""The tables of the spool, and what brings those of version 1 up to them."""

from __future__ import annotations

SCHEMA_VERSION = 2
INDEXES = """
CREATE INDEX frames_undelivered ON frames (boot, seq) WHERE safe = 0;
CREATE INDEX frames_deltas ON frames (id) WHERE safe = 0 AND key_seq IS NOT NULL;
CREATE INDEX frames_safe ON frames (id) WHERE safe = 1;
CREATE INDEX frames_pinned ON frames (pinned_until_ns) WHERE pinned_until_ns > 0;
"""
CLOCK = """
CREATE TABLE clock (spool_ns INTEGER NOT NULL, wall_ns INTEGER NOT NULL) STRICT;
INSERT INTO clock VALUES (0, 0);
"""
SCHEMA = f"""
CREATE TABLE boots (
    number INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL UNIQUE,
    started_ns INTEGER NOT NULL,
    next_seq INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE frames (
    id INTEGER PRIMARY KEY,
    boot INTEGER NOT NULL REFERENCES boots (number),
    seq INTEGER NOT NULL,
    captured_ns INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    key_seq INTEGER,
    size_bytes INTEGER NOT NULL,
    put_ns INTEGER NOT NULL DEFAULT 0,  -- by the spool's own clock
    pinned_until_ns INTEGER NOT NULL DEFAULT 0,  -- by the same clock
    safe INTEGER NOT NULL DEFAULT 0,
    base BLOB NOT NULL,
    enhancement BLOB NOT NULL,
    UNIQUE (boot, seq)
) STRICT;
{INDEXES}CREATE TABLE tombstones (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    boot INTEGER NOT NULL REFERENCES boots (number),
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
{CLOCK}"""
# From version 1: frames begin to age anew, and none is pinned.
UPGRADE = f"""
ALTER TABLE frames ADD COLUMN put_ns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE frames ADD COLUMN pinned_until_ns INTEGER NOT NULL DEFAULT 0;
DROP INDEX frames_undelivered;
DROP INDEX frames_safe;
{INDEXES}{CLOCK}"""
