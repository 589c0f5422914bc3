"""A network as a processor runs it best: normalisations folded into convolutions, and what follows one done while its result is at hand.

A third of a ResNet's time on a processor goes into passes over memory between its convolutions. What a convolution adds and cuts off is
part of the convolution in the library behind torch, where it is asked for. In bfloat16, whose products are several times as fast, those
passes and the conversions between them are most of the time; a folded network has neither.
"""

from __future__ import annotations

import copy
import operator
import threading
from collections.abc import Callable, MutableMapping
from typing import Any, TypeGuard, cast
from weakref import WeakValueDictionary

import torch
from torch import fx, nn
from torch.nn import functional

ADDITIONS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
CUTS: tuple[Any, ...] = (torch.relu, torch.relu_, functional.relu, "relu", "relu_")
"""How networks write down that two maps are added, and that a map is rectified."""
AGREEMENT = 1e-4
"""Largest difference, in units of the largest number in a map, that folding may make by rounding."""
COARSE_AGREEMENT = 0.05
"""The same for bfloat16, whose numbers have 8 bits; a network's maps are off by 1 to 2 %."""
_known: MutableMapping[tuple[str, int, torch.dtype], Any] = WeakValueDictionary()
"""What this process has folded and still uses, by identity, side of the probe and arithmetic."""
_one_at_a_time = threading.Lock()


class FusedConvolution(nn.Module):
    """A convolution that ends with a rectifier, perhaps after something was added.

    Args:
        like: on a processor, in float32; see `_is_plain`.
    """

    def __init__(self, like: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = like.weight, like.bias
        self.how = like.padding, like.stride, like.dilation, like.groups

    def forward(self, images: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """max(convolution + `other`, 0)."""
        run = torch.ops.mkldnn._convolution_pointwise
        if other is None:
            return run(images, self.weight, self.bias, *self.how, "relu", [], "")  # type: ignore[no-any-return]
        return run.binary(images, other, self.weight, self.bias, *self.how, "add", 1.0, "relu", [], "")  # type: ignore[no-any-return]


class FusedNetwork:
    """What `fused` makes of a network when it is first run, once in a process for equal networks: those that never run cost nothing.

    Args:
        network: on a processor, n×3×H×W float32 to a list of maps; frozen.
        identity: networks of one identity compute the same.
        side: of the images on which both are compared, pixels.
    """

    def __init__(self, network: nn.Module, *, identity: str, side: int) -> None:
        self._network, self._identity, self._side = network, identity, side
        self._fast: dict[torch.dtype, Callable[[torch.Tensor], Any]] = {}

    def __call__(self, pixels: torch.Tensor, *, coarse: bool = False) -> Any:
        """The maps of n×3×H×W float32 images; computed in bfloat16, and left so, if `coarse` and the network's steps allow it."""
        return self._made(coarse)(pixels)

    @property
    def graph(self) -> fx.GraphModule | None:
        """The folded network for float32, step by step; None where its steps cannot be told."""
        made = self._made(coarse=False)
        return made if isinstance(made, fx.GraphModule) else None

    def _made(self, coarse: bool) -> Callable[[torch.Tensor], Any]:
        arithmetic = torch.bfloat16 if coarse else torch.float32
        if arithmetic not in self._fast:
            with _one_at_a_time:  # predictors are called by several threads
                key = (self._identity, self._side, arithmetic)
                fast = _known.get(key)
                self._fast[arithmetic] = _known[key] = self._folded(coarse) if fast is None else fast
        return self._fast[arithmetic]

    def _folded(self, coarse: bool) -> Callable[[torch.Tensor], Any]:
        with torch.inference_mode(False):  # weights that are made here are as good as those that were loaded
            probe = torch.randn((1, 3, self._side, self._side), generator=torch.Generator().manual_seed(0))
            exact = fused(self._network, probe)
            return coarsened(exact, self._network, probe) if coarse else exact


class Autocast:
    """A network whose products torch rounds, one by one."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    def __call__(self, pixels: torch.Tensor) -> Any:
        """The maps of n×3×H×W float32 images."""
        with torch.autocast("cpu", torch.bfloat16):
            return self._network(pixels)


class SplitConvolution(nn.Module):
    """A convolution in bfloat16 that reads every number of an image as the sum of two.

    Args:
        like: one group; in float32.
    """

    def __init__(self, like: FusedConvolution | nn.Conv2d) -> None:
        super().__init__()
        self.conv = copy.deepcopy(like).bfloat16()
        weight = torch.cat([self.conv.weight, self.conv.weight], 1).contiguous(memory_format=torch.channels_last)
        self.conv.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """n×3×H×W float32 to n×C×h×w bfloat16."""
        high = images.bfloat16()
        return self.conv(torch.cat([high, (images - high).bfloat16()], 1))  # type: ignore[no-any-return]


def coarsened(folded: Callable[[torch.Tensor], Any], network: nn.Module, probe: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    """What computes a network in bfloat16 from one map to the next; `Autocast` where a step is not as good in bfloat16 as in float32.

    Convolutions sum in float32 either way; a rectifier, a largest value and a sum of two maps lose no more than their result is rounded.
    Images are not rounded: 8 bits of a pixel are no longer 8 bits once it is normalised, and that would be half of the whole error.

    Args:
        folded: what `fused` gave.
        network: what it was made of.
        probe: images on which they are compared, float32.
    """
    if not (isinstance(folded, fx.GraphModule) and _is_simple(folded)):
        return Autocast(network)
    coarse = _coarse(folded)
    try:
        with torch.inference_mode():
            pairs = list(zip(folded(probe), coarse(probe), strict=True))
    except RuntimeError:  # a processor without such products
        return Autocast(network)
    same = all(bool((a - b.float()).abs().max() <= COARSE_AGREEMENT * (1e-30 + a.abs().max())) for a, b in pairs)
    return coarse if same else Autocast(network)


def _coarse(folded: fx.GraphModule) -> fx.GraphModule:
    graph = copy.deepcopy(folded).bfloat16()
    exact = dict(folded.named_modules())
    for node in graph.graph.nodes:
        if node.op == "call_module" and any(each.op == "placeholder" for each in node.all_input_nodes):
            graph.set_submodule(str(node.target), SplitConvolution(cast(FusedConvolution | nn.Conv2d, exact[str(node.target)])))
    return graph


def _is_simple(graph: fx.GraphModule) -> bool:
    """Convolutions, rectifiers, poolings by the largest value and sums are all there is, and nothing but convolutions reads the image."""
    parts = dict(graph.named_modules())
    modules = (FusedConvolution, nn.Conv2d, nn.MaxPool2d, nn.ReLU)
    first = [user for node in graph.graph.nodes if node.op == "placeholder" for user in node.users]
    if not all(user.op == "call_module" and _reads_all(parts[str(user.target)]) for user in first):
        return False
    return all(
        isinstance(parts[str(node.target)], modules)
        if node.op == "call_module"
        else node.op in ("placeholder", "output") or node.target in ADDITIONS + CUTS
        for node in graph.graph.nodes
    )


def fused(network: nn.Module, probe: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    """What computes the same as a frozen network on a processor, up to rounding; itself where its steps cannot be told.

    Args:
        network: n×3×H×W float32 to a list of maps.
        probe: images on which both are compared, so that what is wrongly understood is not used.
    """
    try:
        graph = _fused(network)
        with torch.inference_mode():
            pairs = list(zip(network(probe), graph(probe), strict=True))
    except Exception:  # whatever a network does that cannot be followed: it is run as it is
        return network
    same = all(a.shape == b.shape and bool((a - b).abs().max() <= AGREEMENT * (1e-30 + a.abs().max())) for a, b in pairs)
    return graph if same else network


def _fused(network: nn.Module) -> fx.GraphModule:
    from torch.fx.experimental.optimization import fuse

    module = cast(fx.GraphModule, fuse(fx.symbolic_trace(network)))  # a copy
    parts = dict(module.named_modules())
    for node in list(module.graph.nodes):
        if node.op == "call_module" and isinstance(parts[node.target], nn.Identity):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    for node in list(module.graph.nodes):
        if _is_cut(node, parts):
            _join(module, node, parts)
    module.graph.lint()
    module.recompile()
    return module


def _join(module: fx.GraphModule, cut: fx.Node, parts: dict[str, nn.Module]) -> None:
    """Let the convolution before a rectifier do the rectifying, and the addition between them where there is one."""
    before, others, removed = cut.args[0], list[Any](), [cut]
    if isinstance(before, fx.Node) and _is_sum(before) and len(before.users) == 1:
        conv = next((each for each in before.args if _is_plain(each, parts)), None)
        others = [each for each in before.args if each is not conv]
        removed.append(before)
    else:
        conv = before if _is_plain(before, parts) else None
    if not isinstance(conv, fx.Node):
        return
    name = f"{str(conv.target).replace('.', '_')}_fused"
    module.add_submodule(name, FusedConvolution(parts[str(conv.target)]))  # type: ignore[arg-type]
    with module.graph.inserting_before(cut):
        joined = module.graph.call_module(name, (conv.args[0], *others))
    cut.replace_all_uses_with(joined)
    for node in (*removed, conv):
        module.graph.erase_node(node)


def _is_sum(node: fx.Node) -> bool:
    """Two maps are added, nothing else."""
    return node.target in ADDITIONS and len(node.args) == 2 and not node.kwargs and all(isinstance(each, fx.Node) for each in node.args)


def _is_cut(node: fx.Node, parts: dict[str, nn.Module]) -> bool:
    return isinstance(parts.get(str(node.target)), nn.ReLU) if node.op == "call_module" else node.target in CUTS


def _is_plain(node: Any, parts: dict[str, nn.Module]) -> bool:
    """A convolution whose result nobody else reads, padded with a number of zeros."""
    if not (isinstance(node, fx.Node) and node.op == "call_module" and len(node.users) == 1 and len(node.args) == 1):
        return False
    return is_plain_convolution(parts[str(node.target)])


def is_plain_convolution(module: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    """A convolution and nothing else, padded with a number of zeros."""
    return type(module) is nn.Conv2d and module.padding_mode == "zeros" and isinstance(module.padding, tuple)


def _reads_all(module: nn.Module) -> bool:
    """Whether it is a convolution of one group."""
    groups = module.how[3] if isinstance(module, FusedConvolution) else module.groups if isinstance(module, nn.Conv2d) else 0
    return bool(groups == 1)
