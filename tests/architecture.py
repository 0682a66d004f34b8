"""`python -m tests.architecture` draws the import graph of the rooms into ARCHITECTURE.md.

A room is a folder of code: `edge`, `shared`, `training`, and each folder within `cloud`. An arrow A → B says that
modules of A import modules of B, and how many such imports there are.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- import graph: begin -->\n", "<!-- import graph: end -->\n"


def room(module: str) -> str:
    """The room a module lies in: `secondlook.cloud.gateway.intake` lies in `cloud.gateway`."""
    _, *parts = module.split(".")
    if not parts or parts[0] in ("main", "stills"):
        return "secondlook"
    if parts[0] == "cloud":
        # main and config of the cloud are rooms of their own: everything meets in the one and reads the other.
        return ".".join(parts[:2]) if len(parts) > 1 else "cloud"
    return parts[0]


def imports() -> Counter[tuple[str, str]]:
    """(importing room, imported room) → number of imports between modules of the two."""
    graph = grimp.build_graph("secondlook", cache_dir=None)
    found: Counter[tuple[str, str]] = Counter()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            pair = room(importer), room(imported)
            if pair[0] != pair[1]:
                found[pair] += 1
    return found


def drawing() -> str:
    """The graph in Mermaid. Arrows to `shared` are left out: nearly every room has one."""
    found = imports()
    lines = ["```mermaid", "graph TD"]
    for (importer, imported), count in sorted(found.items()):
        if imported != "shared":
            lines.append(f"    {importer} -->|{count}| {imported}")
    to_shared = sorted({importer for importer, imported in found if imported == "shared"})
    return "\n".join([*lines, "```", "", f"To `shared`: {', '.join(f'`{name}`' for name in to_shared)}.", ""])


def page() -> str:
    """ARCHITECTURE.md with the graph as it is now."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{drawing()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page())
