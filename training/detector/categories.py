"""Which category of an annotation file is which class of a detector."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secondlook.shared.detection import COCO_CLASSES
from secondlook.shared.errors import ConfigError

# COCO numbers its 80 classes from 1 to 90, with these left out.
_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = dict(zip((id_ for id_ in range(1, 91) if id_ not in _GAPS), COCO_CLASSES, strict=True))


def load_truth(path: Path, class_map: Mapping[str, str] | None = None) -> Any:
    """A COCO instances file as pycocotools has it; categories without a name get the one that COCO gives their id.

    `class_map`: by name of a category, the detector's class that it is; several may be one class. Raises ConfigError
    for what is no such file, and for a category of the map that is not in it.
    """
    from pycocotools.coco import COCO

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(path))
            _name_categories(truth)
            _map_categories(truth, path, class_map or {})
            truth.createIndex()
        if not truth.imgs:
            raise ConfigError(f"{path} lists no images")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    except (UnicodeDecodeError, AssertionError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no COCO instances file: {error!r}") from error
    return truth


def _name_categories(truth: Any) -> None:
    categories = truth.dataset.get("categories") or [
        {"id": id_} for id_ in sorted({one["category_id"] for one in truth.dataset["annotations"]})
    ]
    # Numbers from 0 on are some other list's, and would be taken for their neighbours.
    are_cocos = all(category["id"] in range(1, 91) for category in categories)
    for category in categories:
        name = category.get("name")
        if not isinstance(name, str) or not name.strip() or name.strip().lstrip("+-").isdecimal():
            known = COCO_IDS.get(category["id"]) if are_cocos else None
            category["name"] = known or f"number {category['id']}"
    truth.dataset["categories"] = categories


def _map_categories(truth: Any, path: Path, class_map: Mapping[str, str]) -> None:
    """Give categories the names of classes; those that are one class by now become one category."""
    names = {category["name"] for category in truth.dataset["categories"]}
    for name in class_map:
        if name not in names:
            raise ConfigError(f"--class-map: {path} has no category {_with_hint(name, sorted(names))}")
    kept: dict[str, Any] = {}
    ids: dict[Any, Any] = {}
    for category in truth.dataset["categories"]:
        category["name"] = class_map.get(category["name"], category["name"])
        ids[category["id"]] = kept.setdefault(category["name"], category)["id"]
    if class_map:
        truth.dataset["categories"] = list(kept.values())
        for one in truth.dataset.get("annotations", []):
            one["category_id"] = ids.get(one["category_id"], one["category_id"])


def category_ids(truth: Any, classes: Sequence[str]) -> dict[str, int]:
    """The ids of the categories that are among `classes`, by name."""
    return {one["name"]: one["id"] for one in truth.dataset["categories"] if one["name"] in classes}


def check_categories(truth: Any, path: Path, detector: str, classes: Sequence[str]) -> None:
    """Say on standard error which categories a detector does not know.

    Raises ConfigError where there are no annotations, or it knows none of their categories: every figure would be 0.
    """
    if not truth.anns:
        raise ConfigError(f"{path} lists no annotations")
    ids = category_ids(truth, classes)
    unknown = sorted({one["name"] for one in truth.dataset["categories"]} - set(ids))
    listed = ", ".join(_with_hint(name, classes) for name in unknown)
    if not ids:
        raise ConfigError(f"{path}: {detector} knows none of its categories: {listed}")
    if not truth.getAnnIds(catIds=list(ids.values())):
        raise ConfigError(f"{path}: no annotation has a category that {detector} knows ({', '.join(ids)})")
    if unknown:
        print(f"{path}: not judged, for {detector} does not know them: {listed}", file=sys.stderr)


def _with_hint(name: str, classes: Sequence[str]) -> str:
    lower = {one.lower(): one for one in classes}
    close = difflib.get_close_matches(name.lower(), lower, 1, 0.75)
    return f"{name} (did you mean {lower[close[0]]}?)" if close else name
