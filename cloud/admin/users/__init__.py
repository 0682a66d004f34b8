"""The commands that manage users of the station and their API tokens."""
