"""How exactly networks compute, as settings and flags say it.

`exact` is float32. `fast` is bfloat16, for what only people look at: pictures, which it changes by a grey level here
and there. `auto` takes `fast` where this machine has it. What leads to the tables of the entropy coder is exact always.
"""

from __future__ import annotations

from secondlook.shared.errors import ConfigError

PRECISIONS = ("auto", "exact", "fast")
FLOAT32, BFLOAT16 = "float32", "bfloat16"


def check_precision(name: str) -> None:
    """Raises ConfigError unless `name` is one of `PRECISIONS`."""
    if name not in PRECISIONS:
        raise ConfigError(f"precision {name!r} is not one of {', '.join(PRECISIONS)}")
