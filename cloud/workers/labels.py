"""Labels that rules name must be labels that the detector can give."""

from __future__ import annotations

from collections.abc import Sequence

from secondlook.cloud.config import PolicyConfig
from secondlook.shared.labels import check_label


def check_labels(policy: PolicyConfig, detector: str, classes: Sequence[str]) -> None:
    """Raises ConfigError for a label of a rule that `detector` cannot give, for the rule would never hold."""
    for setting, labels in (
        ("policy.watched_labels", policy.watched_labels),
        ("policy.rule_labels", policy.rule_labels),
    ):
        for label in labels:
            check_label(setting, label, detector, classes)
