"""How fast an export inspects files, from process start and in the long run: what benchmarks call."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aoi.detect.inspection import inspect
from aoi.detect.inspectors import Runtime
from aoi.errors import ModelError


def steady_rates(
    run: Path, source: str | Path, *, runtime: Runtime = "openvino", arithmetic: str = "fp32", overlays: bool = False, repeats: int = 3
) -> list[float]:
    """Images a second, files on disk to masks and JSON on disk, of each repeat; loading the network is not in it.

    Args:
        run: an export folder, or for `torch` a run folder.
        source: anything `inspect` takes; some hundred images make a steady figure.
        overlays: write overlay pictures too.
    """
    rates = []
    for _ in range(repeats):
        out = Path(tempfile.mkdtemp(prefix="aoi-speed-"))
        try:
            rates.append(inspect(source, run, out, overlays=overlays, runtime=runtime, arithmetic=arithmetic).images_per_s)
        finally:
            shutil.rmtree(out, ignore_errors=True)
    return rates


def first_image_seconds(
    export: Path, image: Path, *, runtime: Runtime = "openvino", arithmetic: str = "fp32", repeats: int = 3
) -> list[float]:
    """Seconds of each `aoi detect run` on one image, from the start of the process to its end.

    Raises:
        ModelError: the command failed.
    """
    seconds = []
    for _ in range(repeats):
        out = Path(tempfile.mkdtemp(prefix="aoi-speed-"))
        options = ["--run", export, "--runtime", runtime, "--arithmetic", arithmetic, "--out", out]
        words = ["aoi", "detect", "run", str(image), *map(str, options)]
        code = f"import sys; sys.argv = {words!r}\nfrom aoi.cli import main\nmain()"
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - began)
        shutil.rmtree(out, ignore_errors=True)
        if done.returncode:
            raise ModelError(f"the command failed: {done.stderr.strip()[-300:]}", hint="run it by hand")
    return seconds
