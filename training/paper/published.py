"""What the paper prints, and the settings of ours that stand beside it.

Shindo, Tatsumi, Watanabe, Watanabe: "Refining Coded Image in Human Vision Layer Using CNN-Based Post-Processing".
"""

from __future__ import annotations

from secondlook.shared.quality import PRESETS as NAMED

# λ of Table I -> quality of our enhancement layer
PRESETS = {float(name.removeprefix("lambda-")): quality for name, quality in NAMED.items()}

# Roles of a decoded picture: straight from the decoder, or through a filter of one or of two RRDBs.
PLAIN, ONE, TWO = "plain", "l1", "l2"
TITLES = {
    PLAIN: "w/o post-processing",
    ONE: "w/ post-processing (l = 1)",
    TWO: "w/ post-processing (l = 2)",
}

# Table I: PSNR in dB on the COCO validation set, in the order of PRESETS.
TABLE1 = {
    PLAIN: dict(zip(PRESETS, (29.76, 31.26, 32.82, 33.81), strict=True)),
    ONE: dict(zip(PRESETS, (29.87, 31.40, 33.03, 34.08), strict=True)),
    TWO: dict(zip(PRESETS, (29.88, 31.42, 33.05, 34.09), strict=True)),
}
