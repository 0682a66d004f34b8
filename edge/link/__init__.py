"""The way to the gateway: two connections, what is due, how fast, and who shares the line."""
