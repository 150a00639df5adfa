"""Where the cells of any network look: their theoretical receptive fields, by probing.

``geometry.chain`` needs a list of layers; ``derive`` needs only the network. It relies on NaN,
which survives convolutions (with zero weights too), pooling, normalisation, activations and
attention: a cell that turns NaN when a part of the input does sees that part.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from distcorr.errors import DistcorrError
from distcorr.types import Geometry

Features = Callable[[Tensor], Tensor]  # (B, channels, S, S) float32 -> (B, C, h, h)

# In training mode they mix images or roll dice, and NaN would spoil their running statistics.
_RANDOM_OR_LEARNING = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
_PIXELS = 8 * 224 * 224  # in one batch of probes
_GIVE_ONE = "build the Geometry by hand: input_size, stride, offset, rf, cells"


class _Axis(NamedTuple):
    stride: int
    offset: float
    rf: int


def derive(
    module: Features,
    input_size: int,
    *,
    channels: int = 3,
    probe_size: int | None = None,
    device: str = "cpu",
) -> Geometry:
    """Stride, offset, theoretical receptive field and cells of a network, from the network itself.

    All columns up to x become NaN: a cell's field begins at the smallest x for which the cell does
    too, which bisection finds; from the other side, where it ends. Rows must give the same. Cells
    that the input's border clips are left out, and it is enough that some cells show where fields
    begin and others where they end.

    If the field is too large for that, inputs of about 2 and 3 times the size are probed (larger by
    multiples of 64, so that padding that depends on the size stays the same). If the network
    refuses those, or every cell still sees everything, as attention does, then the cells are taken
    to tile the input: stride ``input_size / cells``, offset ``(stride - 1) / 2``, and ``rf`` equal
    to ``input_size`` says so. That is right for vision transformers; for a convolutional network
    that refuses larger inputs the offset may be wrong by about half a stride.

    Args:
        module: (B, channels, S, S) float32 -> (B, C, h, h), in evaluation mode; any callable.
        input_size: S in px, the size that the geometry is for.
        channels: of the input.
        probe_size: side in px of the input to probe instead of those above.
        device: where the module wants its input.

    Returns:
        All lengths in px of the input. Where channels differ, ``rf`` is that of the widest.

    Raises:
        DistcorrError: the module is in training mode, its result is not a square map or mixes
            images, NaN is lost on the way (``torch.where``, ``fmax``, ``nan_to_num``), or the cells
            have no common whole stride.
    """
    parts = module.modules() if isinstance(module, nn.Module) else ()
    if any(part.training for part in parts if isinstance(part, _RANDOM_OR_LEARNING)):
        raise DistcorrError(
            "derive needs a module in evaluation mode, got one in training mode",
            "call module.eval() first",
        )
    larger = 64 * -(-input_size // 64)
    tried = [input_size, input_size + larger, input_size + 2 * larger]
    # cuDNN's Winograd and FFT kernels would spread NaN over whole tiles.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=False):
        cells = _Probe(module, input_size, channels, device).cells
        for size in [probe_size] if probe_size else tried:
            try:
                probe = _Probe(module, size, channels, device)
            except Exception:  # whatever a network raises for a size that it is not made for
                if probe_size:
                    raise
                break
            across, down = probe.axis(-1), probe.axis(-2)
            if across and down:
                if across != down:
                    raise DistcorrError(
                        f"cells must lie alike on both axes, got {across} along x, {down} along y",
                        _GIVE_ONE,
                    )
                geometry = Geometry(input_size, across.stride, across.offset, across.rf, cells)
                probe.check_blind_outside(geometry)
                return geometry
    return _tiles(input_size, cells)


class _Probe:
    """A network, an input of fixed size, and what turns NaN."""

    def __init__(self, module: Features, size: int, channels: int, device: str) -> None:
        self._module, self._size, self._device = module, size, device
        self._image = self._noise((1, channels, size, size), seed=0)
        both = module(torch.cat([self._image, torch.full_like(self._image, torch.nan)]))
        shape = tuple(both.shape) if isinstance(both, Tensor) else type(both).__name__
        if not isinstance(both, Tensor) or both.ndim != 4 or both.shape[2] != both.shape[3]:
            raise DistcorrError(
                f"a network must give a square map (B, C, h, h), got {shape} for (2, {channels}, "
                f"{size}, {size})",
                "wrap it in a function that picks or reshapes the map",
            )
        if not both[0].isfinite().all():
            raise DistcorrError(
                "images of a batch must not touch each other, and finite images must give finite "
                "features; an image of noise beside one of NaN gave NaN or infinity",
                "is the network in training mode? call .eval() first",
            )
        self.cells = both.shape[3]
        self._seeing = {axis: _touched(both[1:], axis)[0] for axis in (-1, -2)}  # not only padding
        if not all(line[self.cells // 2] for line in self._seeing.values()):
            raise DistcorrError(
                "an input that is NaN throughout must make the middle cell NaN; it stayed finite",
                f"torch.where, fmax and nan_to_num lose NaN: {_GIVE_ONE}",
            )

    def axis(self, axis: int) -> _Axis | None:
        """What the cells along one axis of the input have in common; None if too little is seen."""
        # Neighbours at both ends, where wide fields show an edge, and in between for narrow ones.
        quarters = np.linspace(0, self.cells - 1, 5).astype(int)
        near = (quarters[:, None] + np.arange(-1, 2)).ravel()
        at = np.unique(near[(near >= 0) & (near < self.cells)])
        at = at[self._seeing[axis][at]]
        first = self._edges(axis, at, from_end=False)
        last = self._size - 1 - self._edges(axis, at, from_end=True)
        # A field that starts where the outermost one does may be clipped there by the border.
        whole = first > first.min(), last < last.max()
        begins, ends = (
            _line(at[seen], edge[seen], word)
            for seen, edge, word in zip(whole, (first, last), ("begin", "end"), strict=True)
        )
        strides = {line[0] for line in (begins, ends) if line and line[0]}
        if not begins or not ends or not strides:
            return None
        if len(strides) > 1:
            raise DistcorrError(
                f"cells must have one stride, but fields begin {begins[0]} px apart and end "
                f"{ends[0]} px apart",
                _GIVE_ONE,
            )
        (stride,) = strides
        low, high = (edge - stride * cell for _, cell, edge in (begins, ends))
        return _Axis(stride, (low + high) / 2, high - low + 1)

    def _edges(self, axis: int, at: npt.NDArray[np.intp], from_end: bool) -> npt.NDArray[np.intp]:
        """(len(at),) smallest x for which the cell turns NaN when 0 ... x do, from either end."""
        without, within = np.full(len(at), -1), np.full(len(at), self._size - 1)
        pair = np.arange(len(at)) // 2 == len(at) // 4  # bisected first, the others by their line
        guessed = False
        while (open_ := within - without > 1).any():
            if not (open_ & pair).any() and not guessed:
                line = np.polyfit(at[pair], within[pair], min(1, pair.sum() - 1))
                expected = np.rint(np.polyval(line, at[open_])).astype(int)
                tried, guessed = np.r_[expected - 1, expected], True
            else:
                here = open_ if guessed else open_ & pair
                tried = (within + without)[here] // 2
            tried = np.unique(tried.clip(0, self._size - 2))
            touched = self._touch(axis, tried, from_end)[:, at]
            for x, cells in zip(tried, touched, strict=True):
                within = np.where(cells, np.minimum(within, x), within)
                without = np.where(cells, without, np.maximum(without, x))
        return within

    def _touch(self, axis: int, xs: npt.NDArray[np.intp], from_end: bool) -> npt.NDArray[np.bool_]:
        """(len(xs), cells): which cells turn NaN when the lines 0 ... x do, from either end."""
        found = []
        chunk = max(1, _PIXELS // self._size**2)
        for part in np.split(xs, range(chunk, len(xs), chunk)):
            images = self._image.repeat(len(part), 1, 1, 1)
            for lines, x in zip(images.movedim(axis, 1), part, strict=True):
                lines[self._size - 1 - x if from_end else 0 :][: x + 1] = torch.nan
            found.append(_touched(self._module(images), axis))
        return np.concatenate(found)

    def check_blind_outside(self, geometry: Geometry) -> None:
        """Check with finite numbers that the middle cell does not see beyond its field."""
        cell = self.cells // 2
        start = round(geometry.offset + cell * geometry.stride - (geometry.rf - 1) / 2)
        field = slice(max(start, 0), max(start + geometry.rf, 0))
        other = self._noise(self._image.shape, seed=1)
        other[..., field, field] = self._image[..., field, field]
        before, after = self._module(torch.cat([self._image, other]))
        change = (before - after)[:, cell, cell].abs().max()
        if change > 1e-3 * before.abs().max():
            raise DistcorrError(
                f"a cell must not see beyond its field, found to be {geometry.rf} px; other pixels "
                f"there change it by {float(change):.3g}",
                f"NaN is lost in a part of the network: {_GIVE_ONE}",
            )

    def _noise(self, shape: tuple[int, ...], seed: int) -> Tensor:
        values = np.random.default_rng(seed).standard_normal(shape, np.float32)
        return torch.from_numpy(values).to(self._device)


def _touched(maps: Tensor, axis: int) -> npt.NDArray[np.bool_]:
    """(B, C, h, h) -> (B, h): whether any channel anywhere on that line of cells is NaN."""
    touched: npt.NDArray[np.bool_] = maps.isnan().any(1).any(1 if axis == -1 else 2).cpu().numpy()
    return touched


def _line(
    cells: npt.NDArray[np.intp], edges: npt.NDArray[np.intp], word: str
) -> tuple[int | None, int, int] | None:
    """(stride, a cell, its edge) of edges on a line; stride None of a single one, None of none."""
    if not len(cells):
        return None
    steps = {(f - e) / (d - c) for (c, e), (d, f) in pairwise(zip(cells, edges, strict=True))}
    if len(steps) > 1 or any(step < 1 or step % 1 for step in steps):
        listed = ", ".join(f"{e} (cell {c})" for c, e in zip(cells, edges, strict=True))
        raise DistcorrError(
            f"cells must lie at a common whole stride, but their fields {word} at px {listed}",
            f"an upsampled or resampled map has no such stride; {_GIVE_ONE}",
        )
    return (int(steps.pop()) if steps else None), int(cells[0]), int(edges[0])


def _tiles(input_size: int, cells: int) -> Geometry:
    if input_size % cells:
        raise DistcorrError(
            f"every cell sees the whole input, and {cells} cells do not tile {input_size} px: "
            f"{input_size / cells:.4g} px each",
            _GIVE_ONE,
        )
    stride = input_size // cells
    return Geometry(input_size, stride, (stride - 1) / 2, input_size, cells)
