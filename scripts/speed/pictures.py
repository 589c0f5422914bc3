"""The sides of the cases that look at pictures: whole prediction, and the first verdict of a new process.

Nothing imports torch until a side needs it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from speed.process import Unavailable

Stages = Iterator[dict[str, Any] | None]


def predict(side: str, values: dict[str, Any], device: str) -> Stages:
    """All images of a folder, from files on disk to verdicts; seconds exclude loading the model."""
    folder, count = Path(values["folder"]), values["count"]
    with tempfile.TemporaryDirectory(prefix="aoi-speed-") as place:
        if side.startswith("aoi"):
            look = _aoi(side, values, device, Path(place))
        elif side == "anomalib":
            look = _anomalib(values, device, Path(place))
        else:
            look = _torch(values, device, Path(place))
        look(sorted(folder.iterdir())[0])
        yield None
        yield None
        found = look(folder)
        yield {**found, "images": count}


def _aoi(side: str, values: dict[str, Any], device: str, place: Path) -> Callable[[Path], dict[str, Any]]:
    """`aoi detect run`, files to JSON and masks on disk; by name `aoi [embedded] [openvino|onnx [bf16]]`."""
    from aoi.detect.inspection import inspect
    from aoi.detect.inspectors import processes_for
    from aoi.errors import AoiError

    runtime, run = _model(side, values)
    more: dict[str, Any] = {} if runtime == "torch" else {"runtime": runtime, "arithmetic": "bf16" if "bf16" in side.split() else "fp32"}
    number = iter(range(10**6))

    def look(source: Path) -> dict[str, Any]:
        try:
            report = inspect(str(source), run, place / str(next(number)), overlays=False, device=device, **more)
        except (AoiError, ImportError, TypeError, ValueError) as error:
            raise Unavailable(f"{type(error).__name__}: {getattr(error, 'message', error)}") from error
        processes = 0 if runtime == "torch" else processes_for(run, report.num_images)
        held = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 * processes if processes > 1 else 0.0
        return {"seconds": report.num_images / report.images_per_s, "elsewhere_mb": held, "check": lambda: {"rejected": report.num_ng}}

    return look


def _model(side: str, values: dict[str, Any]) -> tuple[str, Path]:
    """The runtime that a side's name says, and the run folder or export for it."""
    words = side.split()
    runtime = next((word for word in words if word in ("openvino", "onnx")), "torch")
    return runtime, _there(values, ("embedded " if "embedded" in words else "") + ("run" if runtime == "torch" else runtime))


def _there(values: dict[str, Any], name: str) -> Path:
    if name not in values:
        raise Unavailable(values.get(f"no {name}", f"there is no {name}"))
    return Path(values[name])


def _anomalib(values: dict[str, Any], device: str, place: Path) -> Callable[[Path], dict[str, Any]]:
    """`Engine.predict` with aoi's backbone weights and memory bank in anomalib's model; nothing is written to disk."""
    from anomalib.data import PredictDataset
    from anomalib.engine import Engine
    from anomalib.models import Patchcore
    from safetensors.torch import load_file
    from torch.utils.data import DataLoader

    run = _there(values, "run")
    if "weights" not in values:
        raise Unavailable("it has no embedded backbone: give --weights")
    size = (values["size"], values["size"])
    model = Patchcore(
        backbone="resnet18", layers=("layer2", "layer3"), pre_trained=False, visualizer=False, evaluator=False,
        pre_processor=Patchcore.configure_pre_processor(image_size=size),
    )  # fmt: skip
    inner = model.model.feature_extractor.feature_extractor
    missing = inner.load_state_dict(load_file(values["weights"]), strict=False).missing_keys
    if [key for key in missing if not key.endswith("num_batches_tracked")]:
        raise Unavailable(f"the weights do not fit its backbone: {missing[0]} is missing")
    model.model.memory_bank = load_file(run / "weights" / "model.safetensors")["memory_bank"]
    accelerator = "gpu" if device.startswith("cuda") else "cpu"
    engine = Engine(default_root_dir=place, accelerator=accelerator, devices=1, logger=False, enable_progress_bar=False)

    def look(source: Path) -> dict[str, Any]:
        data = PredictDataset(path=source, image_size=size)
        engine.predict(model=model, dataloaders=DataLoader(data, batch_size=8, collate_fn=data.collate_fn))
        return {}

    return look


def _torch(values: dict[str, Any], device: str, place: Path) -> Callable[[Path], dict[str, Any]]:
    """The same detector in the plainest torch: decode, resize, network, distances to the whole bank, map, score, one JSON file."""
    import numpy as np
    import torch
    from PIL import Image
    from torch.nn import functional

    from aoi.detect.run_folder import RunFolder, load_detector

    detector, backbone = load_detector(RunFolder(_there(values, "run")), device=device)
    bank = torch.from_numpy(detector.state()["memory_bank"]).to(device)
    size = values["size"]

    def scores(pixels: np.ndarray) -> list[float]:
        maps = backbone(pixels)
        pooled = [functional.avg_pool2d(maps[name], 3, 1, 1) for name in backbone.layers]
        grid = pooled[0].shape[-2:]
        whole = torch.cat([pooled[0], *(functional.interpolate(each, grid, mode="bilinear") for each in pooled[1:])], 1)
        distance = torch.cdist(whole.permute(0, 2, 3, 1).flatten(0, 2), bank).amin(1).view(len(pixels), 1, *grid)
        smooth = functional.interpolate(distance, (size, size), mode="bilinear")
        reach = torch.arange(-16, 17, device=device)
        weights = torch.exp(-(reach**2) / 32.0)
        weights /= weights.sum()
        smooth = functional.conv2d(functional.pad(smooth, (16, 16, 0, 0), mode="reflect"), weights.view(1, 1, 1, -1))
        smooth = functional.conv2d(functional.pad(smooth, (0, 0, 16, 16), mode="reflect"), weights.view(1, 1, -1, 1))
        return [float(each) for each in smooth.amax((1, 2, 3))]

    def look(source: Path) -> dict[str, Any]:
        paths = sorted(source.iterdir()) if source.is_dir() else [source]
        rows: list[dict[str, Any]] = []
        with torch.inference_mode():
            for start in range(0, len(paths), 8):
                part = paths[start : start + 8]
                pictures = [np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)) for path in part]
                rows += [{"image": path.name, "score": score} for path, score in zip(part, scores(np.stack(pictures)), strict=True)]
        (place / "scores.json").write_text(json.dumps(rows), encoding="utf-8")
        return {}

    return look


def first(side: str, values: dict[str, Any], device: str) -> Stages:
    """From the start of a process to the verdict on one image: `aoi detect run IMAGE`, with which runtime the side's name says."""
    runtime, run = _model(side, values)
    image = sorted(Path(values["folder"]).iterdir())[0]
    with tempfile.TemporaryDirectory(prefix="aoi-speed-") as place:
        words = ["detect", "run", str(image), "--run", str(run), "--out", place, "--no-overlays", "--json", "--device", device]
        command = [sys.executable, "-m", "aoi.cli", *words, *([] if runtime == "torch" else ["--runtime", runtime])]
        yield None
        yield None
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        if done.returncode != 0:
            raise Unavailable((done.stderr.strip().splitlines() or ["it failed and said nothing"])[0])
        held = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        yield {"seconds": seconds, "memory_mb": held, "check": lambda: {"rejected": json.loads(done.stdout)["num_ng"]}}
