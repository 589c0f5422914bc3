"""`aoi synth score`: how real invented defects look, how much they vary, and whether they are where they were asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aoi.data.files import write_json
from aoi.data.progress import Progress, silent
from aoi.errors import BackendUnavailable, ConfigError, DataError
from aoi.metrics.distribution import fid, kid, within_clusters
from aoi.metrics.lpips import SCALE, SHIFT, Lpips
from aoi.synth.score_material import Pictures, consistency_of, read_pictures, shared_pictures
from aoi.synth.score_page import write_page
from aoi.synth.score_plain import nearest_plain, plain_features

_BATCH = 32


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """How two sets of defects are compared."""

    out: Path | None = None
    """Folder for `score.json` and `score.html`; None writes neither."""
    size: int = 128
    """Side of the squares around the defects that are compared, pixels."""
    features: str = "auto"
    """Network of KID and FID: `squeezenet` (LPIPS's own), a timm architecture with `weights`, or `plain` statistics of the pictures;
    `auto` takes SqueezeNet where its weights are at hand, else `plain`, and says so."""
    weights: Path | None = None
    """Its weights, safetensors."""
    lpips: Path | None = None
    """Folder with the weights of LPIPS; None searches the folder `AOI_WEIGHTS` names."""
    most: int = 400
    """Pictures of each side that are compared at most, drawn by `seed`."""
    subsets: int = 100
    """Random subsets for KID."""
    subset_size: int = 50
    """Pictures in each; fewer where a side has fewer."""
    pairs: int = 60
    """Pairs measured in one cluster for IC-LPIPS."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, low in (
            ("size", self.size, 32),
            ("most", self.most, 2),
            ("subsets", self.subsets, 1),
            ("subset_size", self.subset_size, 2),
            ("pairs", self.pairs, 1),
        ):
            if value < low:
                raise ConfigError(f"{name} is {value}", hint=f"give at least {low}")


@dataclass(frozen=True, slots=True)
class Score:
    """Figures of one type of defect, or of all."""

    real: int
    synthetic: int
    kid: float | None
    """Times 1000, of features divided by their root mean square over all real pictures; None where a side has fewer than two."""
    kid_std: float | None
    fid: float | None
    ic_lpips: float | None
    """Higher is more varied; None where no two synthetic pictures share their nearest real one."""
    ic_lpips_masked: float | None
    clusters: int
    nearest_lpips: float | None
    """Mean distance of a synthetic picture to its nearest real one: near 0 it was copied; None without LPIPS's weights."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: round(value, 5) if isinstance(value, float) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """What two sets of defects have in common."""

    overall: Score
    by_type: dict[str, Score]
    """Types that both sides have."""
    consistency: dict[str, float]
    """Means of what verification measured, from the manifest."""
    settings: dict[str, Any]
    notes: tuple[str, ...]
    page: Path | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **self.overall.as_dict(),
            "by_type": {name: score.as_dict() for name, score in self.by_type.items()},
            "consistency": self.consistency,
            "settings": self.settings,
            "notes": list(self.notes),
            "page": None if self.page is None else str(self.page),
        }

    def summary(self) -> str:
        """For people."""
        lines = [
            "| defects | real | synthetic | KID x1000 | FID | IC-LPIPS | masked | nearest real |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for name, score in {"all": self.overall, **self.by_type}.items():
            figures = (score.kid, score.fid, score.ic_lpips, score.ic_lpips_masked, score.nearest_lpips)
            lines.append(
                f"| {name} | {score.real} | {score.synthetic} | " + " | ".join("–" if f is None else f"{f:.3g}" for f in figures) + " |"
            )
        if self.consistency:
            lines.append("consistency: " + ", ".join(f"{name} {value:.3g}" for name, value in self.consistency.items()))
        return "\n".join([*lines, *self.notes, *([f"look at {self.page}"] if self.page else [])])


def score(real: Path, synthetic: Path, options: ScoreOptions | None = None, *, progress: Progress = silent) -> ScoreReport:
    """Compare synthetic defects with real ones, on squares around their masks.

    Args:
        real: a data set with defects and masks.
        synthetic: a folder that `aoi synth generate` wrote, or another such data set.
        options: how.
        progress: called with stage `score`.

    Raises:
        DataError: a side has no defects with masks, or both show the same pictures.
        BackendUnavailable: the weights of a network that was asked for are not at hand.
    """
    options = options or ScoreOptions()
    lpips = _lpips(options)
    if options.features == "auto":
        options = replace(options, features="plain" if lpips is None else "squeezenet")
    a, b = (read_pictures(root, options.size, options.most, options.seed) for root in (real, synthetic))
    if shared_pictures(a, b):
        raise DataError(
            f"{len(shared_pictures(a, b))} pictures are in both {real} and {synthetic}", hint="score other images than were copied"
        )
    embed = _embedding(options, lpips)
    features = [embed(each.images) for each in (a, b)]
    near = nearest_plain(*map(plain_features, (a.images, b.images))) if lpips is None else _nearest(a, b, lpips, progress)
    overall = _score(a, b, features, near, np.arange(len(a.images)), np.arange(len(b.images)), lpips, options)
    by_type = {}
    for name in sorted(set(a.types) & set(b.types)):
        chosen = [np.flatnonzero(np.array(each.types) == name) for each in (a, b)]
        by_type[name] = _score(a, b, features, near, chosen[0], chosen[1], lpips, options)
    notes = _notes(a, b, features[0].shape[1], options.features, lpips is not None)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    page = None if options.out is None else options.out / "score.html"
    report = ScoreReport(overall, by_type, consistency_of(synthetic), settings, notes, page)
    if options.out is not None and page is not None:
        write_json(options.out / "score.json", report.as_dict())
        write_page(page, report.as_dict(), a, b, near)
    return report


def _lpips(options: ScoreOptions) -> Lpips | None:
    """LPIPS's networks; None where they are not at hand and nobody asked for them by name."""
    try:
        return Lpips.load(options.lpips)
    except BackendUnavailable:
        if options.lpips is not None or options.features == "squeezenet":
            raise
        return None


def _notes(a: Pictures, b: Pictures, depth: int, network: str, has_lpips: bool) -> tuple[str, ...]:
    notes = []
    if not has_lpips:
        none = "the weights of SqueezeNet and LPIPS are not at hand: no LPIPS figures"
        plain = ", and KID and FID are of plain picture statistics, which compare only with each other" if network == "plain" else ""
        notes.append(f"{none}{plain}; put them into a folder and set AOI_WEIGHTS to it")
    if min(len(a.images), len(b.images)) <= depth:
        notes.append(
            f"FID is biased upwards: fewer pictures than the {depth} features; compare it only between equally large sets, or use KID"
        )
    if missing := sorted(set(b.types) - set(a.types)):
        notes.append(f"the real side has no {', '.join(missing)}: compared overall only")
    return tuple(notes)


Embedding = Callable[[np.ndarray], np.ndarray]
"""N×S×S×3 uint8 to N×D float32."""


def _embedding(options: ScoreOptions, lpips: Lpips | None) -> Embedding:
    import torch

    if options.features == "plain":
        return plain_features
    network: Any
    if options.features == "squeezenet" and lpips is not None:
        network = torch.nn.Sequential(*lpips.stages)
        mean, scale = lpips.shift, lpips.scale
    else:
        network = _timm_network(options)
        mean, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))

    @torch.inference_mode()
    def embed(images: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(images), _BATCH):
            batch = torch.from_numpy(images[start : start + _BATCH]).permute(0, 3, 1, 2).float() / 127.5 - 1
            maps = network((batch - mean) / scale)
            last = maps[-1] if isinstance(maps, list | tuple) else maps
            found.append(last.mean((2, 3)).numpy())
        return np.concatenate(found)

    return embed


def _timm_network(options: ScoreOptions) -> Any:
    """A timm network up to its deepest map whose weights are all in the file: none may be left to chance."""
    if options.weights is None:
        raise BackendUnavailable(f"no weights for {options.features}", hint="add --option weights=FILE.safetensors")
    import timm
    from safetensors.torch import load_file

    try:
        state = load_file(options.weights)
        for depth in range(4, -1, -1):
            network = timm.create_model(options.features, pretrained=False, features_only=True, out_indices=(depth,))
            if not network.load_state_dict(state, strict=False).missing_keys:
                return network.eval()
    except Exception as error:
        raise ConfigError(f"{options.features} cannot be built with {options.weights}: {error}", hint="name a timm architecture") from error
    raise ConfigError(
        f"{options.weights} does not hold the weights of {options.features}", hint="name the architecture they were trained for"
    )


def _nearest(a: Pictures, b: Pictures, lpips: Lpips, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """For each synthetic picture the nearest real one by LPIPS: its number and the distance."""
    total, distances = len(a.images) + len(b.images), np.empty((len(b.images), len(a.images)))
    reals = []
    for start in range(0, len(a.images), _BATCH):
        reals.append(lpips.vectors(a.images[start : start + _BATCH]))
        progress("score", min(start + _BATCH, len(a.images)), total)
    for start in range(0, len(b.images), _BATCH):
        made = lpips.vectors(b.images[start : start + _BATCH])
        squared = [(made**2).sum(1)[:, None] + (real**2).sum(1) - 2 * made @ real.T for real in reals]
        distances[start : start + _BATCH] = np.concatenate(squared, axis=1)
        progress("score", len(a.images) + min(start + _BATCH, len(b.images)), total)
    return distances.argmin(1), np.maximum(distances.min(1), 0)


def _score(
    a: Pictures, b: Pictures, features: list[np.ndarray], near: tuple[np.ndarray, np.ndarray], real: np.ndarray, made: np.ndarray,
    lpips: Lpips | None, options: ScoreOptions,
) -> Score:  # fmt: skip
    few = min(len(real), len(made)) < 2
    scale = float(np.sqrt(np.mean(features[0].astype(np.float64) ** 2))) or 1.0  # the kernel is made for features of about one
    mean, std = (None, None) if few else kid(
        features[0][real] / scale, features[1][made] / scale, subsets=options.subsets, subset_size=options.subset_size, seed=options.seed
    )  # fmt: skip

    found = Score(
        len(real), len(made), None if mean is None else 1000 * mean, None if std is None else 1000 * std,
        None if few else fid(features[0][real], features[1][made]), None, None, 0, None,
    )  # fmt: skip
    if lpips is None:
        return found

    def distance(i: int, j: int) -> float:
        return float(lpips.distance(b.images[made[i]][None], b.images[made[j]][None])[0])

    def masked(i: int, j: int) -> float:
        both = b.masks[made[i]] | b.masks[made[j]]
        return float(lpips.masked(b.images[made[i]][None], b.images[made[j]][None], both[None])[0])

    pairs = {"most_pairs": options.pairs, "seed": options.seed}
    varied, clusters = within_clusters(near[0][made], distance, **pairs)
    varied_inside, _ = within_clusters(near[0][made], masked, **pairs)
    nearest = float(near[1][made].mean())
    return replace(found, ic_lpips=varied, ic_lpips_masked=varied_inside, clusters=clusters, nearest_lpips=nearest)
