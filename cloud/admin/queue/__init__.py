"""The commands that look after the queue of a running gateway."""
