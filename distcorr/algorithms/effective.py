"""How much of its receptive field a cell really uses: effective fields, by gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distcorr.errors import DistcorrError
from distcorr.types import Geometry

Features = Callable[[Tensor], Tensor]  # (B, channels, S, S) float32 -> (B, C, h, h)


def effective(
    features: Features,
    geometry: Geometry,
    images: Tensor,
    *,
    projections: int = 4,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """Effective receptive field of the middle cell (Luo et al., NIPS 2016, section 3).

    The energy of a pixel is the squared gradient of the cell's features with respect to it, summed
    over channels and colours and averaged over images. Projecting on random signs gives the sum
    over channels in expectation, for one backward pass instead of C.

    Args:
        features: (B, 3, S, S) -> (B, C, h, h), differentiable in its input; not run under
            ``inference_mode``.
        geometry: of those maps, for inputs of S px. Choose S so large that the middle cell's field
            fits: what sticks out of the input has no energy.
        images: (n, 3, S, S) float32, preprocessed as ``features`` expects.
        projections: random +-1 vectors per image (not in the paper).
        seed: of those.

    Returns:
        (side, side), summing to one, side >= S: the input, extended with zeros until the middle
        cell's centre is its centre.

    Raises:
        DistcorrError: images or maps do not fit the geometry, or there is no gradient.
    """
    size, cells = geometry.input_size, geometry.cells
    if images.ndim != 4 or tuple(images.shape[2:]) != (size, size) or not len(images):
        raise DistcorrError(
            f"images must be (n, 3, {size}, {size}) as the geometry says, got {tuple(images.shape)}"
        )
    cell = int(geometry.nearest(np.full(2, (size - 1) / 2))[0])
    rng = np.random.default_rng(seed)
    energy = np.zeros((size, size))
    for image in images:
        x = image[None].detach().clone().requires_grad_()
        with torch.enable_grad():
            y = features(x)
            if y.ndim != 4 or tuple(y.shape[2:]) != (cells, cells):
                raise DistcorrError(
                    f"maps must be (B, C, {cells}, {cells}) as the geometry says, got "
                    f"{tuple(y.shape)}"
                )
            column = y[0, :, cell, cell]
        for number in range(projections):
            signs = torch.from_numpy(rng.integers(0, 2, len(column)) * 2 - 1).to(column)
            again = number + 1 < projections
            (gradient,) = torch.autograd.grad(column @ signs, x, retain_graph=again)
            energy += gradient[0].double().square().sum(0).cpu().numpy()
    if not (np.isfinite(energy).all() and energy.sum() > 0):
        raise DistcorrError("the middle cell's features have no finite gradient that is not zero")
    centre = geometry.offset + geometry.stride * cell
    reach = max(centre, size - 1 - centre)
    before, after = round(reach - centre), round(reach - (size - 1 - centre))
    return np.pad(energy / energy.sum(), (before, after))


def effective_side(energy: npt.NDArray[np.float64], share: float = 0.9) -> int:
    """Side in px of the smallest centred square that holds ``share`` of the energy.

    Args:
        energy: (side, side), as ``effective`` returns it.
        share: in (0, 1]; 0.9 is not in the paper.
    """
    half = (len(energy) - 1) / 2
    away = np.abs(np.arange(len(energy)) - half)
    ring = np.maximum.outer(away, away)
    radii = np.unique(ring)
    inside = np.cumsum([energy[ring == radius].sum() for radius in radii])
    enough = np.searchsorted(inside, share * inside[-1] * (1 - 1e-12))
    return int(2 * radii[enough] + 1)


def pink_noise(count: int, size: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Images with the spectrum of natural ones, amplitude 1 / frequency (Field, 1987).

    The same seed gives the same images, and the first ones are the same whatever ``count`` is.

    Returns:
        (count, size, size, 3) uint8 RGB: mostly grey, as photographs are.
    """
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(size), np.fft.fftfreq(size)))
    frequency[0, 0] = np.inf  # no mean
    images = np.empty((count, size, size, 3), np.uint8)
    for number in range(count):
        white = np.random.default_rng([seed, number]).standard_normal((4, size, size))
        pink = np.fft.irfft2(np.fft.rfft2(white) / frequency, (size, size))
        pink /= pink.std(axis=(1, 2), keepdims=True)
        colour = 127.5 + 45 * pink[0] + 15 * pink[1:]  # 2.7 standard deviations fit
        images[number] = np.clip(np.rint(colour), 0, 255).transpose(1, 2, 0)
    return images
