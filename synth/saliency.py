"""The part by a saliency network: rembg's models by name, or any U2-Net or BiRefNet in an ONNX file. Nothing is ever downloaded unasked."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from aoi.errors import BackendUnavailable, ModelError
from aoi.synth.repeats import without_repeats

REMBG_MODELS = ("u2net", "u2netp", "birefnet-general")
"""Models that may be named; their weights must be present."""
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_SIDES = {"u2net": 320, "u2netp": 320, "birefnet-general": 1024}
_THRESHOLD = 0.5
_REMEDY = "install it with: pip install 'aoi[rembg]'"


def weights_folders() -> list[Path]:
    """Where weights are looked for: the folder AOI_WEIGHTS, aoi's cache, and rembg's own folders."""
    named = os.environ.get("AOI_WEIGHTS")
    cache = cache_folder()
    home = Path(os.environ.get("U2NET_HOME") or Path.home() / ".u2net")
    return [folder for folder in (Path(named) if named else None, cache / "weights" if cache else None, home) if folder is not None]


def cache_folder() -> Path | None:
    """aoi's cache: AOI_CACHE (`off` or empty switches it off), else `aoi` in XDG_CACHE_HOME or ~/.cache."""
    named = os.environ.get("AOI_CACHE")
    if named is not None:
        return None if named.strip().lower() in ("", "0", "off", "no", "none") else Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "aoi"


def find_weights(name: str) -> Path | None:
    """The ONNX file of a rembg model, if it is present; None if it is not."""
    for folder in weights_folders():
        for path in (folder / f"{name}.onnx", folder / "models" / name / f"{name}.onnx"):
            if path.is_file():
                return path
    return None


def resolve(model: str) -> Path:
    """The weights file of a model named or given as a file.

    Args:
        model: one of `REMBG_MODELS`, or the path of an `.onnx` file.

    Raises:
        ModelError: the file does not exist.
        BackendUnavailable: the named model's weights are not present.
    """
    if model.lower().endswith(".onnx"):
        path = Path(model).expanduser()
        if not path.is_file():
            raise ModelError(f"there is no weights file {path}", hint="give the path of an ONNX file, such as u2netp.onnx")
        return path
    found = find_weights(model)
    if found is None:
        hint = f"put {model}.onnx into the folder AOI_WEIGHTS, or run: rembg d {model}; nothing is downloaded unasked"
        raise BackendUnavailable(f"the weights of the foreground model {model!r} are not present", hint=hint)
    return found


def fetch(name: str) -> Path:
    """Download a model through rembg, which checks its MD5; only ever called where a person asked for it.

    Raises:
        BackendUnavailable: rembg is not installed, or the download failed.
    """
    try:
        from rembg.sessions import sessions_class  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise BackendUnavailable(f"downloading {name!r} needs rembg, which is not installed", hint=_REMEDY) from error
    session = next((each for each in sessions_class if each.name() == name), None)
    if session is None or name not in REMBG_MODELS:
        raise BackendUnavailable(f"rembg has no model {name!r}", hint=f"use one of {', '.join(REMBG_MODELS)}")
    try:
        return Path(session.download_models())
    except Exception as error:  # pooch and requests raise many kinds
        raise BackendUnavailable(f"could not download {name!r}: {error}", hint="check the connection, or copy the file yourself") from error


def saliency(image: np.ndarray, model: str) -> np.ndarray:
    """How much each pixel stands out as the part.

    Args:
        image: HWC uint8 RGB.
        model: see `resolve`.

    Returns:
        HW float32 in [0, 1], stretched so that both occur.

    Raises:
        ModelError, BackendUnavailable: see `resolve`; onnxruntime is missing, or the file is no saliency network.
    """
    path = resolve(model)
    session = _session(path, path.stat().st_mtime_ns)
    entry = session.get_inputs()[0]
    side = entry.shape[-1] if isinstance(entry.shape[-1], int) else _SIDES.get(path.stem, 320)
    pixels = cv2.resize(image, (side, side), interpolation=cv2.INTER_LANCZOS4).astype(np.float32)
    pixels = (pixels / max(float(pixels.max()), 1e-6) - _MEAN) / _STD
    try:
        out = np.asarray(session.run(None, {entry.name: pixels.transpose(2, 0, 1)[None]})[0], np.float32)
    except Exception as error:  # onnxruntime's own exceptions have no common base
        raise ModelError(f"{path} does not run on an image: {error}", hint="give a U2-Net or BiRefNet exported for rembg") from error
    if out.ndim != 4 or out.shape[1] != 1:
        raise ModelError(f"{path} returns {out.shape}, no saliency map", hint="give a U2-Net or BiRefNet exported for rembg")
    found = out[0, 0]
    if found.min() < -0.01 or found.max() > 1.01:  # BiRefNet leaves the sigmoid to the caller
        found = 1 / (1 + np.exp(-np.clip(found, -60, 60)))
    found = (found - found.min()) / max(float(np.ptp(found)), 1e-6)
    return np.asarray(np.clip(cv2.resize(found, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), 0, 1), np.float32)


@functools.lru_cache(maxsize=2)
def _session(path: Path, modified: int) -> Any:
    """One single-threaded session a file: its sums then never depend on how many cores there are."""
    try:
        import onnxruntime  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise BackendUnavailable("foreground models need onnxruntime, which is not installed", hint=_REMEDY) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no common base
        raise ModelError(f"{path} is no readable ONNX network: {error}", hint="fetch the file again") from error


@functools.lru_cache(maxsize=8)
def _digest(path: Path, modified: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def model_identity(model: str) -> str:
    """The SHA-256 of a model's weights: what a cached result depends on.

    Raises:
        ModelError, BackendUnavailable: see `resolve`.
    """
    path = resolve(model)
    stat = path.stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size)


def salient_part(image: np.ndarray, model: str) -> np.ndarray:
    """The main salient pieces of an image, without a repeating background's structures.

    Args:
        image: HWC uint8 RGB.
        model: see `resolve`.

    Returns:
        HW bool; empty if nothing stands out.

    Raises:
        ModelError, BackendUnavailable: see `saliency`.
    """
    candidate = (saliency(image, model) > _THRESHOLD).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(candidate, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    if not areas.any():
        return candidate > 0
    main = (areas >= 0.25 * areas.max())[labels]
    return _without_glints(without_repeats(image, np.asarray(main)))


def _without_glints(part: np.ndarray) -> np.ndarray:
    """`part` with enclosed holes below a fiftieth of its area filled: a network leaves highlights out; a washer's hole is larger."""
    framed = cv2.copyMakeBorder((~part).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(framed, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < 0.02 * part.sum()
    small[[0, labels[0, 0]]] = False
    return np.asarray(part | small[labels][1:-1, 1:-1])
