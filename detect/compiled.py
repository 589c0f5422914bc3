"""A backbone's network compiled for batches of one shape (`torch.compile`), with CUDA graphs on a GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

Network = Callable[[torch.Tensor], Sequence[torch.Tensor]]


class CompiledNetwork:
    """What a network computes, compiled at the first call; the network itself where that fails, with one line of warning.

    Batches are split and padded to one length, so that nothing is compiled twice. All calls are made by one thread of its own: CUDA graphs
    belong to the thread that recorded them, while predictors are called by several.

    Args:
        network: N×3×H×W float32 to feature maps, on `device`; frozen.
        batch: images of every call to the network.
        device: where the network is.
    """

    def __init__(self, network: nn.Module, *, batch: int, device: str) -> None:
        self.batch = batch
        self.failure: str | None = None
        """Why it could not be compiled, if it was tried in vain."""
        self._network, self._device = network, torch.device(device)
        self._on_gpu = self._device.type == "cuda"
        self._compiled: Network = torch.compile(network, dynamic=False, mode="reduce-overhead" if self._on_gpu else "default")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compiled")

    def __call__(self, pixels: torch.Tensor, *, coarse: bool) -> list[torch.Tensor]:
        """Feature maps of n×3×H×W normalised float32 images, each n×C×h×w, in bfloat16 if `coarse`; they are the caller's to keep."""
        return self._thread.submit(self._in_pieces, pixels, coarse).result()

    def _in_pieces(self, pixels: torch.Tensor, coarse: bool) -> list[torch.Tensor]:
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=coarse):
            pieces = torch.split(pixels, self.batch)
            found = [[maps[: len(piece)] for maps in self._maps(self._padded(piece))] for piece in pieces]
            return [torch.cat(maps) if len(maps) > 1 else maps[0] for maps in zip(*found, strict=True)]

    def _padded(self, piece: torch.Tensor) -> torch.Tensor:
        """The piece and blank images behind it; always the same strides, since other strides are compiled anew."""
        whole = torch.zeros((self.batch, *piece.shape[1:]), device=piece.device).contiguous(memory_format=torch.channels_last)
        whole[: len(piece)] = piece
        return whole

    def _maps(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        if self.failure is None:
            try:
                if not self._on_gpu:
                    return list(self._compiled(pixels))
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                return [maps.clone() for maps in self._compiled(pixels)]  # the next call writes to the same memory
            except Exception as error:  # compilers and their backends raise types of their own
                self.failure = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
                logging.getLogger(__name__).warning(
                    "the backbone cannot be compiled on this machine (%s); it runs uncompiled, with the same results", self.failure
                )
        return list(self._network(pixels))
