"""The versioned API, `/api/v1`: what other programs read and follow, and may rely on (docs/api.md)."""
