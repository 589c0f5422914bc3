"""anomalib's models as detectors of an ablation: trained on files, scored raw, measured by our own metrics.

What anomalib does after a model has spoken (thresholds from the test set, scores clamped to 0 and 1) is left out; so are its metrics.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import random
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch.nn import functional

from aoi.bench.anomalib.data import (
    Batches,
    Defects,
    Feeding,
    Material,
    NothingAdded,
    OurDefects,
    Steps,
    good_for_ever,
    good_once,
    on_their_sources,
    unit,
    with_defects,
)
from aoi.bench.anomalib.models import build_model, explained, without_downloads
from aoi.bench.anomalib.plan import LEARNERS, PREFIX, AnomalibPlan
from aoi.data.progress import Progress, silent
from aoi.detect.backbones import Backbone
from aoi.detect.detector import Scores
from aoi.detect.features import FeatureSet, load_batches
from aoi.detect.verdict import BadImage
from aoi.errors import ConfigError, DataError, ModelError

FEEDING: dict[str, Feeding] = {"Draem": "pairs", "Glass": "pairs", "Supersimplenet": "labelled"}
"""How each model that learns from defects takes them."""
SCORED_AT_ONCE = 8


class AnomalibDetector:
    """One of anomalib's image models behind the verbs of a detector; of a feature set it uses the files alone.

    Args:
        model: name of its class.
        options: arguments of its constructor.
        plan: how long it is trained.
        backbone: what it reads features with, where it takes one.
        textures: for its own anomaly generator; None for noise.
        seed: everything random is derived from it; global generators are left alone.
    """

    def __init__(
        self, model: str, options: Mapping[str, Any], plan: AnomalibPlan, *, backbone: Backbone, textures: Path | None, seed: int
    ) -> None:
        self.name, self.seed = PREFIX + model, seed
        self.options: BaseModel = plan
        self._plan = plan
        self._model, self._arguments, self._backbone, self._textures = model, dict(options), backbone, textures
        self._module: Any = None
        self._size = (0, 0)
        self.remembers = False
        """It keeps what it saw of each good image in one pass over them; known once it is fitted."""

    @property
    def batch(self) -> int:
        """Images in a step."""
        return 1 if self._model == "EfficientAd" else self._plan.batch

    def check(self, image_size: tuple[int, int]) -> None:
        """Build it once, so that what cannot be built is refused before any work."""
        module = self._build(image_size)
        with without_downloads(self.name):
            for prepare, arguments in (("prepare_pretrained_model", ()), ("prepare_imagenette_data", (image_size,))):
                if hasattr(module, prepare):
                    getattr(module, prepare)(*arguments)

    def _build(self, image_size: tuple[int, int], *, supervised: bool = False) -> Any:
        # SuperSimpleNet has a setting of its own for images whose masks are known.
        arguments = {**({"supervised": True} if supervised and self._model == "Supersimplenet" else {}), **self._arguments}
        with seeded(self.seed):
            return build_model(self._model, arguments, backbone=self._backbone, image_size=image_size, textures=self._textures)

    def fit(self, features: FeatureSet, *, progress: Progress = silent) -> None:
        """Train on good images, with the model's own anomaly generator where it has one."""
        self._fit(features, None, progress)

    def fit_on_defects(self, features: FeatureSet, defects: Defects, *, progress: Progress = silent) -> None:
        """Train on good images and on our defects in the place of its own.

        Raises:
            ConfigError: the model does not learn from images of defects.
            DataError: there are no defects.
        """
        if self._model not in LEARNERS:
            raise ConfigError(f"{self.name} does not learn from images of defects", hint=f"those that do: {', '.join(LEARNERS)}")
        if not defects.images:
            raise DataError(f"there are no invented defects to train {self.name} on", hint="make more defects, or use fewer folds")
        if FEEDING[self._model] == "pairs":
            found = np.flatnonzero(on_their_sources(defects, features.image_size))
            if not len(found):
                raise DataError(
                    f"{self.name} compares each defect with the good image under it, and none of these lies on a training image",
                    hint="use defects that were drawn on train/good, or anomalib:Supersimplenet, which needs no such pairs",
                )
            defects = Defects(tuple(defects.images[i] for i in found), defects.masks[found], tuple(defects.sources[i] for i in found))
        self._fit(features, defects, progress)

    def _fit(self, features: FeatureSet, defects: Defects | None, progress: Progress) -> None:
        from anomalib.models.components import MemoryBankMixin

        self._size = features.image_size
        module = self._build(self._size, supervised=defects is not None)
        once = self.remembers = isinstance(module, MemoryBankMixin)
        train = self._batches(features.paths, defects, once=once)
        if defects is not None:
            _feed(self._model, module, train)
        still = Batches(good_once(features.paths), self._size, batch=train.batch)
        epochs = 1 if once else self._plan.epochs
        total = epochs * len(train)
        progress(self.name, 0, total)
        steps = Steps(lambda done: progress(self.name, min(done, total), total))
        with seeded(self.seed + 1), without_downloads(self.name), tempfile.TemporaryDirectory() as folder:
            _run(module, Material(train, still), epochs, steps, self._backbone.device, folder, measured=self._model == "EfficientAd")
        train.images.kept.clear()
        self._module = module.eval()

    def _batches(self, good: tuple[Path, ...], defects: Defects | None, *, once: bool) -> Batches:
        plan, rng = self._plan, np.random.default_rng([self.seed, 5])
        if once:
            return Batches(good_once(good), self._size, batch=self.batch)
        if defects is None:
            return Batches(good_for_ever(good, rng), self._size, batch=self.batch, steps=plan.steps)
        feeding = FEEDING[self._model]
        # Glass compares each defect with its source and cannot take a batch without one.
        share = 0.0 if self._model == "Glass" else plan.good_share
        drawn = with_defects(good, defects, share, feeding, rng)
        return Batches(drawn, self._size, batch=self.batch, steps=plan.steps, defects=defects, labelled=feeding == "labelled")

    def score(self, features: FeatureSet, *, progress: Progress = silent) -> Scores:
        """Raw maps and scores.

        Raises:
            ModelError: it was not fitted.
            ConfigError: the model gives no maps.
        """
        if self._module is None:
            raise ModelError(f"{self.name} has not been fitted", hint="fit it on good images first")
        maps, scores = np.empty((len(features), *self._size), np.float32), np.empty(len(features))
        device, done = torch.device(self._backbone.device), 0
        network, transform = self._module.to(device).model.eval(), self._module.pre_processor.transform
        with seeded(self.seed + 2), explained(self.name, "while it scored images"), torch.no_grad():
            for chunk in load_batches(features.paths, self._size, SCORED_AT_ONCE):
                progress(f"{self.name} maps", done, len(features))
                found = network(transform(unit(np.stack([_readable(image) for _, image in chunk])).to(device)))
                where = slice(done, done + len(chunk))
                maps[where] = _maps(self.name, found, self._size)
                scores[where] = maps[where].max((1, 2)) if found.pred_score is None else found.pred_score.double().reshape(-1).cpu().numpy()
                done += len(chunk)
        progress(f"{self.name} maps", done, len(features))
        return Scores(maps, scores)

    def state(self) -> dict[str, np.ndarray]:
        """Every tensor of the model."""
        if self._module is None:
            raise ModelError(f"{self.name} has not been fitted", hint="fit it on good images first")
        return {key: value.detach().cpu().numpy() for key, value in self._module.model.state_dict().items()}

    def restore(self, state: Mapping[str, np.ndarray], image_size: tuple[int, int]) -> None:
        """Take over the tensors of a fitted model."""
        self._size = image_size
        self._module = self._build(image_size).eval()
        self._module.model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})


def _readable(image: np.ndarray | BadImage) -> np.ndarray:
    if isinstance(image, BadImage):
        raise DataError(image.reason, hint="`aoi data check` lists every unreadable file; replace or delete them")
    return image


def _maps(name: str, found: Any, size: tuple[int, int]) -> np.ndarray:
    """N×H×W float32 at `size` of what a model gave."""
    if getattr(found, "anomaly_map", None) is None:
        raise ConfigError(f"{name} gives no anomaly map, so that nothing can be said of where it sees defects", hint="choose another model")
    maps = torch.as_tensor(found.anomaly_map).float()
    maps = maps.reshape(len(maps), 1, *maps.shape[-2:])
    if maps.shape[-2:] != size:
        maps = functional.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=True)
    raw: np.ndarray = maps[:, 0].cpu().numpy()
    return raw


def _feed(model: str, module: Any, batches: Batches) -> None:
    """Put our defects where the model has its anomaly generator."""
    if model == "Draem":
        module.augmenter = OurDefects(batches)
    elif model == "Glass":
        module.model.augmentor = OurDefects(batches)
    else:
        module.model.anomaly_generator = NothingAdded()


def _run(module: Any, material: Material, epochs: int, steps: Steps, device: str, folder: str, *, measured: bool) -> None:
    """Lightning's loop without its files, bars and thresholds."""
    from lightning.pytorch import Trainer

    accelerator, _, index = device.partition(":")
    arguments = {
        **{key: value for key, value in module.trainer_arguments.items() if key in ("gradient_clip_val", "gradient_clip_algorithm")},
        "max_epochs": epochs,
        "accelerator": "gpu" if accelerator == "cuda" else accelerator,
        "devices": [int(index)] if index else 1,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 1.0 if measured else 0,
        "check_val_every_n_epoch": epochs,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "callbacks": [steps],
    }
    try:
        with explained(PREFIX + type(module).__name__, "while it was trained"), _quiet():
            Trainer(**arguments).fit(module, datamodule=material)
    except SystemExit as stopped:  # Lightning's answer to an interruption
        if isinstance(stopped.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stopped
        raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's remarks on a training without logger and workers, and anomalib's bars, are not for users of this package."""
    from tqdm.std import tqdm  # type: ignore[import-untyped]

    names = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric", "anomalib")
    before = {name: logging.getLogger(name).level for name in names}
    drawn: Any = tqdm.__init__
    tqdm.__init__ = functools.partialmethod(drawn, disable=True)
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tqdm.__init__ = drawn
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global generators, which anomalib draws from, begin from `seed` inside the block and are as before after it."""
    python, legacy = random.getstate(), copy.deepcopy(np.random.get_state())  # noqa: NPY002
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
