"""Telling other systems what happens: webhooks and MQTT (docs/api.md)."""
