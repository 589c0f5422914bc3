"""The folder of a training: what it was begun with, and which real images it may see."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aoi.data.files import read_json, read_jsonl, write_json, write_jsonl
from aoi.data.provenance import provenance
from aoi.errors import ConfigError
from aoi.synth.training.options import TrainOptions
from aoi.synth.training.split import Split

TRAINING_IMAGES, HELD_BACK, SETTINGS = "training_images.jsonl", "held_back.jsonl", "train.json"
_FREE = {"steps", "minutes", "vae_steps", "vae_minutes", "tokenizer", "device", "save_every", "sample_every"}
"""Options that may change when a training goes on."""


def claim(out: Path, dataset: Path, options: TrainOptions) -> None:
    """Write down what is trained, or see that it is the same as before; budgets may be changed to go on longer.

    Options that did not exist when the training was begun are not compared.

    Raises:
        ConfigError: `out` belongs to another data set or other options.
    """
    settings: dict[str, Any] = {"dataset": str(dataset.resolve()), "options": options.as_dict()}
    path = out / SETTINGS
    if path.is_file():
        before, now = read_json(path), settings["options"]
        changed = [name for name, value in before["options"].items() if name not in _FREE and name in now and now[name] != value]
        if before["dataset"] != settings["dataset"]:
            changed.append("data set")
        if changed:
            raise ConfigError(
                f"{out} holds a training with another {changed[0]}", hint=f"choose another --out, or repeat the settings in {SETTINGS}"
            )
    write_json(path, provenance("synth train", seed=options.seed) | settings)


def write_split(out: Path, split: Split) -> None:
    """List the real images that are learnt from or chosen on, and those held back, with the hashes of their pixels.

    Raises:
        ConfigError: the training in `out` was begun with others: what it has seen would be listed as held back.
    """
    path, rows = out / TRAINING_IMAGES, split.rows()
    if path.is_file() and _seen(read_jsonl(path)) != _seen(rows):
        raise ConfigError(
            f"{out} holds a training that learnt from other images: the data set, its parts or how they are told have changed since",
            hint="choose another --out",
        )
    write_jsonl(path, rows)
    write_jsonl(out / HELD_BACK, split.held_back_rows())


def _seen(rows: Iterable[dict[str, Any]]) -> set[tuple[object, object]]:
    return {(row.get("source_pixels"), row.get("part")) for row in rows}


def counts(split: Split) -> dict[str, int]:
    """Real images of each part."""
    return {"train": len(split.train), "validation": len(split.validation), "held_back": len(split.held_back)}


def open_captions(path: Path | None) -> Any | None:
    """The caption table at `path`, or None without one."""
    if path is None:
        return None
    from aoi.captions.table import read_captions

    return read_captions(path)
