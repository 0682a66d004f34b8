"""The process that deletes what has been kept for long enough, or what the disk has no room for."""

from __future__ import annotations

from secondlook.cloud.retention.report import Deleted, Report
from secondlook.cloud.retention.reserve import Reserve
from secondlook.cloud.retention.run import Retainer

__all__ = ["Deleted", "Report", "Reserve", "Retainer"]
