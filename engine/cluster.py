"""Tasks on the nodes of a Ray cluster: resources declared, lost workers' tasks done again (https://docs.ray.io, "Ray Core")."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aoi.engine.local import CORES, usable_cores
from aoi.engine.schedule import Schedule, WorkerLost
from aoi.engine.site import Site, carried_environment, site_of
from aoi.engine.work import Argument, Needs, Result, State, Task, Work
from aoi.errors import BackendUnavailable, ConfigError

RETRIES = 3
_KNOCK_SECONDS = 15.0
_STARTS = 3
_STORE_BYTES = 150 * 2**20
"""Of shared memory on a machine of our own: tasks hand over names and rows, never images."""


@dataclass(frozen=True, slots=True)
class RayEngine:
    """The cluster this process is connected to, the one at `RAY_ADDRESS`, or one of this machine's cores that lasts as long as the call.

    Args:
        cpus: cores that each task occupies; None leaves it to the work.
        gpus: GPUs that each task occupies, parts of one included; None leaves it to the work.
        retries: how often the task of a lost worker is done again.
        say: told of lost workers and of long waits.
    """

    cpus: float | None = None
    gpus: float | None = None
    retries: int = RETRIES
    say: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        if self.cpus is not None and not 0 < self.cpus <= 4096:
            raise ConfigError(f"--task-cpus is {self.cpus}", hint="give the number of cores that each task occupies, such as 2")
        if self.gpus is not None and not (self.gpus == int(self.gpus) >= 0 or 0 < self.gpus < 1):
            raise ConfigError(f"--task-gpus is {self.gpus}", hint="give a whole number of GPUs, or a part of one, such as 0.5")
        if not 0 <= self.retries <= 1000:
            raise ConfigError(f"--retries is {self.retries}", hint="give a whole number from 0 to 1000")
        ray_library()

    @property
    def is_remote(self) -> bool:
        """True."""
        return True

    def run(
        self,
        work: Work[State, Argument, Result],
        tasks: Iterable[Task[Argument]],
        *,
        needs: Needs = Needs(),
        tick: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[str, Result]]:
        """See `aoi.engine.work.Engine.run`.

        Raises:
            BackendUnavailable: no cluster answers, or this machine alone does not have what a task takes.
        """
        with site_of(needs) as site, _connected() as ours:
            cpus, gpus = self._taken(needs, site.threads)
            self._check_room(cpus, gpus, ours)
            pool = _Workers(work, site, cpus, gpus)
            window = max(32, int(4 * ray_library().cluster_resources().get("CPU", 1) / cpus))
            schedule: Schedule[Any, Any, Any] = Schedule(pool, window=window, retries=self.retries, say=self.say)
            try:
                yield from schedule.results(tasks, tick)
            finally:
                pool.stop(schedule.running)

    def _taken(self, needs: Needs, threads: int | None) -> tuple[float, float]:
        """Cores and GPUs of each task."""
        wanted = self.cpus or needs.cpus or threads or usable_cores()
        if self.gpus is not None:
            return wanted, self.gpus
        if needs.gpus is not None:
            return wanted, needs.gpus
        return wanted, 1.0 if ray_library().cluster_resources().get("GPU", 0) >= 1 else 0.0

    def _check_room(self, cpus: float, gpus: float, ours: bool) -> None:
        """No task waits for ever without a word."""
        nodes = [node["Resources"] for node in ray_library().nodes() if node["Alive"]]
        if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            return
        asked = f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        if ours:
            raise BackendUnavailable(
                f"a task takes {asked}, more than this machine has", hint="give fewer with --task-cpus and --task-gpus"
            )
        self.say(f"no node of the cluster has the {asked} that a task takes: waiting for one that has (see --task-cpus and --task-gpus)")


def ray_library() -> Any:
    """The package `ray`, told to report nothing about its use.

    Raises:
        BackendUnavailable: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the library's own choice in future, and silent
    try:
        import ray
    except ImportError as error:
        raise BackendUnavailable(
            "the engine ray needs the package ray, which is not installed",
            hint="install it with: pip install 'aoi[ray]', or use --engine local",
        ) from error
    return ray


@contextlib.contextmanager
def _connected() -> Iterator[bool]:
    """A connection to a cluster; True if the cluster was started here and goes when the work is done."""
    ray = ray_library()
    if ray.is_initialized():
        yield False
        return
    address, quiet = os.environ.get("RAY_ADDRESS"), {"log_to_driver": False, "logging_level": "error"}
    try:
        if address:
            _knock(address)
            ray.init(address=address, **quiet)
        else:  # never `auto`, which would move in with another command's cluster and die with it
            start_here(num_cpus=usable_cores(), object_store_memory=_STORE_BYTES, **quiet)
    except OSError as error:
        raise BackendUnavailable(
            f"no Ray cluster answers at {address}", hint="start one with `ray start --head`, or unset RAY_ADDRESS to use this machine alone"
        ) from error
    except Exception as error:  # of another release, or too slow to start: the library has no class of errors for it
        where = f"the cluster at {address} cannot be joined" if address else "Ray does not start on this machine"
        said = " ".join(str(error).split())[:200]
        raise BackendUnavailable(f"{where}: {said}", hint="try again when the machine is less busy, or use --engine local") from error
    try:
        yield not address
    finally:
        ray.shutdown()


def start_here(**options: Any) -> None:
    """Start a cluster of this machine alone. The library gives its node 30 seconds, whatever it is told: a busy machine may need more.

    Args:
        options: of `ray.init`.

    Raises:
        Exception: as the library raised it the last time.
    """
    ray = ray_library()
    for left in reversed(range(_STARTS)):
        try:
            ray.init(address="local", include_dashboard=False, **options)
            return
        except Exception:  # the library has no class of errors for it
            ray.shutdown()  # what has started so far
            if not left:
                raise


def _knock(address: str) -> None:
    """Find out in seconds what the library would try for minutes.

    Raises:
        OSError: nobody listens at `HOST:PORT`; other kinds of address are left to the library.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()


class _Workers:
    """Ray's workers, as a pool."""

    def __init__(self, work: Work[Any, Any, Any], site: Site, cpus: float, gpus: float) -> None:
        self.ray = ray_library()
        self.call = secrets.token_hex(8)
        self.shared = [self.ray.put((site, work))]  # in a list, so that it is fetched once for each process, not for each task
        variables = carried_environment(site.threads or max(1, int(cpus))) | {CORES: str(max(1, int(cpus)))}
        if not gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ""
        self.perform = self.ray.remote(
            num_cpus=cpus, num_gpus=gpus, max_retries=0, max_calls=0, runtime_env={"env_vars": variables}
        )(_perform)  # fmt: skip

    def submit(self, argument: Any) -> Any:
        return self.perform.remote(self.call, self.shared, argument)

    def wait(self, handles: Sequence[Any], seconds: float) -> Iterable[Any]:
        done: Iterable[Any] = self.ray.wait(list(handles), num_returns=1, timeout=seconds)[0]
        return done

    def result(self, handle: Any) -> Any:
        known = self.ray.exceptions
        lost = (known.WorkerCrashedError, known.NodeDiedError, known.OutOfMemoryError, known.ObjectLostError, known.LocalRayletDiedError)
        try:
            return self.ray.get(handle)
        except lost as error:
            raise WorkerLost(_LOSSES.get(type(error).__name__, "it ended without a word")) from error
        except known.RuntimeEnvSetupError as error:
            raise BackendUnavailable(f"a worker could not be set up: {error}", hint="see the log of the node's raylet") from error
        except known.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error

    def stop(self, handles: Iterable[Any]) -> None:
        """End what still runs."""
        for handle in handles:
            with contextlib.suppress(Exception):  # it may have ended, or its node
                self.ray.cancel(handle, force=True)


_LOSSES = {
    "OutOfMemoryError": "its node ran out of memory",
    "NodeDiedError": "its node is gone",
    "WorkerCrashedError": "its process ended unexpectedly",
}

_DESK: dict[str, tuple[Work[Any, Any, Any], Any]] = {}
"""This worker process's work and state, by call."""


def _perform(call: str, shared: list[Any], argument: Any) -> Any:
    """One task, in a worker process."""
    if call not in _DESK:
        _DESK.clear()
        site, work = ray_library().get(shared[0])
        site.enter()
        _DESK[call] = work, work.start()
    work, state = _DESK[call]
    return work.perform(state, argument)
