"""Which masks a training run uses. The command line reads this, so what is heavy is imported when it is opened."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secondlook.shared.errors import ConfigError
from secondlook.shared.settings import model_argument

if TYPE_CHECKING:
    from secondlook.training.masks.cache import MaskProvider

MASKS = ("human", "edges", "canny", "regions", "sam")


@dataclass(frozen=True)
class MaskConfig:
    """`provider` is one of MASKS; the other fields serve some of them."""

    provider: str = "human"
    detector: str = "builtin"  # regions: "builtin", a detector's folder, or a file
    annotations: Path | None = None  # regions: COCO instances, for the images they list
    sam_weights: Path = Path("sam_b.pt")  # sam: a weights file of ultralytics


DEFAULT_MASKS = MaskConfig()


def mask_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that `mask_config` reads."""
    parser.add_argument(
        "--masks",
        choices=MASKS,
        default=DEFAULT_MASKS.provider,
        help="where errors count in the base layer: boundaries people drew (the edge network's elsewhere), the edge "
        "network's, Canny edges, object regions, or edges of Segment Anything (default %(default)s)",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO instances that --masks regions takes for the images it lists",
    )
    parser.add_argument(
        "--mask-detector",
        type=model_argument,
        default=DEFAULT_MASKS.detector,
        metavar="FILE",
        help="detector behind --masks regions: builtin, a model folder or an export (default %(default)s)",
    )
    parser.add_argument(
        "--sam-weights",
        type=Path,
        default=DEFAULT_MASKS.sam_weights,
        metavar="FILE",
        help="weights of ultralytics for --masks sam, never downloaded (default %(default)s)",
    )


def mask_config(args: argparse.Namespace) -> MaskConfig:
    """What the flags of `mask_flags` say."""
    return MaskConfig(args.masks, args.mask_detector, args.annotations, args.sam_weights)


def open_masks(config: MaskConfig, data: Path, work: Path) -> MaskProvider:
    """The provider for the training images of `data`; the edge network is `work/edges.pt`.

    Raises ConfigError for a name that is not known, and the errors of the provider.
    """
    from secondlook.training.masks.boundaries import CannyEdges, HumanBoundaries, NetworkEdges

    if config.provider == "human":
        return HumanBoundaries(data / "train" / "boundaries", NetworkEdges(work / "edges.pt"))
    if config.provider == "edges":
        return NetworkEdges(work / "edges.pt")
    if config.provider == "canny":
        return CannyEdges()
    if config.provider == "regions":
        from secondlook.training.masks.regions import ObjectRegions

        return ObjectRegions(config.detector, config.annotations)
    if config.provider == "sam":
        from secondlook.training.masks.segments import SegmentAnything

        return SegmentAnything(config.sam_weights)
    raise ConfigError(f"no masks {config.provider!r}: there are {', '.join(MASKS)}")
