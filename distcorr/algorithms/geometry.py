"""Where the cells of a layer look: receptive fields from a list of layers (paper, Table 1)."""

from __future__ import annotations

from collections.abc import Iterable

from distcorr.errors import DistcorrError
from distcorr.types import Geometry

# (kernel, stride, pad) in px of the layer's own input; a fourth True rounds the number of cells
# up, as Caffe's pooling does, where convolutions round down.
Step = tuple[int, int, int] | tuple[int, int, int, bool]


def chain(layers: Iterable[Step], input_size: int) -> Geometry:
    """Geometry of the last of ``layers`` applied one after the other (paper, Table 1).

    The receptive field is the theoretical one; near the border it reaches beyond the input, into
    the padding. A layer that pads unevenly ("SAME") is given by its leading pad and rounds up.

    Args:
        layers: (kernel, stride, pad[, ceil]) of each layer, first to last.
        input_size: side of the square input in px.

    Returns:
        stride, offset and receptive field in px of the input; cells per side.

    Raises:
        DistcorrError: a kernel or stride below 1, a negative pad, or an input so small that a
            layer has no cell.
    """
    cells, jump, offset, rf = input_size, 1, 0.0, 1
    for number, (kernel, stride, pad, *rest) in enumerate(layers, 1):
        if kernel < 1 or stride < 1 or pad < 0:
            raise DistcorrError(
                "A layer needs kernel >= 1, stride >= 1 and pad >= 0, "
                f"got kernel {kernel}, stride {stride}, pad {pad} in layer {number}"
            )
        cells = _cells(cells, kernel, stride, pad, bool(rest and rest[0]))
        if cells < 1:
            raise DistcorrError(
                f"An input of {input_size} px is too small: layer {number} would have no cell",
                "give a larger input",
            )
        offset += ((kernel - 1) / 2 - pad) * jump
        rf += (kernel - 1) * jump
        jump *= stride
    return Geometry(input_size, jump, offset, rf, cells)


def _cells(size: int, kernel: int, stride: int, pad: int, ceil: bool) -> int:
    room = size + 2 * pad - kernel
    if not ceil:
        return room // stride + 1
    # Caffe: the last pooling window must start inside the image or the padding before it.
    return min(-(-room // stride) + 1, -(-(size + pad) // stride))
