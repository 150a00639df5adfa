"""Features at every pixel around a keypoint: what Figure 4 is drawn from.

The figure needs the column that a layer gives for a keypoint when the photograph is shifted by
(dy, dx) in a window about it. Instead of a forward pass per shift, each stride of the network
becomes a dilation of the layers after it: one pass without strides gives every pixel's column.

A photograph of H x W px has cells of a layer only where its windows fit. Their outermost possible
centres, over all shifts, are the layer's border here, and it pads there with zeros as its network
does. So the value is that of ``Backbone.columns`` at every cell of the photograph, near the border
too; elsewhere it is what the photograph gives when its left and top are cropped to bring a cell
there, save that the few pixels so lost are still seen. Pixels beyond the tap's outermost centres
(CaffeNet's conv3 to conv5: 17 px from the left and the top, 5 from the right and the bottom, as its
pooling rounds up) have no cell in any shift; there a kernel sees more padding.
Where all receptive fields lie in the photograph (``inside``), none of this matters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from distcorr.algorithms import nets
from distcorr.algorithms.extractors import Backbone
from distcorr.algorithms.flow import unit_norm
from distcorr.algorithms.sift import Sift
from distcorr.algorithms.sources import Source
from distcorr.errors import DistcorrError
from distcorr.types import BoolArray, FloatArray

Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.int64]

_LARGEST = 128  # px a side that one pass answers for at most, so that memory is bounded
_SHIFTS = 8  # shifted photographs that go through an extractor at a time


def responses(
    source: Source, image: Image, xy: npt.ArrayLike, tap: str, radius: int = 10
) -> FloatArray:
    """Features at every pixel of the square about each keypoint (paper, section 4, Figure 4).

    A layer of a network is evaluated at whole pixels about the pixel nearest to the keypoint, ties
    to the lower; SIFT at the exact points ``xy + (dx, dy)``. A source of one input size only
    (extractors, EfficientNet-Lite0) is given the photograph shifted by as little as brings a cell's
    centre there, the edge's pixels repeated: at most about ``stride**2`` passes in all. Where its
    centres lie between pixels, the one above and to the left answers for a pixel.

    Args:
        source: a network, SIFT or an extractor.
        image: (H, W, 3) uint8 RGB, of any size if ``source.any_size``.
        xy: (n, 2) px; may lie outside the image.
        tap: a layer with cells.
        radius: of the square in px (10: the paper's 21 x 21).

    Returns:
        (n, 2 * radius + 1, 2 * radius + 1, C) float32; [:, radius + dy, radius + dx] is the
        feature at (dx, dy) from the keypoint. 0.7 MB per keypoint for conv4.

    Raises:
        DistcorrError: the image is not uint8 RGB or not of the size that the source needs, a point
            is not finite, the radius is negative, or the tap is not available or has no cells.
    """
    points, side = _checked(image, xy, radius), 2 * radius + 1
    found = np.empty((len(points), side, side, source.channels(tap)), np.float32)
    for at, values in _windows(source, image, points, tap, radius):
        found[at] = values
    return found


def scores(
    source: Source,
    image: Image,
    xy: npt.ArrayLike,
    tap: str,
    weights: npt.ArrayLike,
    bias: npt.ArrayLike,
    radius: int = 10,
    *,
    unit: bool = False,
) -> FloatArray:
    """Scores of K linear classifiers, ``responses @ weights.T + bias``, without keeping those.

    Args:
        source, image, xy, tap, radius: as for ``responses``.
        weights: (K, C).
        bias: (K,).
        unit: scale every response to unit norm first, as the classifiers' samples were.

    Returns:
        (n, 2 * radius + 1, 2 * radius + 1, K) float32; NaN where a response is not finite.

    Raises:
        DistcorrError: as ``responses``, or the classifiers have another shape.
    """
    points, side = _checked(image, xy, radius), 2 * radius + 1
    matrix, constant = np.asarray(weights, np.float32), np.asarray(bias, np.float32)
    channels = source.channels(tap)
    if matrix.shape != (len(constant) if constant.ndim == 1 else -1, channels):
        raise DistcorrError(
            f"weights must be (K, {channels}) and bias (K,) for {tap}, "
            f"got {matrix.shape} and {constant.shape}"
        )
    found = np.empty((len(points), side, side, len(matrix)), np.float32)
    for at, values in _windows(source, image, points, tap, radius):
        finite = np.isfinite(values).all(axis=-1, keepdims=True)
        values = np.where(finite, values, 0)
        values = unit_norm(values) if unit else values
        found[at] = np.where(finite, values @ matrix.T + constant, np.nan)
    return found


def inside(
    source: Source, image: Image, xy: npt.ArrayLike, tap: str, radius: int = 10
) -> BoolArray:
    """(n,) whether all receptive fields of a keypoint's square lie in the photograph.

    Arguments and errors as of ``responses``. SIFT's counts as the square of its 4 x 4 bins.
    """
    pixels = _nearest(_checked(image, xy, radius))
    reach = radius + source.geometry(tap).rf // 2
    size = np.array(image.shape[1::-1])
    fits = (pixels >= reach) & (pixels + reach < size)
    return fits[:, 0] & fits[:, 1]


# -- windows of features ---------------------------------------------------------------------


def _checked(image: Image, xy: npt.ArrayLike, radius: int) -> Points:
    image, points = np.asarray(image), np.asarray(xy, np.float64)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DistcorrError(f"image must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise DistcorrError(
            f"xy must be (n, 2) and finite, got {points.shape}", "leave absent keypoints out"
        )
    if radius < 0:
        raise DistcorrError(f"radius must be at least 0 px, got {radius}")
    return points


def _nearest(points: Points) -> Pixels:
    return np.ceil(points - 0.5).astype(np.int64)  # ties to the lower index, as for cells


def _windows(
    source: Source, image: Image, points: Points, tap: str, radius: int
) -> Iterator[tuple[Any, FloatArray]]:
    """Pairs of an index into the (n, side, side, C) features, and the features that belong there.

    Every place is met once. What is yielded at a time is bounded.
    """
    if isinstance(source, Sift):
        return _exact(source, image, points, tap, radius)
    network = _network(source)
    if network is None:
        return _shifted(source, image, _nearest(points), tap, radius)
    net, prepare = network
    stride_free = _StrideFree(net, tap, source.geometry(tap).rf)
    with torch.inference_mode():
        prepared = prepare(image[None])
    return _shared_passes(stride_free, prepared, _nearest(points), radius)


def _network(source: Source) -> tuple[nets.Network, Any] | None:
    """The list of layers that a source runs, and what prepares its input; None if it has none."""
    net = source._net if isinstance(source, Backbone) else None
    if not isinstance(source, Backbone) or not isinstance(net, nets.Network):
        return None
    return net, source._prepare


def _exact(
    source: Sift, image: Image, points: Points, tap: str, radius: int
) -> Iterator[tuple[Any, FloatArray]]:
    offsets = np.arange(-radius, radius + 1)
    lattice = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)
    for number, point in enumerate(points):
        found = source.columns(image, point + lattice, (tap,))[tap]
        yield number, found.reshape(len(offsets), len(offsets), -1)


def _shared_passes(
    network: _StrideFree, prepared: Tensor, pixels: Pixels, radius: int
) -> Iterator[tuple[Any, FloatArray]]:
    side, reach = 2 * radius + 1, network.rf // 2
    size = (prepared.shape[3], prepared.shape[2])
    for members in _groups(pixels, side, network):
        low, high = pixels[members].min(axis=0) - radius, pixels[members].max(axis=0) + radius
        with torch.inference_mode():
            part = _cut(prepared, low - reach, high + reach)
            found = network(part, low - reach, size)[0].permute(1, 2, 0).float()
        maps = found.cpu().numpy()
        for number, (x, y) in zip(members, pixels[members] - radius - low, strict=True):
            yield number, maps[y : y + side, x : x + side]


class _Step(NamedTuple):
    layer: nets.Layer
    module: Any
    dilation: int
    reach: int  # px by which the kernel reaches to either side
    first: int  # px from the photograph's first pixel to the first centre that a cell can have
    last: int  # px back from its last pixel to the last one


class _StrideFree:
    """The layers up to a tap, at every pixel: what were strides dilates all that follows.

    Attributes:
        rf: side of the receptive field in px, odd; a map is smaller than its input by rf - 1.
    """

    def __init__(self, net: nets.Network, tap: str, rf: int) -> None:
        self.rf = rf
        self._steps: list[_Step] = []
        dilation, first, last = 1, 0, 0
        for layer in net.layers:
            reached = layer.name == tap
            if isinstance(layer, nets.Pool) and layer.side and not reached:
                continue
            kernel = 3 if isinstance(layer, nets.Fire) else getattr(layer, "kernel", 1)
            reach = kernel // 2 * dilation
            match layer:
                case nets.Conv():
                    first += reach - layer.pad * dilation
                    last += reach - layer.pad * dilation
                case nets.Pool():  # Caffe's last window may reach beyond the cells
                    first += reach
                    last += (kernel - layer.stride) * dilation - reach
            module = net.body[layer.name]
            self._steps.append(_Step(layer, module, dilation, reach, first, last))
            dilation *= layer.stride if isinstance(layer, nets.Conv | nets.Pool) else 1
            if reached:
                break

    def cost(self, width: int, height: int) -> int:
        """Multiplications for a map of so many pixels."""
        total, margin = 0, self.rf - 1
        for step in self._steps:
            margin -= 2 * step.reach
            each = sum(array.numel() for array in step.module.parameters())
            total += each * (width + margin) * (height + margin)
        return total

    def __call__(self, x: Tensor, start: Pixels, size: tuple[int, int]) -> Tensor:
        """Features from a part of the photograph and of the mean colour around it.

        Args:
            x: (1, 3, h + rf - 1, w + rf - 1), prepared.
            start: xy of its first pixel in the photograph.
            size: width and height of the photograph.

        Returns:
            (1, C, h, w).
        """
        for step in self._steps:
            layer, module, dilation = step[:3]
            start = start + step.reach
            match layer:
                case nets.Conv():
                    x = _convolved(module, x, dilation)
                case nets.Pool(_, kernel):
                    x = functional.max_pool2d(x, kernel, 1, dilation=dilation)
                case nets.Fire():
                    squeezed = _padded(module.conv1x1_1(x), start - step.reach, size, step)
                    centre = squeezed[:, :, dilation:-dilation, dilation:-dilation]
                    wide = _convolved(module.conv3x3_2, squeezed, dilation)
                    x = torch.cat([module.conv1x1_2(centre), wide], dim=1)
                case _:
                    x = module(x)
            if step is not self._steps[-1]:
                x = _padded(x, start, size, step)
        return x


def _padded(x: Tensor, start: Pixels, size: tuple[int, int], step: _Step) -> Tensor:
    """Zeros, in place, where no cell can be. After a ReLU no maximum sees them either."""
    for axis, begin, pixels in zip((3, 2), start.tolist(), size, strict=True):
        length = x.shape[axis]
        before = min(max(step.first - begin, 0), length)
        after = min(max(begin + length - (pixels - step.last), 0), length)
        x.narrow(axis, 0, before).zero_()
        x.narrow(axis, length - after, after).zero_()
    return x


def _convolved(module: nn.Conv2d, x: Tensor, dilation: int) -> Tensor:
    return functional.relu_(
        functional.conv2d(x, module.weight, module.bias, dilation=dilation, groups=module.groups)
    )


def _groups(pixels: Pixels, side: int, network: _StrideFree) -> list[list[int]]:
    """Keypoints that share a pass: each joins the group that it makes least dearer, or is alone."""
    groups: list[tuple[list[int], Pixels, Pixels]] = []  # members, lowest and highest pixel
    alone = network.cost(side, side)
    for number, pixel in enumerate(pixels):
        least, best = alone, -1
        for index, (_, low, high) in enumerate(groups):
            before = high - low + side
            after = np.maximum(high, pixel) - np.minimum(low, pixel) + side
            if max(after) > max(_LARGEST, side):
                continue
            more = network.cost(*after.tolist()) - network.cost(*before.tolist())
            if more < least:
                least, best = more, index
        if best < 0:
            groups.append(([number], pixel, pixel))
        else:
            members, low, high = groups[best]
            groups[best] = ([*members, number], np.minimum(low, pixel), np.maximum(high, pixel))
    return [members for members, _, _ in groups]


def _cut(x: Tensor, low: Pixels, high: Pixels) -> Tensor:
    """Pixels ``low`` to ``high``, both xy and included, of (1, C, H, W); zeros outside of it."""
    (x0, y0), (x1, y1) = low.tolist(), (high + 1).tolist()
    out = x.new_zeros((1, x.shape[1], y1 - y0, x1 - x0))
    out = out.to(memory_format=torch.channels_last)
    top, left = max(y0, 0), max(x0, 0)
    bottom, right = min(y1, x.shape[2]), min(x1, x.shape[3])
    if top < bottom and left < right:
        part = x[:, :, top:bottom, left:right]
        out[:, :, top - y0 : bottom - y0, left - x0 : right - x0] = part
    return out


def _shifted(
    source: Source, image: Image, pixels: Pixels, tap: str, radius: int
) -> Iterator[tuple[Any, FloatArray]]:
    height, width = image.shape[:2]
    wanted = pixels[:, :, None] + np.arange(-radius, radius + 1)  # (n, xy, side)
    column, right = _cell_and_shift(source, tap, width, wanted[:, 0])
    row, down = _cell_and_shift(source, tap, height, wanted[:, 1])
    full = (len(pixels), wanted.shape[2], wanted.shape[2])
    each = np.stack(
        [np.broadcast_to(down[:, :, None], full), np.broadcast_to(right[:, None], full)]
    )
    shifts, which = np.unique(each.reshape(2, -1), axis=1, return_inverse=True)
    members = np.split(np.argsort(which, kind="stable"), np.bincount(which).cumsum()[:-1])
    for start in range(0, shifts.shape[1], _SHIFTS):
        part = shifts[:, start : start + _SHIFTS].T
        moved = [_moved(image, dy, dx) for dy, dx in part.tolist()]
        maps = source(np.stack(moved), (tap,))[tap]
        for found, flat in zip(maps, members[start : start + _SHIFTS], strict=True):
            number, y, x = np.unravel_index(flat, full)
            yield (number, y, x), found[row[number, y], column[number, x]]


def _cell_and_shift(source: Source, tap: str, size: int, wanted: Pixels) -> tuple[Any, Pixels]:
    """Along one axis: the nearest cell, and by how much it must move for its centre to be there."""
    geometry = source.geometry(tap, size)
    cell = geometry.cell(wanted)
    return cell, _nearest(wanted - geometry.centres()[cell])


def _moved(image: Image, down: int, right: int) -> Image:
    rows = np.clip(np.arange(image.shape[0]) + down, 0, image.shape[0] - 1)
    columns = np.clip(np.arange(image.shape[1]) + right, 0, image.shape[1] - 1)
    return image[rows[:, None], columns]
