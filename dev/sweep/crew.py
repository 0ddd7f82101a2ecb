"""Artists at work: one in this process, or one on each device of a Ray cluster, their models kept warm.

Who draws a picture makes no difference to it. An artist that dies is replaced, and its picture drawn again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from dev.stages import DevError
from dev.sweep.artist import Artist
from dev.sweep.ledger import Drawn
from dev.sweep.plan import Job, Settings

AHEAD = 2  # jobs an artist has at hand, so that it need not wait for the next
Done = tuple[Job, "Drawn | Exception"]


class Alone(contextlib.AbstractContextManager):
    """One artist, in this process."""

    def __init__(self, settings: Settings):
        self._artist = Artist(settings)
        for preset in settings.forget:
            self._artist.train(preset)

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def draw(self, jobs: Iterator[Job]) -> Iterator[Done]:
        """Each job's picture, or why there is none."""
        return ((job, _drawn(self._artist, job)) for job in jobs)


class Many(contextlib.AbstractContextManager):
    """Artists as Ray actors. At any time a few jobs are out, so that memory does not grow with the list."""

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
            _Actor
        )
        first, *others = (actor.remote(settings) for _ in range(workers))
        for preset in settings.forget:
            ray.get(first.train.remote(preset))
        self.artists = [first, *others]

    def __exit__(self, *_: object) -> None:
        """Send the artists home."""
        self._ray.shutdown()

    def draw(self, jobs: Iterator[Job]) -> Iterator[Done]:
        """Each job's picture, or why there is none, as they come."""
        out: dict = {}

        def hand(artist) -> None:
            job = next(jobs, None)
            if job is not None:
                out[artist.draw.remote(job)] = (artist, job)

        for artist in self.artists * AHEAD:
            hand(artist)
        while out:
            (ready,), _ = self._ray.wait(list(out), num_returns=1)
            artist, job = out.pop(ready)
            hand(artist)
            yield job, self._ray.get(ready)


class _Actor:
    """An artist in a process of its own."""

    def __init__(self, settings: Settings):
        self._artist = Artist(settings)

    def train(self, preset: str) -> None:
        self._artist.train(preset)

    def draw(self, job: Job) -> Drawn | Exception:
        return _drawn(self._artist, job)


def _drawn(artist: Artist, job: Job) -> Drawn | Exception:
    try:
        return artist.draw(job)
    except DevError as error:
        return error
    except Exception as error:  # noqa: BLE001 # whatever it is, the other rows are not to suffer
        return RuntimeError(f"{type(error).__name__}: {error}")


def crew_of(settings: Settings, workers: int, address: str | None) -> Alone | Many:
    """As many as asked for."""
    return Many(settings, workers, address) if workers or address else Alone(settings)
