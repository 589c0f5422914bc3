"""`aoi detect`: read options, call one function, print one report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aoi.terminal.groups import group_with_default
from aoi.terminal.options import PLAIN, Backbone, Compile, Device, ExactSearch, ImageSize, Json, Out, Run, Seed, Weights
from aoi.terminal.output import emit, note, progress_bars

detect = typer.Typer(help="Fit detectors and inspect parts (default verb: run).", cls=group_with_default("run"), **PLAIN)  # type: ignore[arg-type]


@detect.command()
def fit(
    dataset: Annotated[Path, typer.Argument(help="A data set, or a folder of good images.")],
    model: Annotated[str, typer.Option(help="patchcore or padim.")] = "patchcore",
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/MODEL/CATEGORY/TIME.")] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    image_size: ImageSize = "256",
    layers: Annotated[str | None, typer.Option(help="Feature layers, comma-separated; default: by stride.")] = None,
    precision: Annotated[str, typer.Option(help="Of the backbone: float32, bfloat16, or auto (bfloat16 where it is faster).")] = "float32",
    compiled: Compile = False,
    coreset_ratio: Annotated[float | None, typer.Option(help="PatchCore: share of patches kept.")] = None,
    dims: Annotated[int | None, typer.Option(help="PaDiM: channels kept.")] = None,
    search: Annotated[str | None, typer.Option(help="PatchCore: exact, or hnsw (approximate, measured; needs aoi[faiss]).")] = None,
    option: Annotated[list[str] | None, typer.Option(help="Any other detector option, KEY=VALUE; may be repeated.")] = None,
    threshold_source: Annotated[str, typer.Option(help="crossval, holdout or train.")] = "crossval",
    defects: Annotated[
        Path | None,
        typer.Option(help="Known defects with masks, invented or real: thresholds between them and held-out good images."),
    ] = None,
    min_area: Annotated[int, typer.Option(help="Smallest region reported, pixels.")] = 0,
    max_area: Annotated[int | None, typer.Option(help="Largest region reported, pixels.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run in the folder.")] = False,
    json: Json = False,
) -> None:
    """Fit a detector on good images and choose thresholds on held-out ones."""
    from aoi.data.layouts import open_dataset
    from aoi.data.sources import require_train_good

    require_train_good(open_dataset(dataset))  # before torch is imported: what is wrong with a folder is said at once
    from aoi.detect.fit import FitOptions, fit_run
    from aoi.terminal.values import detector_options, names_of, one_of, size_of

    source = one_of("--threshold-source", threshold_source, ("crossval", "holdout", "train"))
    options = FitOptions(
        model=model, backbone=backbone, weights=weights, precision=precision, compile=compiled, image_size=size_of(image_size),
        layers=names_of(layers), options=detector_options(option, coreset_ratio=coreset_ratio, dims=dims, search=search), seed=seed,
        device=device, overwrite=overwrite, threshold_source=source, defects=defects, min_area=min_area, max_area=max_area,  # type: ignore[arg-type]
    )  # fmt: skip
    with progress_bars() as progress:
        report = fit_run(dataset, out, options, progress=progress)
    if backbone is None and weights is None:
        note(f"backbone: {report.backbone} ({report.backbone_source}); name another with --backbone or --weights")
    emit(report, as_json=json)


@detect.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run folder; with another runtime than torch, an export folder.")],
    dataset: Annotated[Path | None, typer.Option("--data", help="Another data set of the same part.")] = None,
    streamed: Annotated[
        bool | None,
        typer.Option("--streamed/--exact", help="Count pixels in bins, in memory that does not grow; default where maps exceed 2 GiB."),
    ] = None,
    exact_search: ExactSearch = False,
    runtime: Annotated[str, typer.Option(help="torch; openvino or onnx for an export.")] = "torch",
    arithmetic: Annotated[str, typer.Option(help="openvino: fp32, bf16, or auto (bf16 where the processor has it).")] = "fp32",
    compiled: Compile = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Metrics and thresholds of a fitted run, or of an export of it, on its data set's test images."""
    from aoi.detect.evaluate import evaluate_run
    from aoi.terminal.values import one_of

    backend = one_of("--runtime", runtime, ("torch", "openvino", "onnx"))
    with progress_bars() as progress:
        report = evaluate_run(
            run, dataset=dataset, device=device, streamed=streamed, exact_search=exact_search, compiled=compiled,
            runtime=backend, arithmetic=arithmetic, progress=progress,  # type: ignore[arg-type]
        )  # fmt: skip
    emit(report, as_json=json)


@detect.command("run")
def inspect_images(
    images: Annotated[str, typer.Argument(help="An image, a folder, a glob, or a data set (its test images).")],
    run: Annotated[Path, typer.Option(help="A finished run folder; with another runtime than torch, an export folder.")],
    out: Annotated[Path | None, typer.Option(help="Output folder; default RUN/predictions.")] = None,
    fail_on: Annotated[
        str, typer.Option(help="never, ng (exit 1 if a part is NG, 3 if one could not be read) or error (3 if one could not be read).")
    ] = "never",
    overlays: Annotated[bool, typer.Option(help="Write overlay pictures.")] = True,
    runtime: Annotated[str, typer.Option(help="torch; openvino or onnx for an export, without torch.")] = "torch",
    arithmetic: Annotated[str, typer.Option(help="openvino: fp32, bf16, or auto (bf16 where the processor has it).")] = "fp32",
    exact_search: ExactSearch = False,
    compiled: Compile = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Inspect images: verdicts, masks, overlays and JSON."""
    from aoi.detect.inspection import inspect
    from aoi.terminal.values import one_of

    wanted = one_of("--fail-on", fail_on, ("never", "ng", "error"))
    backend = one_of("--runtime", runtime, ("torch", "openvino", "onnx"))
    with progress_bars() as progress:
        report = inspect(
            images, run, out, overlays=overlays, device=device, runtime=backend, arithmetic=arithmetic,  # type: ignore[arg-type]
            exact_search=exact_search, compiled=compiled, progress=progress,
        )  # fmt: skip
    emit(report, as_json=json)
    if wanted == "ng" and report.num_ng:
        raise typer.Exit(1)
    if wanted != "never" and report.failed:  # a part that was not seen did not pass
        raise typer.Exit(3)


@detect.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders of one data set.")],
    out: Out = Path("comparison"),
    exact_search: ExactSearch = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Put runs side by side: a Markdown table and overlays of good parts and of mild, medium and severe defects."""
    from aoi.detect.compare import compare_runs

    with progress_bars() as progress:
        report = compare_runs(runs, out, device=device, exact_search=exact_search, progress=progress)
    emit(report, as_json=json)


@detect.command()
def export(
    run: Run,
    format_: Annotated[str, typer.Option("--format", help="openvino, onnx or torchscript.")] = "openvino",
    out: Annotated[Path | None, typer.Option(help="Export folder; default RUN/export/FORMAT-PRECISION.")] = None,
    precision: Annotated[str, typer.Option(help="Of the weights: fp32, fp16, or int8 (the backbone computes in 8 bits).")] = "fp32",
    images: Annotated[str | None, typer.Option(help="Real images to compare on; default: test images of the run's data set.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export in the folder.")] = False,
    json: Json = False,
) -> None:
    """Write a run as one network file with its thresholds beside it, and measure how close it is."""
    from aoi.detect.export import export_run

    with progress_bars() as progress:
        report = export_run(run, format_, out, precision=precision, images=images, overwrite=overwrite, progress=progress)
    emit(report, as_json=json)
