"""Which masks a training run uses. The command line reads this, so what is heavy is imported when it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import ConfigError

if TYPE_CHECKING:
    from training.masks.cache import MaskProvider

MASKS = ("human", "edges", "canny", "regions", "sam")


@dataclass(frozen=True)
class MaskConfig:
    """`provider` is one of MASKS; the other fields serve some of them."""

    provider: str = "human"
    detector: str = "builtin"  # regions: "builtin", a detector's folder, or a file
    annotations: Path | None = None  # regions: COCO instances, for the images they list
    sam_weights: Path = Path("sam_b.pt")  # sam: a weights file of ultralytics


DEFAULT_MASKS = MaskConfig()


def open_masks(config: MaskConfig, data: Path, work: Path) -> MaskProvider:
    """The provider for the training images of `data`; the edge network is `work/edges.pt`.

    Raises ConfigError for a name that is not known, and the errors of the provider.
    """
    from training.masks.boundaries import CannyEdges, HumanBoundaries, NetworkEdges

    if config.provider == "human":
        return HumanBoundaries(data / "train" / "boundaries", NetworkEdges(work / "edges.pt"))
    if config.provider == "edges":
        return NetworkEdges(work / "edges.pt")
    if config.provider == "canny":
        return CannyEdges()
    if config.provider == "regions":
        from training.masks.regions import ObjectRegions

        return ObjectRegions(config.detector, config.annotations)
    if config.provider == "sam":
        from training.masks.segments import SegmentAnything

        return SegmentAnything(config.sam_weights)
    raise ConfigError(f"no masks {config.provider!r}: there are {', '.join(MASKS)}")
