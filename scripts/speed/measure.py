"""One measurement in a process of its own: `python scripts/speed/measure.py CASE SIDE VALUES DEVICE`.

Imports, a warm-up and the making of the input come before the clock. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any


def measured(case: str, side: str, values: dict[str, Any], device: str) -> dict[str, Any]:
    """Seconds, memory in MiB, and what was computed; or why the side cannot take part (`skipped`)."""
    from speed.process import Unavailable, forget_peak, lifetime_peak_mb, peak_mb, resident_mb, trim

    # Runtimes without torch are measured without it.
    stages = getattr(import_module("speed.pictures" if case in ("predict", "first") else "speed.matrices"), case)(side, values, device)
    try:
        next(stages)
        trim()
        before = resident_mb()
        next(stages)
        trim()
        _settle(device)
        exact = forget_peak()
        began = time.perf_counter()
        found = next(stages) or {}
        _finish(device)
        seconds = time.perf_counter() - began
    except Unavailable as error:
        return {"skipped": str(error)}
    memory = {"memory_mb": max(0.0, peak_mb() - before), "memory_exact": exact, "lifetime_peak_mb": lifetime_peak_mb(), **_on_gpu(device)}
    memory["memory_mb"] += found.pop("elsewhere_mb", 0.0)  # in processes it started: all they ever held
    check = found.pop("check", dict)
    result = {"seconds": found.pop("seconds", seconds), **memory, **found, "check": check()}
    stages.close()
    return result


def _settle(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def _on_gpu(device: str) -> dict[str, Any]:
    if not device.startswith("cuda"):
        return {}
    import torch

    return {"gpu_mb": torch.cuda.max_memory_allocated() / 2**20, "gpu": torch.cuda.get_device_name()}


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    warnings.simplefilter("ignore")
    case, side, values, device = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
    print("\n" + json.dumps(measured(case, side, values, device)))


if __name__ == "__main__":
    main()
