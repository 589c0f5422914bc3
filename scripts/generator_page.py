"""The page that `scripts/measure_generator.py` writes, from what it measured."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from count_siblings import Siblings

from aoi.data.provenance import git_commit, machine, versions


@dataclass(frozen=True, slots=True)
class Measured:
    """What is told of a trained small generator."""

    options: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    """`vae` and `denoiser`: the last row of each one's journal."""
    parts: dict[str, int]
    """Real defects by what they were used for."""
    siblings: Siblings
    """What was seen of the parts that the held-back ones show."""
    guidance: float
    guidances: tuple[float, ...]
    """Among which it was chosen."""
    probe: dict[str, Any]
    texture: dict[str, Any]
    generate: str
    """The command."""
    made: dict[str, Any]
    """What it reported."""
    checks: str
    checked: dict[str, Any]
    scores: dict[str, dict[str, Any]]
    words: tuple[str, ...]
    note: str
    """A sentence about the training that its files do not hold."""


def page(found: Measured) -> str:
    """Markdown."""
    return "\n".join([*_head(), *_training(found), *_probe(found), *_texture(found), *_pictures(found), *_checks(found), *_scores(found)])


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table."""
    shown = [[f"{cell:.3f}" if isinstance(cell, float) else "–" if cell is None else str(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in shown)]


def _head() -> list[str]:
    return [
        "# The small generator, measured",
        "",
        "Written by `python scripts/measure_generator.py GENERATOR --weights WEIGHTS`, which ran every command named here.",
        f"Written at commit {git_commit()}; {machine().get('cpus', os.cpu_count())} cores, torch {versions().get('torch', '?')}.",
        "Its weights are not part of the project; the first command trains them.",
        "",
    ]


def _training(found: Measured) -> list[str]:
    options, parts, first, second = found.options, found.parts, found.stages["vae"], found.stages["denoiser"]
    rows = [
        ("autoencoder", first["step"], f"{first['seconds'] / 60:.0f}", f"L1 {first['l1']:.4f}, LPIPS {first['lpips']:.3f}"),
        ("denoiser", second["step"], f"{second['seconds'] / 60:.0f}", f"v-MSE {second['loss']:.3f}"),
    ]
    return [
        "## Training",
        "",
        "```",
        "aoi synth train DATA/magnetic_tile/tile --preset tiny --out GENERATOR \\",
        f"    --steps {options['steps']} --option crops={options['crops']} --option vae_steps={options['vae_steps']}",
        "```",
        "",
        *table(("stage", "steps", "minutes", "last loss"), rows),
        "",
        f"Real defects: {parts['train']} to learn from, {parts['validation']} for choices, {parts['held-back']} held back.",
        "The minutes are those of two cores that did other work beside.",
        *([found.note] if found.note else []),
        "",
        *siblings_told(found.siblings),
    ]


def siblings_told(found: Siblings) -> list[str]:
    """What has to be known of held-back defects whose parts were seen in other pictures; nothing where none was."""
    if not found.seen:
        return []
    kinds = ", ".join(f"{count} {word}" for word, count in found.unseen.items()) or "none"
    return [
        f"**Held back is not unseen.** Of the {found.held_back} held-back pictures {found.seen} are other exposures of tiles that were",
        f"learnt from or chosen on; {found.left} ({kinds}) of {found.unseen_parts} tiles show nothing that was. The division went by",
        "outline, and exposures are cropped and annotated anew. What is said below of held-back defects is mostly said of known tiles",
        "under another light, and flatters. `aoi synth train` now divides by physical tile; this generator has not been trained again.",
        "Counted by `python scripts/count_siblings.py GENERATOR`",
        "(`docs/decisions/0025-pictures-of-one-part.md`).",
        "",
    ]


def _probe(found: Measured) -> list[str]:
    said = found.probe
    counts = {**said["counts"], "all": sum(said["counts"].values())}
    rows = [(word, said["real"].get(word), said["painted"][word], said["control"][word], count) for word, count in counts.items()]
    read = next(iter(said["confusion"].values()))
    return [
        "## Is the asked-for word there?",
        "",
        "A linear probe on a frozen SqueezeNet, taught on the real defects that were learnt from, reads real held-back defects, and what",
        "was painted into their masks on good images by the checkpoint, opened by diffusers alone (30 steps, guidance",
        f"{found.guidance:g}, chosen among {', '.join(f'{g:g}' for g in found.guidances)} on the validation share).",
        "*Not painted*: the same masks on the same good images before painting, which is what an outline alone gives away.",
        "",
        *table(("word", "real", "painted", "not painted", "pictures"), rows),
        "",
        "Asked for (rows) and read (columns):",
        "",
        *table(("", *read), [(asked, *answers.values()) for asked, answers in said["confusion"].items()]),
        "",
        "Real above, painted into the same masks below, for each word in the order of the table:",
        "",
        "![real and painted](generator/probe.png)",
        "",
    ]


def _texture(found: Measured) -> list[str]:
    said = found.texture
    return [
        "## Does a flawless surface stay one?",
        "",
        f"The word `clean` painted into {said['pictures']} held-back masks on good images, against the photograph before (medians):",
        f"fine texture inside (deviation of the Laplacian) {said['sharpness']:.2f} times the photograph's, mean grey shifted by",
        f"{said['level']:.1f} of 255, step across the mask's border {said['edge']:.2f} times the photograph's.",
        "",
    ]


def _pictures(found: Measured) -> list[str]:
    made = found.made
    lines = ["## What `aoi synth generate` makes with it", "", "```", found.generate, "```", ""]
    lines += [f"{made['made']} made in {made['seconds']:.0f} s, {made['rejected']} tries rejected: {made['reasons'] or 'none'}.", ""]
    lines += [
        "Real held-back defects above, painted ones below, the first of each, not chosen; then whole images with their label masks.",
        "",
    ]
    for word in found.words:
        lines += [f"**{word}**", "", f"![{word}](generator/{word}.png)", ""]
    return [*lines, "![whole images](generator/whole.png)", ""]


def _checks(found: Measured) -> list[str]:
    lines = ["## The three quick checks", "", "```", found.checks, "```", "", "```json"]
    return [*lines, json.dumps(found.checked, indent=1), "```", ""]


def _scores(found: Measured) -> list[str]:
    names = ("kid", "kid_std", "fid", "ic_lpips", "ic_lpips_masked", "nearest_lpips")
    rows = [(side, said["synthetic"], *(said[name] for name in names)) for side, said in found.scores.items()]
    told = found.scores["diffusion"]["consistency"]
    types = sorted(found.scores["diffusion"]["by_type"])
    by_type = [(word, *(said["by_type"].get(word, {}).get("kid") for said in found.scores.values())) for word in types]
    return [
        "## Scores",
        "",
        "```",
        "aoi synth score HELD_BACK MADE --json",
        "```",
        "",
        "Against the real defects held back; all three generators filled the same outlines. KID times 1000.",
        "",
        *table(("defects", "pictures", "KID", "±", "FID", "IC-LPIPS", "inside the mask", "nearest real"), rows),
        "",
        "Verification of the painted ones, means: " + ", ".join(f"{name} {value:.3g}" for name, value in told.items()) + ".",
        "",
        "KID by type:",
        "",
        *table(("word", *found.scores), by_type),
    ]
