"""`python -m tests.constraints` writes deploy/constraints.txt: the versions that this environment was tested with."""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FILE = ROOT / "deploy" / "constraints.txt"
EXTRAS = ("edge", "cloud", "scale", "mqtt", "otel", "completion")  # what is deployed
NOTE = (
    "# Written by `make constraints`: the versions that the tests of this release passed with.\n"
    "#   pip install --constraint deploy/constraints.txt '.[cloud]'\n"
    "# The extra cloud-gpu takes onnxruntime-gpu, whose versions are others, within its bounds.\n"
)


def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def requirements(*extras: str) -> list[Requirement]:
    """What the project asks for with these extras; extras of its own in them are followed."""
    table, found = project(), []
    waiting = [
        *table["dependencies"],
        *(line for extra in extras for line in table["optional-dependencies"][extra]),
    ]
    for line in waiting:
        one = Requirement(line)
        if canonicalize_name(one.name) == table["name"]:
            waiting += [
                inner for extra in sorted(one.extras) for inner in table["optional-dependencies"][extra]
            ]
        else:
            found.append(one)
    return found


def installed(wanted: list[Requirement]) -> dict[str, str]:
    """Name -> version of these packages and of all that they need, as installed here.

    Raises PackageNotFoundError for one that is not.
    """
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(one, extra) for one in wanted for extra in ("", *sorted(one.extras))]
    while waiting:
        one, extra = waiting.pop()
        name = canonicalize_name(one.name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        package = importlib.metadata.distribution(name)
        versions[name] = package.version
        for line in package.requires or ():
            inner = Requirement(line)
            if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                waiting += [(inner, more) for more in ("", *sorted(inner.extras))]
    return versions


def page() -> str:
    """The file's text."""
    versions = installed(requirements(*EXTRAS))
    return NOTE + "".join(f"{name}=={versions[name]}\n" for name in sorted(versions))


def pins(text: str) -> dict[str, str]:
    """Name -> version of a constraints file. Raises ValueError for a line that pins nothing."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, exact, version = line.partition("==")
            if not exact or name in found:
                raise ValueError(f"{line!r} pins nothing, or once more")
            found[name] = version
    return found


def main() -> int:
    FILE.write_text(page())
    print(f"wrote {FILE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
