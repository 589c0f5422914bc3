"""How many processes of this machine an ablation is spread over."""

from __future__ import annotations

from aoi.bench.anomalib.plan import model_of
from aoi.bench.plan import Plan
from aoi.engine.local import LocalEngine
from aoi.engine.memory import free_memory

MEMORY = 4 * 2**30
"""Bytes of free memory for each process: two detectors' fits, maps of all images and features of a batch at 256 px take about 3 GiB."""
WORTH = 500
"""Fewer defects than this, over all generators and seeds, are worked off sooner than processes start."""


def local_engine(plan: Plan, workers: int | None = None) -> LocalEngine | None:
    """Processes that divide the threads of this one among them; None where this process itself is best.

    Fits and searches are long rows of small steps, which two threads hardly speed up: a process for each core, at work on another seed
    or detector, does. A network that is trained takes all threads, and a GPU is one, so there a single process stays.

    Args:
        workers: how many; None chooses.
    """
    threads = usual_threads()
    count = processes(plan, threads=threads, free=free_memory()) if workers is None else workers
    return LocalEngine(count, max(1, threads // count)) if count > 1 else None


def processes(plan: Plan, *, threads: int, free: int | None) -> int:
    """How many are best.

    Args:
        threads: that one process would use.
        free: bytes of memory they could take; None where nobody knows.
    """
    from aoi.detect.backbones import resolve_device

    if threads == 1 or "segment" in plan.couplings or plan.paints or any(model_of(name) for name in plan.detectors):
        return 1
    if plan.most * len(plan.made_generators) * len(plan.seeds) * len(plan.datasets) < WORTH or resolve_device(plan.device) != "cpu":
        return 1
    portions = len(plan.datasets) * len(plan.seeds) * len(plan.shots or (None,)) * len(plan.detectors)
    return max(1, min(threads, portions, threads if free is None else int(free // MEMORY)))


def usual_threads() -> int:
    """Of the network library in this process."""
    import torch

    return int(torch.get_num_threads())
