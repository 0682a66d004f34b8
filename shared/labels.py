"""Labels that settings name must be labels that the detector can give."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from secondlook.shared.errors import ConfigError


def check_label(setting: str, label: str, detector: str, classes: Sequence[str]) -> None:
    """Raises ConfigError for a label that `detector` cannot give, with the one that may be meant."""
    if label not in classes:
        raise ConfigError(
            f"{setting}: {detector} has no class {label!r}{_near(label, classes)}; "
            f"its classes are {', '.join(classes)}"
        )


def _near(label: str, classes: Sequence[str]) -> str:
    lower = {name.lower(): name for name in classes}
    close = difflib.get_close_matches(label.lower(), lower, 1, 0.6)
    return f", did you mean {lower[close[0]]!r}?" if close else ""
