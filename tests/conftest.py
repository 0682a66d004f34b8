"""Profiles for property tests: few examples in the daily run, many in `make fuzz`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Deadlines would measure what else the machine is doing.
settings.register_profile("daily", max_examples=60, deadline=None)
settings.register_profile(
    "fuzz", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("daily")
