"""`aoi bench`: read options, call one function, print one report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aoi.terminal.groups import group_with_default
from aoi.terminal.options import PLAIN, Backbone, EngineName, Json, Out, Retries, TaskCpus, TaskGpus, Weights
from aoi.terminal.output import emit, note, progress_bars

bench = typer.Typer(help="What invented defects do to a detector (default verb: run).", cls=group_with_default("run"), **PLAIN)  # type: ignore[arg-type]

CacheFolder = Annotated[
    Path | None,
    typer.Option("--cache", help="Features and scores for several runs; else AOI_CACHE, else OUT/.bench-cache for this run alone."),
]
CacheSize = Annotated[float, typer.Option(help="What the cache may hold, 10⁹ bytes; the longest unused goes first.", min=0.0)]

Processes = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="local: processes that share work and cores; default: as many as help and fit into memory."),
]


@bench.command("run")
def run_ablation(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PLAN] [DATASET]...", help="A plan (YAML) or a preset: quick, standard, paper; then data sets."),
    ] = None,
    out: Out = Path("ablation"),
    datasets: Annotated[str | None, typer.Option(help="Data set folders; several with spaces or commas between them.")] = None,
    detectors: Annotated[str | None, typer.Option(help="patchcore,padim")] = None,
    generators: Annotated[
        str | None,
        typer.Option(
            help="perlin,cutpaste,displace,shade,mixed,graft,diffusion,real,oracle-mask,folder:PATH (none is always the baseline)"
        ),
    ] = None,
    couplings: Annotated[
        str | None, typer.Option(help="calibrate,head,select,ensemble,ensemble-head,negative,weight,normals,segment,train")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, comma-separated.")] = None,
    count: Annotated[int | None, typer.Option(help="Synthetic defects for each generator and seed.")] = None,
    amounts: Annotated[str | None, typer.Option(help="Several amounts of defects instead of one: 0,10,50,200.")] = None,
    shots: Annotated[str | None, typer.Option(help="How many good training images: all,16,64.")] = None,
    degradation: Annotated[str | None, typer.Option(help="Of the test images: none,noise:10,jpeg:30,blur:1.5.")] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the network's input, pixels.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    engine: EngineName = "local",
    workers: Processes = None,
    task_cpus: TaskCpus = None,
    task_gpus: TaskGpus = None,
    retries: Retries = None,
    cache: CacheFolder = None,
    cache_gb: CacheSize = 8.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and what it would take; takes seconds.")] = False,
    json: Json = False,
) -> None:
    """Measure what invented defects do to AUROC and AUPRO on real test images."""
    from aoi.bench.estimate import estimate
    from aoi.bench.plan import load_plan
    from aoi.bench.run import run_bench
    from aoi.bench.workers import local_engine
    from aoi.engine.choose import engine_named

    place = engine_named(engine, workers=workers, cpus=task_cpus, gpus=task_gpus, retries=retries, say=note)
    config, folders = split_words(words or [], datasets)
    plan = load_plan(
        config, datasets=folders, detectors=detectors, generators=generators, couplings=couplings, seeds=seeds, count=count,
        amounts=amounts, shots=shots, degradation=degradation, backbone=backbone, weights=weights, image_size=image_size, device=device,
    )  # fmt: skip
    with progress_bars() as progress:
        question = estimate if dry_run else run_bench
        answer = question(plan, out, engine=place or local_engine(plan, workers), cache=cache, cache_gb=cache_gb, progress=progress)
    emit(answer, as_json=json)


def split_words(words: list[str], datasets: str | None) -> tuple[str | None, list[str] | None]:
    """The plan and the data sets among the words of a command: `--datasets A B` leaves B among the arguments.

    Args:
        words: arguments; the first is the plan, unless it is a folder.
        datasets: what the option itself got.
    """
    plan = words[0] if words and not Path(words[0]).is_dir() else None
    given = [part.strip() for part in (datasets or "").split(",") if part.strip()] if datasets else []
    folders = [*given, *words[plan is not None :]]
    return plan, folders or None


@bench.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A finished ablation.")],
    formats: Annotated[str, typer.Option("--format", help="html,md,csv,json,tex: any of them, comma-separated.")] = "html,md,csv,json,tex",
    out: Annotated[Path | None, typer.Option(help="Another folder for the files.")] = None,
    json: Json = False,
) -> None:
    """Write the report of a finished ablation: one self-contained HTML file, and tables as text."""
    from aoi.bench.report.writing import write_report

    names = [name.strip() for name in formats.split(",") if name.strip()]
    emit(write_report(folder, names, out=out), as_json=json)


@bench.command("cache")
def cache_report(
    folder: Annotated[Path | None, typer.Argument(help="The cache; by default the folder that AOI_CACHE names.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything that no running command reads.")] = False,
    cache_gb: CacheSize = 8.0,
    json: Json = False,
) -> None:
    """Show what the cache of features and scores holds, or clear it."""
    from aoi.bench.cache.place import named_cache

    emit(named_cache(folder, limit_gb=cache_gb).report(clear=clear), as_json=json)
