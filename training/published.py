"""Published figures of learned codecs on the 24 Kodak images: mean bits per pixel and mean PSNR.

From CompressAI's results/image/kodak (compressai-*_mse_cpu.json): models trained for MSE, real bitstreams.
"""

from __future__ import annotations

from secondlook.training.rate_distortion import Point

KODAK_IMAGES = 24
KODAK_SIZES = {(512, 768), (768, 512)}

KODAK_CURVES = {
    "mbt2018-mean": (
        Point(0.1239, 27.699),
        Point(0.1980, 29.359),
        Point(0.3072, 31.129),
        Point(0.4606, 32.951),
        Point(0.6617, 34.968),
        Point(0.9144, 36.911),
        Point(1.2342, 38.838),
        Point(1.6191, 40.633),
    ),
    "cheng2020-anchor": (
        Point(0.1196, 28.582),
        Point(0.1838, 29.968),
        Point(0.2710, 31.343),
        Point(0.4174, 33.390),
        Point(0.5945, 35.118),
        Point(0.8057, 36.704),
    ),
}


def is_kodak(sizes: list[tuple[int, int]]) -> bool:
    """Whether (height, width) of the images are those of the whole Kodak set, which the curves are of."""
    return len(sizes) == KODAK_IMAGES and set(sizes) == KODAK_SIZES
