"""Options that several commands share, and what every group of commands is built with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PLAIN: dict[str, bool | None] = {
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "no_args_is_help": True,
}
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
Seed = Annotated[int, typer.Option(min=0, help="Everything random is derived from it.")]
Out = Annotated[Path, typer.Option(help="Output folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Parallel workers; the result does not depend on it.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the backbone first (torch.compile; CUDA graphs on a GPU).")]
ExactSearch = Annotated[bool, typer.Option("--exact-search", help="Search exactly, whatever the run was fitted with.")]
Run = Annotated[Path, typer.Argument(help="A finished run folder.")]
Backbone = Annotated[str | None, typer.Option(help="aoi-small, or a timm/torchvision weight name such as resnet18.tv_in1k.")]
Weights = Annotated[Path | None, typer.Option(help="Backbone weights: safetensors or a state dict.")]
ImageSize = Annotated[str, typer.Option(help="Network input: SIDE or HEIGHTxWIDTH, pixels.")]
Images = Annotated[str, typer.Argument(help="Good images: a file, folder, glob, or a data set (its train/good).")]
GeneratorName = Annotated[str, typer.Option(help="perlin, cutpaste, displace, shade, graft or diffusion.")]
Model = Annotated[str | None, typer.Option(help="Inpainting checkpoint: a folder, a name of `aoi models list`, or a hub name.")]
KeyValue = Annotated[list[str] | None, typer.Option(help="Any other option, KEY=VALUE; may be repeated.")]
Dtype = Annotated[str | None, typer.Option(help="Arithmetic of the checkpoint: auto, float32, float16 or bfloat16.")]
EngineName = Annotated[str, typer.Option("--engine", help="local, or ray: a cluster at RAY_ADDRESS, else this machine's cores.")]
TaskCpus = Annotated[float | None, typer.Option(help="ray: cores each task occupies; default: the threads it uses here.")]
TaskGpus = Annotated[float | None, typer.Option(help="ray: GPUs each task occupies, such as 1 or 0.5; default: by the device.")]
Retries = Annotated[int | None, typer.Option(help="ray: how often the task of a lost worker is done again (3).")]
