"""What draws the jobs: a renderer in this process, or one on each device of a Ray cluster, their models kept loaded.

A picture is the same whoever draws it. A Ray actor that dies is replaced, and its picture drawn again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

from dev.console import DevError
from dev.environment import BASE
from dev.inprocess import load_pack, start_host
from dev.sweep.plan import RenderJob, Settings
from dev.sweep.results import RenderedPicture

JOBS_AHEAD = 2  # at a worker, so that it need not wait for the next
Outcome = tuple[RenderJob, RenderedPicture | Exception]


class RenderWorker:
    """A renderer, whose errors are returned, with the host that it needs; in this process, or a Ray actor."""

    def __init__(self, settings: Settings):
        start_host(settings.host, BASE, settings.device)
        load_pack()
        from dev.sweep.renderer import Renderer  # which imports the host

        self._renderer = Renderer(settings)

    def train(self, preset: str) -> None:
        """See `Renderer.train`."""
        self._renderer.train(preset)

    def draw(self, job: RenderJob) -> RenderedPicture | Exception:
        """The job's picture, or the error that kept it from being drawn."""
        try:
            return self._renderer.draw(job)
        except DevError as error:
            return error
        except Exception as error:  # noqa: BLE001 # whatever it is, the other jobs go on
            return RuntimeError(f"{type(error).__name__}: {error}")


class LocalWorkers(nullcontext):
    """One worker, in this process."""

    def __init__(self, settings: Settings):
        super().__init__()
        self._worker = RenderWorker(settings)
        for preset in settings.forget:
            self._worker.train(preset)

    def draw(self, jobs: Iterator[RenderJob]) -> Iterator[Outcome]:
        """(job, its picture or error) for each job."""
        return ((job, self._worker.draw(job)) for job in jobs)


class RayWorkers(AbstractContextManager):
    """Workers as Ray actors. Only a few jobs are submitted at a time, so memory does not grow with the list."""

    def __init__(self, settings: Settings, workers: int, address: str | None):
        import ray

        self._ray, cpu = ray, settings.device == "cpu"
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 otherwise: anything else on the machine goes first
        ray.init(address=address, include_dashboard=False, log_to_driver=False, configure_logging=False,
                 **({} if address else {"num_cpus": workers} if cpu else {}))  # fmt: skip
        if not workers:
            workers = int(ray.cluster_resources().get("CPU" if cpu else "GPU", 0))
        if not workers:
            raise DevError("the Ray cluster has no free device: see `ray status`, or choose another `--device`.")
        actor = ray.remote(num_cpus=1 if cpu else 0, num_gpus=0 if cpu else 1, max_restarts=-1, max_task_retries=-1)(
            RenderWorker
        )
        self._actors = [actor.remote(settings) for _ in range(workers)]
        for preset in settings.forget:
            ray.get(self._actors[0].train.remote(preset))

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def draw(self, jobs: Iterator[RenderJob]) -> Iterator[Outcome]:
        """(job, its picture or error) for each job, as they are finished."""
        pending: dict = {}

        def submit(actor) -> None:
            job = next(jobs, None)
            if job is not None:
                pending[actor.draw.remote(job)] = (actor, job)

        for actor in self._actors * JOBS_AHEAD:
            submit(actor)
        while pending:
            (ready,), _ = self._ray.wait(list(pending), num_returns=1)
            actor, job = pending.pop(ready)
            submit(actor)
            yield job, self._ray.get(ready)


def workers_for(settings: Settings, workers: int, address: str | None) -> LocalWorkers | RayWorkers:
    """So many Ray workers, or all of the cluster at `address`; without either the one in this process."""
    return RayWorkers(settings, workers, address) if workers or address else LocalWorkers(settings)
