"""One run of the paper's experiments: opens what a plan names, and makes the table and the figures of shared rows."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch

from secondlook.cloud.workers.postfilter import load_postfilter
from secondlook.shared.codec import load_codec
from secondlook.shared.errors import ConfigError
from secondlook.shared.filters import ImageFilter
from secondlook.shared.models import find_model
from secondlook.shared.peers import Peer, find_peer
from secondlook.shared.version import __version__
from secondlook.training.paper import curves, noise, table
from secondlook.training.paper.curves import Curve
from secondlook.training.paper.measure import Coder, Lab, Row, mean, read_pictures
from secondlook.training.paper.metrics import Metrics, find_lpips
from secondlook.training.paper.noise import Example
from secondlook.training.paper.published import ONE, PRESETS, TWO
from secondlook.training.paper.vvc import find_tools, version, vvc_peer
from secondlook.training.published import KODAK_IMAGES, is_kodak
from secondlook.training.rate_distortion import PEERS

SINGLE = "single-layer"
SINGLE_QUALITIES = tuple(PRESETS.values())
LAMBDAS = tuple(PRESETS)
PACKAGES = {"jpeg": "pillow", "webp": "pillow", "avif": "pillow", "x264": "av", "x265": "av"}


@dataclass(frozen=True)
class Plan:
    """What to measure. Names of models may be folders; `threads` goes to every part that takes a number of them."""

    codec: str
    images: Path
    out: Path
    limit: int | None = None
    threads: int = 2
    gpu: bool = False  # for the post-filters
    base_quality: int = 8
    l1: str = "rrdb-l1"
    l2: str = "rrdb-l2"
    lambdas: tuple[float, ...] = LAMBDAS
    qualities: tuple[int, ...] = ()  # of Fig. 2 beside those of the lambdas
    peers: tuple[str, ...] = ()
    vvenc: str | None = None
    vvdec: str | None = None
    single: Path | None = None
    lpips: Path | None = None
    examples: int = 0
    example_lambda: float = LAMBDAS[0]
    gain: float = noise.GAIN


class Study:
    """A plan with its models open. `notes` say what is missing and why; `say` hears of progress."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        """Raises a ModelError, ConfigError, SourceError or FileNotFoundError where the plan names what is not there."""
        cv2.setNumThreads(plan.threads)
        torch.set_num_threads(plan.threads)
        self.plan = plan
        self.notes: list[str] = []
        self.peers: dict[str, tuple[Peer, str]] = {}
        lpips, note = find_lpips(plan.lpips)
        self._note(note)
        self._open_peers()
        self.coder = self._coder(plan.codec, plan.base_quality)
        gpu = "auto" if plan.gpu else "cpu"
        self.filters: dict[str, ImageFilter] = {
            role: load_postfilter(name, threads=plan.threads, device=gpu)
            for role, name in ((ONE, plan.l1), (TWO, plan.l2))
            if name != "none"
        }
        self.single = self._single()
        self.metrics = Metrics(lpips)
        if plan.limit is not None and plan.limit < 1:
            raise ConfigError(f"--limit {plan.limit}: at least one image is needed")
        pictures = read_pictures(plan.images, plan.limit)
        example_quality = PRESETS[plan.example_lambda]
        kept = frozenset((p.digest, example_quality) for p in pictures[: plan.examples])
        folder = plan.out / "measured"
        folder.mkdir(parents=True, exist_ok=True)
        self.lab = Lab(pictures, self.metrics, folder, kept=kept, say=say)
        if any(p.rgb.shape[0] <= 160 or p.rgb.shape[1] <= 160 for p in pictures):
            self._note("MS-SSIM needs pictures of more than 160 pixels a side; some here are smaller.")

    def table1(self) -> list[table.Cell]:
        return table.table1(self.lab, self.coder, self.filters, self.plan.lambdas)

    def fig2(self) -> list[Curve]:
        """Our curves, the single-layer reference, and the peers."""
        lab, images = self.lab, len(self.lab.pictures)
        qualities = sorted({PRESETS[lam] for lam in self.plan.lambdas} | set(self.plan.qualities))
        means = {q: _means(lab.ours(self.coder, q, self.filters)) for q in qualities}
        names = {role: f.name for role, f in self.filters.items()}
        found = curves.our_curves(self.coder.name, means, names, images)
        if self.single is not None:
            rows = {q: _means(lab.ours(self.single, q, {}))["plain"] for q in SINGLE_QUALITIES}
            found.append(curves.measured_curve(f"{self.single.name} (single layer)", "single", rows, images))
        else:
            whole = is_kodak([p.rgb.shape[:2] for p in lab.pictures])
            found.append(curves.published_curve(whole))
            if not whole:
                self._note(
                    f"The published single-layer curve is of all {KODAK_IMAGES} Kodak images, ours is not: "
                    "it stands in fig2.csv and is not drawn."
                )
        for name, (peer, made_by) in self.peers.items():
            rows = {q: mean(r) for q, r in lab.peer(name, peer, version=made_by).items()}
            found.append(curves.measured_curve(curves.PEER_TITLES.get(name, name), name, rows, images))
        return found

    def fig3(self) -> list[Example]:
        """The first pictures at one λ, through the deepest filter there is."""
        role = TWO if TWO in self.filters else ONE
        if role not in self.filters:
            self._note("Fig. 3 is left out: it needs a post-filter, and both are `none`.")
            return []
        lam, name = self.plan.example_lambda, self.filters[role].name
        examples = []
        for picture in self.lab.pictures[: self.plan.examples]:
            shown = self.lab.shown(picture, self.coder, PRESETS[lam], {role: self.filters[role]})
            examples.append(Example(picture.name, name, lam, picture.rgb, shown["plain"], shown[role]))
        return examples

    def facts(self) -> dict[str, str]:
        """How it was measured, for a reader who wants to do it again."""
        sizes = sorted({(p.rgb.shape[1], p.rgb.shape[0]) for p in self.lab.pictures})
        spread = ", ".join(f"{w}×{h}" for w, h in sizes[:6]) + (", …" if len(sizes) > 6 else "")
        lpips = self.metrics.lpips
        facts = {
            "codec": f"{self.coder.name}, model hash {self.coder.codec.model_hash.hex()}",
            "base layer": f"quality {self.coder.base_quality}",
            "λ and quality": ", ".join(f"{lam:.3f}: {PRESETS[lam]}" for lam in sorted(self.plan.lambdas)),
        }
        for role, f in self.filters.items():
            facts[f"post-filter, {role[0]} = {role[1]}"] = f.identity.replace(":", ", model hash ", 1)
        if self.single is not None:
            facts["single layer"] = f"{self.single.name}, model hash {self.single.codec.model_hash.hex()}"
        return facts | {
            "images": f"{len(self.lab.pictures)} of {self.plan.images} ({spread})",
            "rate": "bytes of whole .slk layers, or of a peer's whole file, times 8 over pixels; mean over images",
            "PSNR": "over RGB of 8 bits, mean of the images' PSNR in dB",
            "SSIM, MS-SSIM": f"pytorch_msssim {importlib.metadata.version('pytorch-msssim')}, over RGB",
            "LPIPS": f"version 0.1, AlexNet, weights {lpips.source} ({lpips.digest})"
            if lpips
            else "not measured",
            "peers": "; ".join(f"{name}: {made_by}" for name, (_, made_by) in self.peers.items()) or "none",
            "threads": str(self.plan.threads),
            "software": f"secondlook {__version__}, Python {platform.python_version()}, {platform.machine()}",
        }

    def _open_peers(self) -> None:
        for name in self.plan.peers:
            if name in PACKAGES:
                package = PACKAGES[name]
                self.peers[name] = PEERS[name], f"{package} {importlib.metadata.version(package)}"
                continue
            if name != "vvc":
                found = find_peer(name, {})
                self.peers[name] = found.peer, found.made_by
                continue
            tools = find_tools(self.plan.vvenc, self.plan.vvdec)
            if isinstance(tools, str):
                self._note(tools)
            else:
                self.peers[name] = vvc_peer(*tools, threads=self.plan.threads), version(tools[0])

    def _coder(self, model: str | Path, base_quality: int) -> Coder:
        folder = find_model(model, kind="codec")
        # `lite` is measured on the CPU that it is made for; the paper family needs what torch finds.
        device = "cpu" if folder.manifest.get("family", "lite") == "lite" else "auto"
        codec = load_codec(folder.path, threads=self.plan.threads, device=device)
        return Coder(folder.name, codec, base_quality)

    def _single(self) -> Coder | None:
        """The single-layer reference: the folder given, else one inside the codec's folder."""
        inside = find_model(self.plan.codec, kind="codec").path / SINGLE
        folder = self.plan.single or (inside if inside.is_dir() else None)
        return None if folder is None else self._coder(folder, self.plan.base_quality)

    def _note(self, text: str) -> None:
        if text and text not in self.notes:
            self.notes.append(text)


def _means(rows: Mapping[str, Sequence[Row]]) -> dict[str, Row]:
    return {role: mean(of_role) for role, of_role in rows.items()}
