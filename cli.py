"""The commands of `aoi`: read options, call one function, print one report; the only place that turns errors into exit codes."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from aoi.errors import AoiError, ConfigError, DataError, ModelError
from aoi.terminal.bench import bench
from aoi.terminal.detect import detect
from aoi.terminal.groups import group_with_default
from aoi.terminal.options import PLAIN, Json, Out, Seed, Workers
from aoi.terminal.output import complain, emit, note, progress_bars
from aoi.terminal.synth import synth

app = typer.Typer(help="Invented defects, anomaly detection and leak-free ablation for automated optical inspection.", **PLAIN)  # type: ignore[arg-type]
data = typer.Typer(help="Data sets: draw a sample, check for problems, convert.", **PLAIN)  # type: ignore[arg-type]
models = typer.Typer(help="Inpainting checkpoints: which are known, and how to get them.", cls=group_with_default("list"), **PLAIN)  # type: ignore[arg-type]
for name, group in (("synth", synth), ("detect", detect), ("bench", bench), ("data", data), ("models", models)):
    app.add_typer(group, name=name)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for errors.")] = False,
) -> None:
    """Shared options."""
    if version:
        from aoi import __version__

        print(__version__)
        raise typer.Exit


@data.command()
def sample(
    out: Out = Path("sample"),
    train: Annotated[int, typer.Option(help="Good training images.")] = 200,
    good: Annotated[int, typer.Option(help="Good test images.")] = 60,
    per_defect: Annotated[int, typer.Option(help="Test images of each defect type.")] = 20,
    size: Annotated[int, typer.Option(help="Side of the images, pixels.")] = 256,
    seed: Seed = 0,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Draw a data set of machined parts with exact defect masks, in MVTec AD's layout."""
    from aoi.data.procedural.dataset import write_sample_dataset

    with progress_bars() as progress:
        report = write_sample_dataset(
            out, train_good=train, test_good=good, per_defect=per_defect, size=size, seed=seed, workers=workers, progress=progress
        )
    emit(report, as_json=json)


@data.command()
def check(
    dataset: Annotated[Path, typer.Argument(help="A data set folder.")],
    preview: Annotated[Path | None, typer.Option(help="Also draw a contact sheet to this PNG.")] = None,
    json: Json = False,
) -> None:
    """List every problem of a data set at once; exit 3 if one is fatal."""
    from aoi.data.check import check_dataset
    from aoi.data.layouts import open_dataset
    from aoi.data.preview import contact_sheet

    with progress_bars() as progress:
        report = check_dataset(dataset, progress=progress)
        if preview is not None:
            contact_sheet(open_dataset(dataset), preview, progress=progress)
    emit(report, as_json=json)
    if report.fatal:
        raise typer.Exit(3)


@data.command()
def convert(
    dataset: Annotated[Path, typer.Argument(help="A data set folder, real or made by `aoi synth generate`.")],
    to: Annotated[str, typer.Option("--to", help="mvtec, coco or yolo.")],
    out: Out = Path("converted"),
    json: Json = False,
) -> None:
    """Write a data set in another layout: MVTec AD, COCO with RLE, or YOLO segmentation."""
    from aoi.data.convert import convert as convert_dataset
    from aoi.terminal.values import one_of

    layout = one_of("--to", to, ("mvtec", "coco", "yolo"))
    with progress_bars() as progress:
        report = convert_dataset(dataset, out, layout, progress=progress)  # type: ignore[arg-type]
    emit(report, as_json=json)


@models.command("list")
def list_models(json: Json = False) -> None:
    """Known inpainting checkpoints: licence, size, where they are."""
    from aoi.synth.diffusion.catalogue import models as known_models

    emit(known_models(), as_json=json)


@models.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A name of `aoi models list`.")],
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="You have read its licence and accept it.")] = False,
    json: Json = False,
) -> None:
    """Download one checkpoint into the local cache."""
    from aoi.synth.diffusion.catalogue import fetch as fetch_model

    with progress_bars() as progress:
        report = fetch_model(name, accept_licence=accept_licence, progress=progress)
    emit(report, as_json=json)


@app.command()
def demo(out: Out = Path("demo"), seed: Seed = 0, json: Json = False) -> None:
    """The whole story on drawn parts: sample, synth, fit, detect, bench; about two minutes on two cores."""
    from aoi.bench.demo import run_demo

    with progress_bars() as progress:
        report = run_demo(out, seed=seed, say=note, progress=progress)
    emit(report, as_json=json)


@app.command()
def doctor(json: Json = False) -> None:
    """Versions, device, weights, caches, and what to do about each lack."""
    from aoi.detect.doctor import examine

    emit(examine(), as_json=json)


def main() -> None:
    """Run the command line; the process ends with the exit code."""
    debug, as_json = "--debug" in sys.argv, "--json" in sys.argv
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word != "--debug")  # so that it may stand anywhere
    try:
        app()
    except AoiError as error:
        complain(error, as_json=as_json)
        if debug:
            raise
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != 130:  # which is what typer makes of Ctrl-C
            misused = getattr(end.__context__, "format_message", None)
            if as_json and misused is not None:  # typer has told people
                print(dumps(ConfigError(misused(), hint="see --help").as_dict(), ensure_ascii=False), flush=True)
            raise
        note("interrupted; the same command goes on where it stopped")
        sys.exit(130)
    except Exception as error:
        complain(unexpected(error), as_json=as_json)
        if debug:
            raise
        sys.exit(4)


def unexpected(error: Exception) -> AoiError:
    """What to say of an error nobody foresaw; a full disk and full memory have remedies of their own."""
    if isinstance(error, MemoryError) or "not enough memory" in str(error).lower() or "out of memory" in str(error).lower():
        return ModelError("out of memory", hint="use a smaller --image-size, a smaller --coreset-ratio or fewer images")
    if isinstance(error, OSError) and error.filename:
        return DataError(f"{error.filename}: {error.strerror}", hint="check that it is there and readable, and that the disk is not full")
    said = " ".join(str(error).split())[:300]
    return ModelError(f"unexpected {type(error).__name__}: {said}", hint="run the command again with --debug and report the traceback")


if __name__ == "__main__":
    main()
