"""Quality of a decoded picture: PSNR as in the paper, and the metrics it leaves to future work: SSIM, MS-SSIM, LPIPS.

LPIPS (Zhang et al. 2018) needs AlexNet's ImageNet weights, which no package carries. They come from a file, or from
torchvision's cache; without them there is no LPIPS figure.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_msssim
import torch

from secondlook.shared.errors import ConfigError
from secondlook.training.rate_distortion import ms_ssim, psnr

U8 = npt.NDArray[np.uint8]
COLUMNS = ("psnr", "ssim", "ms_ssim", "lpips")
SSIM_WINDOW = 11
LPIPS_MIN_SIDE = 32  # AlexNet's fifth convolution sees nothing of less
ALEXNET_FILE = "alexnet-owt-7be5be79.pth"  # the name torchvision gives its download
# Where `lpips` keeps the convolutions that torchvision calls features.N.
ALEXNET_SLICES = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
LPIPS_MISSING = (
    "LPIPS is not measured: AlexNet's weights are not here. Give --lpips FILE with torchvision's "
    f"{ALEXNET_FILE} or with a state dict of lpips.LPIPS(net='alex')."
)


def ssim(image: U8, other: U8) -> float | None:
    """Mean SSIM over RGB (Wang et al. 2004, Gaussian window of 11); None for pictures smaller than the window."""
    if min(image.shape[:2]) < SSIM_WINDOW:
        return None
    a, b = (
        _tensor(picture).double() for picture in (image, other)
    )  # variances of flat places cancel in float32
    return float(pytorch_msssim.ssim(a, b, data_range=255))


class Lpips:
    """LPIPS version 0.1 over AlexNet. `digest`: first 16 hex digits of SHA-256 over the weights file."""

    def __init__(self, weights: Path) -> None:
        """Raises ConfigError when the file is no state dict of a known layout, ModuleNotFoundError without `lpips`."""
        import lpips

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls torchvision in a way that torchvision warns of
            self._model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        self.digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
        self.source = weights.name
        state = _state(weights)
        try:
            if "features.0.weight" in state:
                state = self._model.state_dict() | {
                    f"net.slice{part}.{layer}.{kind}": state[f"features.{layer}.{kind}"]
                    for layer, part in ALEXNET_SLICES.items()
                    for kind in ("weight", "bias")
                }
            self._model.load_state_dict(state)
        except (RuntimeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{weights} holds neither torchvision's AlexNet nor lpips.LPIPS(net='alex')"
            ) from error

    @torch.no_grad()
    def __call__(self, image: U8, other: U8) -> float | None:
        """Distance, 0 for equal pictures; None for pictures of less than 32 pixels a side."""
        if min(image.shape[:2]) < LPIPS_MIN_SIDE:
            return None
        a, b = (_tensor(picture) / 127.5 - 1 for picture in (image, other))
        return float(self._model(a, b))


class Metrics:
    """The metrics of one run. `names` are those that records keep: LPIPS with the digest of its weights."""

    def __init__(self, lpips: Lpips | None) -> None:
        self.lpips = lpips
        self.names = ("psnr", "ssim", "ms_ssim", *((f"lpips:{lpips.digest}",) if lpips else ()))

    def measure(self, image: U8, other: U8, names: Iterable[str]) -> dict[str, float | None]:
        """The metrics called `names` of `other`, a decoded `image`."""
        if image.shape != other.shape:
            raise ValueError(f"pictures of {image.shape} and {other.shape} cannot be compared")
        return {name: self._measure(image, other, name) for name in names}

    def columns(self, record: dict[str, Any]) -> dict[str, float | None]:
        """A record's metrics by column; None where one was not measured."""
        lpips = record.get(f"lpips:{self.lpips.digest}") if self.lpips else None
        return {name: record.get(name) for name in COLUMNS[:3]} | {"lpips": lpips}

    def _measure(self, image: U8, other: U8, name: str) -> float | None:
        if name == "psnr":
            return psnr(image, other)
        if name == "ssim":
            return ssim(image, other)
        if name == "ms_ssim":
            return ms_ssim(image, other)
        assert self.lpips is not None
        return self.lpips(image, other)


def find_lpips(weights: Path | None) -> tuple[Lpips | None, str]:
    """LPIPS over `weights`, or over torchvision's cached AlexNet; else None, and a line that says what is missing.

    Raises ConfigError when `weights` is given and cannot be used.
    """
    if weights is not None:
        if not weights.is_file():
            raise ConfigError(f"--lpips {weights}: there is no such file")
        return Lpips(weights), ""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET_FILE
    if not cached.is_file():
        return None, LPIPS_MISSING
    try:
        return Lpips(cached), ""
    except ModuleNotFoundError:
        return None, "LPIPS is not measured: the package lpips is not installed."


def _state(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError) as error:
        raise ConfigError(f"{path} is not a PyTorch state dict") from error
    if not isinstance(state, dict):
        raise ConfigError(f"{path} is not a PyTorch state dict")
    return state


def _tensor(image: U8) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float()
