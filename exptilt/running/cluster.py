"""Many machines: the prompts of a run spread over a Ray cluster, with a separate engine on each worker.

    def build():
        return xt.Target(xt.load("hf:Qwen/Qwen3-8B", device="cuda"), reward, beta=0.1)

    xt.run(build, prompts, sampler, store="runs/a.jsonl", cluster=xt.Cluster("auto", gpus=1))

Models are not sent over the network: each worker, a process on some machine, calls `build` once. The process that called
`run` keeps the list of prompts and the results file. It gives a worker another prompt whenever one is finished, so that
slow machines get fewer. A prompt's random stream does not depend on where it runs, so the answers are those of one
machine. Every worker reports the settings of its request, including the digest of its weights.

`exptilt.running.crew` gives the workers their prompts, and gives out again those of a worker that died.
"""

from __future__ import annotations

import importlib
import linecache
import logging
import math
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from exptilt.core import Target
from exptilt.errors import ClusterError, TargetError, install
from exptilt.running.crew import RESUME, Crew, Worker
from exptilt.running.request import Request

_KNOCK = 5.0  # seconds for an address to answer: Ray itself would wait forever
_SHARED_MEMORY = 100_000_000  # bytes of a cluster started here, which only passes results on


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, as the `cluster` of `run`. A connection that the program has made by ray.init is used as it is.

    address: "auto", the cluster that this machine belongs to or RAY_ADDRESS names; "HOST:PORT" of a cluster's head; "local",
        which starts a cluster on this machine for the length of the run.
    workers: how many; None: as many as the machines have room for. Further workers join when there is room.
    gpus, cpus: what each worker reserves. A share of a GPU, such as 0.5, puts several workers on one. Ray gives a
        worker as many OpenMP threads as `cpus`.
    attempts: how often a prompt's worker may die while the prompt is under way, before the prompt counts as failed.
    """

    address: str = "auto"
    workers: int | None = None
    gpus: float = 0.0
    cpus: float = 1.0
    attempts: int = 3

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers={self.workers} must be at least 1, or None for as many as fit")
        if not (0 <= self.gpus < math.inf and 0 < self.cpus < math.inf):
            raise ValueError(f"gpus={self.gpus} and cpus={self.cpus} are what each worker reserves: give gpus >= 0 and cpus > 0")
        if self.attempts < 1:
            raise ValueError(f"attempts={self.attempts} must be at least 1")

    @contextmanager
    def crew(self, build: Callable[[], Target], request: Callable[[Target], Request], concurrency: int) -> Iterator[Crew]:
        """Workers that each make `request(build())` and serve `concurrency` jobs at a time; they end with the context.

        Raises ClusterError where there is no cluster, or none of its machines has room for a worker.
        """
        ray = _import_ray()
        with _connected(ray, self):
            task = _pickle(ray, partial(_make, build, request, main_source()))
            kind = ray.remote(Worker).options(num_cpus=self.cpus, num_gpus=self.gpus, max_concurrency=concurrency)
            hire, room = partial(kind.remote, task, str(Path.cwd())), partial(self._room, ray)
            with closing(Crew(ray, hire, room, workers=self.workers, concurrency=concurrency, attempts=self.attempts)) as crew:
                yield crew

    def _room(self, ray: Any) -> int:
        """How many workers the machines have room for. Raises ClusterError where it is none."""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if count := sum(fits(machine, self.cpus, self.gpus) for machine in machines):
            return count
        held = ", ".join(f"{machine.get('CPU', 0):g} CPUs and {machine.get('GPU', 0):g} GPUs" for machine in machines)
        raise ClusterError(
            f"no machine of the cluster has room for a worker with cpus={self.cpus:g} and gpus={self.gpus:g} "
            f"(there are: {held or 'none'}): ask for less, or add a machine. {RESUME}."
        )


def fits(machine: Mapping[str, float], cpus: float, gpus: float) -> int:
    """How many workers a machine has room for, by its resources as Ray counts them."""
    wants = {"CPU": cpus, "GPU": gpus}
    return min(int(machine.get(name, 0.0) / want + 1e-9) for name, want in wants.items() if want > 0)


def main_source() -> tuple[str, list[str]]:
    """The path and the lines of the script that runs: what it defines travels to workers that may not have the file."""
    path = str(getattr(sys.modules["__main__"], "__file__", ""))
    return path, linecache.getlines(path)


def _make(build: Callable[[], Target], request: Callable[[Target], Request], main: tuple[str, list[str]]) -> Request:
    path, lines = main
    if lines and not Path(path).is_file():  # settings are described by source, so the source must be found here too
        linecache.cache[path] = (sum(map(len, lines)), None, lines, path)
    return request(build())


def _pickle(ray: Any, task: Callable[[], Request]) -> bytes:
    try:
        return ray.cloudpickle.dumps(task)
    except Exception as error:
        raise TargetError(
            f"the request cannot be sent to the workers ({type(error).__name__}: {error}). Make models, connections and "
            "locks inside the function that makes the target, so that neither it nor the sampler holds any of them."
        ) from error


# ---------------------------------------------------------------------------------------------------- the connection


def _import_ray() -> Any:
    # Ray prints deaths at length on standard output, where answers go; the crew reports them in a line.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "worker died or was killed|Raylet is terminated|cannot be scheduled")
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ClusterError(f"a cluster needs ray, not installed here. Install: {install('ray')}") from error


@contextmanager
def _connected(ray: Any, cluster: Cluster) -> Iterator[None]:
    """A connection to the cluster, ended with the context; the program's own one where it has one."""
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"address": cluster.address, "log_to_driver": False, "logging_level": logging.ERROR}
    if cluster.address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray says 15: beside two busy programs a worker took minutes to start
        cores = None if cluster.workers is None else max(os.cpu_count() or 1, math.ceil(cluster.workers * cluster.cpus))
        options |= {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _SHARED_MEMORY}
    try:
        _start(ray, options)
        yield
    finally:
        ray.shutdown()  # this holds also if Ctrl-C came while it started


def _start(ray: Any, options: Mapping[str, Any]) -> None:
    try:
        _knock(options["address"])
        ray.init(**options)
    except (OSError, RuntimeError, ValueError, ImportError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"no Ray cluster at {options['address']!r} ({error}): start one with `ray start --head`, give HOST:PORT of one, "
            'or "local" to use this machine alone. If the cluster asks for a token, set RAY_AUTH_MODE=token here.'
        ) from error


def _knock(address: str) -> None:
    """Raise OSError where the address names a host and port and nobody answers there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_KNOCK).close()
