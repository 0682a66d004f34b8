"""Sizes of the paper family: as published, and small enough for tests and a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

SIDE_STEP = 128  # pixels; a picture's sides are padded to multiples of this
LATENT_STEP = 16  # pixels a latent position stands for, a side
HYPER_STEP = 64  # pixels a hyper-latent position stands for, a side
MAX_HYPER = 256  # hyper-latent channels: each has a table of the entropy coder


@dataclass(frozen=True)
class TcmConfig:
    """Sizes of one LIC-TCM. The defaults are those of the machine model."""

    width: int = 128  # channels of each of the two branches
    blocks: int = 2  # parallel blocks a stage
    latents: int = 320  # channels that are coded
    fused: int = 320  # channels that synthesis takes; more than `latents` where another layer's join them
    slices: int = 5  # groups of latents, each coded knowing those before it
    hyper: int = 192  # channels of the hyper-latents
    heads: tuple[int, int, int] = (8, 16, 32)  # channels of an attention head: first, middle, last stage
    window: int = 8  # side of an attention window, positions
    hyper_heads: int = 32  # channels of a head, hyper transforms
    hyper_window: int = 4  # positions
    context: tuple[int, int] = (224, 128)  # hidden channels of the slice networks
    attention: int = 128  # channels inside SWAtten
    attention_heads: int = 16  # channels of a head in SWAtten

    @property
    def slice_width(self) -> int:
        """Channels of one slice."""
        return self.latents // self.slices

    def __post_init__(self) -> None:
        ok = (
            self.latents % self.slices == 0
            and self.fused >= self.latents
            and self.hyper <= MAX_HYPER
            and len(self.heads) == 3
            and all(self.width % head == 0 for head in (*self.heads, self.hyper_heads))
            and self.attention % self.attention_heads == 0
            # A padded picture has 128 pixels a side at least: 8 latent and 4 hyper positions.
            and 8 % self.window == 0
            and 4 % self.hyper_window == 0
        )
        if not ok:
            raise ValueError(f"these sizes do not fit together: {self}")


MACHINE = TcmConfig()
ADDITIONAL = replace(MACHINE, latents=256, slices=4)

REDUCED_MACHINE = TcmConfig(
    width=12,
    latents=30,
    fused=30,
    slices=3,
    hyper=12,
    heads=(6, 6, 6),
    hyper_heads=6,
    context=(24, 16),
    attention=12,
    attention_heads=6,
)
REDUCED_ADDITIONAL = replace(REDUCED_MACHINE, latents=20, slices=2)

SIZES = {"full": (MACHINE, ADDITIONAL), "reduced": (REDUCED_MACHINE, REDUCED_ADDITIONAL)}
