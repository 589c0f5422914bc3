"""Engines by name, as people ask for them."""

from __future__ import annotations

from collections.abc import Callable

from aoi.engine.work import Engine
from aoi.errors import ConfigError

ENGINES = ("local", "ray")


def engine_named(
    name: str,
    *,
    workers: int | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
    retries: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Engine | None:
    """The engine called `name`; None for this machine as the work itself arranges it.

    Args:
        name: one of `ENGINES`.
        workers: processes of this machine; a cluster has its own.
        cpus, gpus, retries, say: see `aoi.engine.cluster.RayEngine`.

    Raises:
        ConfigError: an unknown name, or options of another engine.
        BackendUnavailable: the engine's library is not installed.
    """
    if name == "local":
        given = [option for option, value in (("--task-cpus", cpus), ("--task-gpus", gpus), ("--retries", retries)) if value is not None]
        if given:
            raise ConfigError(f"{given[0]} is for --engine ray", hint="add --engine ray, or leave it out")
        return None
    if name != "ray":
        raise ConfigError(f"unknown engine {name!r}", hint=f"use one of {', '.join(ENGINES)}")
    if workers is not None:
        raise ConfigError("--workers is for --engine local", hint="a cluster has its own workers: leave it out, or see --task-cpus")
    from aoi.engine.cluster import RETRIES, RayEngine

    return RayEngine(cpus, gpus, RETRIES if retries is None else retries, say)
