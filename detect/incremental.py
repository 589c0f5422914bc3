"""Feature maps of an image that equals a known one but for a box: only what the change can reach is computed.

A cell of a map sees a part of the image. Cells that see nothing of the change are those of the known image, and where maps between the
image and the deepest one are known as well, each stage is computed from what is known around the change. Of ResNet-18 at 256 pixels and
a change of 30 that leaves 40 % of the products; an invented defect on a good image is such a change.

Every number comes from the same products, summed in the same order, as in the whole: equal to the bit where the library behind torch
sums parts as it sums wholes, which is tried before anything is computed in this way.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from aoi.detect.boxes import Box, Window
from aoi.detect.fused import ADDITIONS, CUTS, FusedConvolution, is_plain_convolution

WORTH_IT = 0.65
"""Share of the products of the whole above which the whole is computed, many images at once."""
_PARTS = 16
"""Lengths that a part of a map may have in each direction: every new shape of a part costs the library behind torch a millisecond, once."""


_Part = tuple[Box, torch.Tensor]
"""Where a part of a step's result lies, and the part, 1×C×h×w."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of a network."""

    reads: tuple[int, ...]
    """Steps whose results it reads; the first through `window`, the others cell by cell."""
    window: Window
    run: Callable[..., torch.Tensor]
    """On parts that are cut out, nothing being added at the edges."""
    beyond: float
    """What lies beyond the edges of the map that it reads."""
    weight: int
    """Products for each cell."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What has to be computed for one change."""

    sizes: tuple[tuple[int, int], ...]
    """Rows and columns of every step's whole result."""
    computed: tuple[Box | None, ...]
    """What is computed of each step's result; None where nothing reads it."""


class IncrementalNetwork:
    """A network step by step.

    Args:
        steps: in order; the first is the image.
        outputs: names of maps and the steps that make them.
    """

    def __init__(self, steps: Sequence[Step], outputs: Mapping[str, int]) -> None:
        self.steps, self.outputs = tuple(steps), dict(outputs)

    def extent(self, size: tuple[int, int], changed: Box, wanted: Sequence[str], known: Sequence[str]) -> Extent:
        """What to compute for the maps `wanted` of an image of `size` that changed in a box.

        Args:
            size: rows and columns.
            changed: not empty.
            wanted: names of maps.
            known: names of those that are known of the image before the change.
        """
        sizes, dirty = [size], [changed]
        for step in self.steps[1:]:
            sizes.append(step.window.size(sizes[step.reads[0]]))
            reached = step.window.reached(dirty[step.reads[0]], sizes[-1])
            for other in step.reads[1:]:
                reached = reached.joined(dirty[other])
            dirty.append(reached)
        given = {self.outputs[name] for name in known}
        needed: list[Box | None] = [None] * len(dirty)
        for name in wanted:
            needed[self.outputs[name]] = dirty[self.outputs[name]]
        computed: list[Box | None] = [None] * len(dirty)
        for number, step in reversed(list(enumerate(self.steps))[1:]):
            box = needed[number]
            if box is None:
                continue
            computed[number] = part = _grown(dirty[number] if number in given else box, sizes[number])
            for place, source in enumerate(step.reads):
                read = (step.window.read(part) if place == 0 else part).within(sizes[source])
                needed[source] = read.joined(needed[source])
        return Extent(tuple(sizes), tuple(computed))

    def share(self, extent: Extent) -> float:
        """Products for an extent, in units of those for the whole network up to the last map that is computed."""
        pairs = [
            (step.weight * part.area, step.weight * size[0] * size[1])
            for step, part, size in zip(self.steps, extent.computed, extent.sizes, strict=True)
            if part is not None
        ]
        return sum(part for part, _ in pairs) / max(1, sum(whole for _, whole in pairs))

    def __call__(
        self, image: torch.Tensor, extent: Extent, wanted: Sequence[str], known: Mapping[str, np.ndarray]
    ) -> dict[str, tuple[Box, torch.Tensor]]:
        """What changes in the maps `wanted`.

        Args:
            image: 1×3×H×W float32, normalised.
            extent: for these `wanted` and the names of `known`.
            known: C×h×w float32 maps of the image before the change.

        Returns:
            Where each map changes, and to what: C×h×w float32.
        """
        given = {self.outputs[name]: maps for name, maps in known.items()}
        parts: dict[int, _Part] = {0: (Box(0, 0, *extent.sizes[0]), image)}
        for number, step in enumerate(self.steps):
            part = extent.computed[number]
            if part is None:
                continue
            read = step.window.read(part)
            first = _cut(parts, given, step.reads[0], read, extent.sizes[step.reads[0]], step.beyond)
            others = [_cut(parts, given, other, part, extent.sizes[other], 0.0) for other in step.reads[1:]]
            parts[number] = part, step.run(first, *others)
        found = {}
        for name in wanted:
            box, result = parts[self.outputs[name]]
            found[name] = box, result[0]
        return found


def _cut(
    parts: Mapping[int, tuple[Box, torch.Tensor]],
    given: Mapping[int, np.ndarray],
    number: int,
    box: Box,
    size: tuple[int, int],
    beyond: float,
) -> torch.Tensor:
    """A part of a step's result, 1×C×h×w channels last: what was computed over what is known, and `beyond` outside the map."""
    have, result = parts[number]
    inside = box.within(size)
    if have.joined(inside) == have and inside == box:
        return result[(..., *box.seen_from(have))].contiguous(memory_format=torch.channels_last)
    channels = result.shape[1]
    found = torch.empty((1, channels, box.y1 - box.y0, box.x1 - box.x0), dtype=result.dtype, memory_format=torch.channels_last)
    if inside != box:
        found.fill_(beyond)
    if have.joined(inside) != have:
        old = given[number][(slice(None), *inside.slices)]
        found[(0, slice(None), *inside.seen_from(box))] = torch.from_numpy(old)
    over = Box(max(have.y0, inside.y0), max(have.x0, inside.x0), min(have.y1, inside.y1), min(have.x1, inside.x1))
    if not over.is_empty:
        found[(..., *over.seen_from(box))] = result[(..., *over.seen_from(have))]
    return found


def incremental(graph: fx.GraphModule, names: Sequence[str]) -> IncrementalNetwork | None:
    """A network's steps, as `aoi.detect.fused.fused` leaves them; None where one of them is not known to read a window.

    Args:
        graph: n×3×H×W float32 to a list of maps.
        names: of these maps, in order.
    """
    modules, numbers, steps = dict(graph.named_modules()), dict[fx.Node, int](), list[Step]()
    for node in graph.graph.nodes:
        if node.op == "output":
            return IncrementalNetwork(steps, {name: numbers[made] for name, made in zip(names, node.args[0], strict=True)})
        reads = tuple(numbers[each] for each in node.args if isinstance(each, fx.Node))
        step = Step((), _CELL, _same, 0.0, 0) if node.op == "placeholder" else _step(node, modules, reads)
        if step is None or len(reads) < len(node.args) - (node.op == "placeholder") or node.kwargs:
            return None
        numbers[node] = len(steps)
        steps.append(step)
    return None


def proven(graph: fx.GraphModule, names: Sequence[str], side: int) -> IncrementalNetwork | None:
    """The same, if what it computes of three changes of a noisy image equals the whole to the bit on this machine.

    Args:
        side: of the image, pixels.
    """
    if graph not in _proven:
        _proven[graph] = None
        with contextlib.suppress(RuntimeError):  # of a library that lacks something, or does it in another way
            network = incremental(graph, names)
            if network is not None and all(_is_exact(network, graph, names, side, number) for number in range(3)):
                _proven[graph] = network
    return _proven[graph]


_proven: MutableMapping[fx.GraphModule, IncrementalNetwork | None] = WeakKeyDictionary()
"""What this process has tried, as long as it uses the network."""


def _is_exact(network: IncrementalNetwork, graph: fx.GraphModule, names: Sequence[str], side: int, number: int) -> bool:
    rng = np.random.default_rng(number)
    before = torch.from_numpy(rng.standard_normal((1, side, side, 3), np.float32)).permute(0, 3, 1, 2)
    after, length = before.clone(memory_format=torch.channels_last), side // 8
    y, x = ((0, 0), tuple(int(each) for each in rng.integers(0, side - length, 2)), (side - length, side // 2))[number]
    after[..., y : y + length, x : x + length] += 1
    with torch.inference_mode():
        known = {name: maps[0].numpy().copy() for name, maps in zip(names, graph(before), strict=True)}
        extent = network.extent((side, side), Box(y, x, y + length, x + length), names, names)
        for name, (box, maps) in network(after, extent, names, known).items():
            known[name][(slice(None), *box.slices)] = maps.numpy()
        return all(np.array_equal(known[name], maps[0].numpy()) for name, maps in zip(names, graph(after), strict=True))


def _step(node: fx.Node, modules: Mapping[str, nn.Module], reads: tuple[int, ...]) -> Step | None:
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, FusedConvolution):
        padding, stride, dilation, _ = module.how
        window = Window(_pair(module.weight.shape[2:]), _pair(stride), _pair(padding), _pair(dilation))
        return Step(reads, window, PackedConvolution(module), 0.0, module.weight.numel())
    if is_plain_convolution(module):
        return Step(reads, _window(module), _convolution(module), 0.0, module.weight.numel())
    if isinstance(module, nn.MaxPool2d) and not module.ceil_mode and not module.return_indices:
        window = _window(module)
        return Step(reads, window, _pooling(window), -math.inf, 0)
    if isinstance(module, nn.ReLU) or node.target in CUTS:
        return Step(reads, _CELL, torch.relu, 0.0, 0)
    return Step(reads, _CELL, torch.add, 0.0, 0) if node.target in ADDITIONS and len(reads) == 2 else None


def _window(module: nn.Conv2d | nn.MaxPool2d) -> Window:
    return Window(_pair(module.kernel_size), _pair(module.stride), _pair(module.padding), _pair(module.dilation))


class PackedConvolution:
    """A fused convolution of single images whose edges are already what it would add; its weights lie as the processor reads them.

    Args:
        like: to be computed.
    """

    def __init__(self, like: FusedConvolution) -> None:
        self._bias, self._how = like.bias, ((0, 0), *like.how[1:])
        padding, stride, dilation, groups = self._how
        size = [1, like.weight.shape[1] * groups, 32, 32]  # any: the order of weights is the same for all, or is put right at each call
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        self._weight = reorder(like.weight.detach(), list(padding), list(stride), list(dilation), groups, size)

    def __call__(self, images: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """max(convolution + `other`, 0)."""
        run = torch.ops.mkldnn._convolution_pointwise
        if other is None:
            return run(images, self._weight, self._bias, *self._how, "relu", [], "")  # type: ignore[no-any-return]
        return run.binary(images, other, self._weight, self._bias, *self._how, "add", 1.0, "relu", [], "")  # type: ignore[no-any-return]


_CELL = Window((1, 1))
"""Of operations on single cells."""


def _same(image: torch.Tensor) -> torch.Tensor:
    return image


def _convolution(like: nn.Conv2d) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda images: functional.conv2d(images, like.weight, like.bias, like.stride, 0, like.dilation, like.groups)


def _pooling(window: Window) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda images: functional.max_pool2d(images, window.kernel, window.stride, 0, window.dilation)


def _pair(values: Any) -> tuple[int, int]:
    """One number for both directions, or one for each."""
    first, second = (values, values) if isinstance(values, int) else values
    return int(first), int(second)


def _grown(box: Box, size: tuple[int, int]) -> Box:
    """The box, longer where its lengths are none of the `_PARTS` that a map of `size` has; what is more than needed is not wrong."""
    if box.is_empty:  # a change that no cell of this step sees, though others do
        box = Box(0, 0, 1, 1)
    (y0, y1), (x0, x1) = _longer(box.y0, box.y1, size[0]), _longer(box.x0, box.x1, size[1])
    return Box(y0, x0, y1, x1)


def _longer(first: int, end: int, most: int) -> tuple[int, int]:
    unit = -(-most // _PARTS)
    length = min(most, -(-(end - first) // unit) * unit)
    first = min(first, most - length)
    return first, first + length
