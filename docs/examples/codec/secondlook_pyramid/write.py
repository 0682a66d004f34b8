"""`python -m secondlook_pyramid.write`: writes the model folder, its manifest with the hashes of its files."""

from __future__ import annotations

import hashlib
import json

from secondlook_pyramid import MODELS

STEPS = {"block": 8, "coarsest_step": 48}


def main() -> None:
    """Write `models/pyramid`."""
    folder = MODELS / "pyramid"
    folder.mkdir(parents=True, exist_ok=True)
    data = (json.dumps(STEPS) + "\n").encode()
    manifest = {
        "name": "pyramid",
        "kind": "codec",
        "family": "pyramid",
        "format": 1,
        "files": {"steps.json": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}},
        "licence": "Apache-2.0",
    }
    (folder / "steps.json").write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(folder)


if __name__ == "__main__":
    main()
