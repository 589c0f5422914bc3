"""`aoi synth`: read options, call one function, print one report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aoi.terminal.groups import group_with_default
from aoi.terminal.options import (
    PLAIN,
    Device,
    Dtype,
    EngineName,
    GeneratorName,
    Images,
    Json,
    KeyValue,
    Model,
    Out,
    Retries,
    Seed,
    TaskCpus,
    TaskGpus,
    Workers,
)  # fmt: skip
from aoi.terminal.output import emit, note, progress_bars

synth = typer.Typer(help="Invent defects on good images (default verb: generate).", cls=group_with_default("generate"), **PLAIN)  # type: ignore[arg-type]


@synth.command()
def generate(
    images: Images,
    out: Out = Path("synthetic"),
    generator: GeneratorName = "perlin",
    prompt: Annotated[str | None, typer.Option(help="What and where, in English or Chinese: 'a thin scratch at the upper left'.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A table of prompts: CSV, JSON Lines or xlsx (prompt, count, image).")] = None,
    count: Annotated[int, typer.Option(help="Defects to make.")] = 100,
    seed: Seed = 0,
    size: Annotated[int | None, typer.Option(help="Resize images to this square first; default: keep.")] = None,
    where: Annotated[str | None, typer.Option(help="A place on the part, such as 'upper left' or 左上; overrules the prompt.")] = None,
    locate: Annotated[str, typer.Option(help="How a prompt's place is found: auto, geometry, clipseg or grounded.")] = "auto",
    locate_model: Annotated[str | None, typer.Option(help="Network that locates: a folder or hub name.")] = None,
    band: Annotated[float | None, typer.Option(help="Width of a named row or column, as a fraction of the part.")] = None,
    area: Annotated[tuple[float, float], typer.Option(help="Least and greatest defect area, as fractions of the part.")] = (0.003, 0.06),
    severity: Annotated[float | None, typer.Option(help="0 (slight) to 1 (severe); default: the prompt's, or varied.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Folder of real defect masks to take outlines from.")] = None,
    references: Annotated[Path | None, typer.Option(help="graft: folder of real defects with masks, which are copied.")] = None,
    cama: Annotated[bool | None, typer.Option("--cama/--no-cama", help="Move real masks to the same place of the part.")] = None,
    mm_per_pixel: Annotated[float | None, typer.Option(help="Scale, for sizes in millimetres.")] = None,
    opacity: Annotated[tuple[float, float], typer.Option(help="perlin, cutpaste: least and greatest opacity.")] = (0.35, 1.0),
    textures: Annotated[Path | None, typer.Option(help="perlin: folder of texture pictures.")] = None,
    foreground: Annotated[str, typer.Option(help="auto, full, otsu or rembg.")] = "auto",
    blend: Annotated[str, typer.Option(help="perlin, cutpaste, graft: feather, poisson or hard.")] = "feather",
    label: Annotated[str | None, typer.Option(help="Folder name of the defects; default: the prompt's kind, or the generator.")] = None,
    max_tries: Annotated[int, typer.Option(help="Tries of a defect that fails verification.")] = 8,
    features: Annotated[bool, typer.Option("--features", help="Also verify in feature space (LPIPS).")] = False,
    model: Model = None,
    lora: Annotated[list[str] | None, typer.Option(help="diffusion: adapter folder or file, with :WEIGHT; may be repeated.")] = None,
    steps: Annotated[int | None, typer.Option(help="diffusion: denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="diffusion: how closely the words are followed.")] = None,
    strength: Annotated[float | None, typer.Option(help="diffusion: 0 to 1, how much is painted anew; default: by severity.")] = None,
    candidates: Annotated[int | None, typer.Option(help="diffusion: results to choose the strongest from.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="diffusion: images at once.")] = None,
    gpp: Annotated[float | None, typer.Option(help="diffusion: scale of the prompt's perturbation.")] = None,
    mgni: Annotated[str | None, typer.Option(help="diffusion: noise injection: off, posterior or paper.")] = None,
    sag: Annotated[bool | None, typer.Option("--sag/--no-sag", help="diffusion: guidance that rises inside the mask.")] = None,
    dtype: Dtype = None,
    device: Device = "auto",
    option: KeyValue = None,
    workers: Workers = None,
    engine: EngineName = "local",
    task_cpus: TaskCpus = None,
    task_gpus: TaskGpus = None,
    retries: Retries = None,
    json: Json = False,
) -> None:
    """Make defects on good images, with exact masks and a manifest."""
    from aoi.engine.choose import engine_named
    from aoi.synth.generate import generate_dataset
    from aoi.synth.options import GenerateOptions
    from aoi.terminal.values import diffusion_settings

    place = engine_named(engine, workers=workers, cpus=task_cpus, gpus=task_gpus, retries=retries, say=note)
    settings = diffusion_settings(
        generator, option, model=model, loras=lora, steps=steps, guidance=guidance, strength=strength, candidates=candidates,
        batch_size=batch_size, gpp=gpp, mgni=mgni, sag=sag, dtype=dtype, device=device,
    )  # fmt: skip
    options = GenerateOptions(
        generator=generator, count=count, seed=seed, size=size, where=where, area=area, severity=severity, opacity=opacity,
        textures=textures, foreground=foreground, blend=blend, label=label, workers=workers, prompt=prompt, prompts=prompts,  # type: ignore[arg-type]
        masks=mask, cama=cama, mm_per_pixel=mm_per_pixel, locate=locate, locate_model=locate_model, band=band, features=features,  # type: ignore[arg-type]
        max_tries=max_tries, diffusion=settings, references=references,
    )  # fmt: skip
    with progress_bars() as progress:
        report = generate_dataset(images, out, options, engine=place, progress=progress, say=note)
    emit(report, as_json=json)


@synth.command()
def prompts(
    texts: Annotated[list[str], typer.Argument(help="Sentences, in English or Chinese.")],
    json: Json = False,
) -> None:
    """Show how sentences are understood: kind, place, look, severity, and what is sent to the text encoder."""
    from aoi.captions.prompt import explain_prompts

    emit(explain_prompts(texts), as_json=json)


@synth.command()
def train(
    dataset: Annotated[Path, typer.Argument(help="A data set with real defects and their masks.")],
    out: Out = Path("generator"),
    preset: Annotated[str, typer.Option(help="tiny (from scratch), lora or full (from --model).")] = "lora",
    captions: Annotated[Path | None, typer.Option(help="Caption table: xlsx, CSV, JSON Lines, or a folder of texts.")] = None,
    model: Model = None,
    size: Annotated[int | None, typer.Option(help="Side of the training crops, pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes of training instead of steps.")] = None,
    batch: Annotated[int | None, typer.Option(help="Defects a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    gpp: Annotated[float | None, typer.Option(help="Scale of the prompt's perturbation.")] = None,
    mgni: Annotated[float | None, typer.Option(help="Largest amplitude of the injected noise.")] = None,
    seed: Seed = 0,
    option: KeyValue = None,
    json: Json = False,
) -> None:
    """Train or fine-tune a generator on captioned real defects; run again to resume."""
    from aoi.synth.training.train import TrainOptions
    from aoi.synth.training.train import train as train_generator
    from aoi.terminal.values import options_of

    options = options_of(
        TrainOptions, option, preset=preset, captions=captions, model=model, size=size, steps=steps, minutes=minutes, batch=batch, lr=lr,
        gpp=gpp, mgni=mgni, seed=seed,
    )  # fmt: skip
    with progress_bars() as progress:
        report = train_generator(dataset, out, options, progress=progress)
    emit(report, as_json=json)


@synth.command()
def score(
    real: Annotated[Path, typer.Argument(help="Real defects: a data set.")],
    synthetic: Annotated[Path, typer.Argument(help="A folder that `aoi synth generate` wrote.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the page of pictures.")] = None,
    seed: Seed = 0,
    option: KeyValue = None,
    json: Json = False,
) -> None:
    """How real the defects look and how much they vary: KID, FID, IC-LPIPS, consistency, diversity."""
    from aoi.synth.score import ScoreOptions
    from aoi.synth.score import score as score_defects
    from aoi.terminal.values import options_of

    with progress_bars() as progress:
        report = score_defects(real, synthetic, options_of(ScoreOptions, option, out=out, seed=seed), progress=progress)
    emit(report, as_json=json)


@synth.command()
def checks(
    images: Images,
    generator: GeneratorName = "perlin",
    model: Model = None,
    count: Annotated[int, typer.Option(help="Good images to check on.")] = 4,
    sentence: Annotated[list[str] | None, typer.Option(help="A sentence to compare; give two or more.")] = None,
    seed: Seed = 0,
    size: Annotated[int | None, typer.Option(help="Resize images to this square first; default: keep.")] = None,
    foreground: Annotated[str, typer.Option(help="auto, full, otsu or rembg.")] = "auto",
    features: Annotated[bool, typer.Option("--features", help="Measure in feature space (LPIPS).")] = False,
    dtype: Dtype = None,
    device: Device = "auto",
    option: KeyValue = None,
    json: Json = False,
) -> None:
    """Three quick checks: words matter, severity rises, places are kept; exit 4 if one fails."""
    from aoi.synth.checks import SENTENCES, CheckOptions, run_checks
    from aoi.terminal.values import diffusion_settings

    settings = diffusion_settings("diffusion" if model else generator, option, model=model, dtype=dtype, device=device)
    options = CheckOptions(
        generator="diffusion" if model else generator, diffusion=settings, images=count, seed=seed, size=size, foreground=foreground,
        sentences=tuple(sentence or SENTENCES), features=features,
    )  # fmt: skip
    with progress_bars() as progress:
        report = run_checks(images, options, progress=progress)
    emit(report, as_json=json)
    if not report.passed:
        raise typer.Exit(4)
