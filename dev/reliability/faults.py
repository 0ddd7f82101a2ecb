"""Faults put into every phase of the work: afterwards the host is as it was, and nothing half-done is left.

`CASES` is the table of faults and phases, `run(case)` says what is wrong after one. They need a host in this process,
with the pack; those of `server_faults` have a server of their own besides.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from dev.reliability import server_faults, traps
from dev.reliability.server_faults import ServerPhase
from dev.reliability.stage import (
    Stage,
    any_sampler,
    beginning_again,
    calibrating,
    guider,
    importing,
    loading,
    own_sampler,
    probing,
    saving,
    stage,
    training,
    training_in_short,
    two_concepts,
    whole_weights,
)
from dev.reliability.traps import BROKEN, END, ERROR, FULL, INTERRUPT, MEMORY, SHORT, Trap

ANY = (INTERRUPT, ERROR, MEMORY, END)
REALLY = "really"  # no trap, but the thing itself
KEPT = "unguide/cancelled"
FINISH = "nodes.training:calibrate"


@dataclass(frozen=True)
class Phase:
    """Some work, and where in it something goes wrong."""

    name: str
    work: Callable[[Stage], object]
    place: str = "layer"  # see `traps.set_at`
    at: int = 1
    after: str = ""  # see `traps.armed_in`
    faults: tuple[str, ...] = ()
    hangs: bool = True  # something of ours is on the model by then
    keeps: bool = False  # what was trained so far
    again: Callable[[Stage], object] | None = None  # the work in short, to see that it can be done afterwards
    around: Callable[[Stage], AbstractContextManager] = field(default=lambda stage: nullcontext())
    survives: bool = False  # nothing is raised


@dataclass(frozen=True)
class Case:
    """A fault in a phase."""

    phase: Phase | ServerPhase
    fault: str

    def __str__(self) -> str:
        return f"{self.phase.name}: {self.fault}"


TRAIN = functools.partial(Phase, work=training, again=training_in_short)
PHASES = (
    TRAIN("training, as the LoRA is hung", place="installation", faults=(ERROR, MEMORY)),
    TRAIN("training, in the first trajectory", at=3, faults=ANY),
    TRAIN("training, in the second trajectory", at=17, faults=(INTERRUPT, MEMORY), keeps=True),
    TRAIN("training, in the first backward", place="gradient", at=1, faults=(ERROR, END)),
    TRAIN("training, in a later backward", place="gradient", at=2, faults=(INTERRUPT, MEMORY), keeps=True),
    TRAIN("training, in the optimizer", place="optimizer", at=2, faults=(INTERRUPT, ERROR, END), keeps=True),
    TRAIN("training, as it shows a preview", place="progress", at=2, faults=(INTERRUPT, ERROR), keeps=True),
    TRAIN("training, as it is calibrated", after=FINISH, at=4, faults=(INTERRUPT, MEMORY), keeps=True),
    TRAIN("training, as its grid is drawn", after="nodes.training:showcase", at=4, faults=(INTERRUPT, MEMORY),
          keeps=True),
    TRAIN("training, in a later backward", place="gradient", at=2, faults=(SHORT,), survives=True),
    TRAIN("training, as it is calibrated", after=FINISH, at=4, faults=(SHORT,), survives=True),
    TRAIN("training, as its curve is drawn", place="unguide_ops.figures:loss_curve", faults=(ERROR,), hangs=False,
          keeps=True),
    TRAIN("training, ended on a full disk", place="optimizer", at=2, faults=(INTERRUPT, ERROR),
          around=lambda it: traps.full(it.loras / KEPT)),
    Phase("probing, as the base predicts", probing, at=1, faults=(INTERRUPT, ERROR)),
    Phase("probing, as the LoRA predicts", probing, at=3, faults=ANY),
    Phase("probing, as the LoRA predicts", probing, at=3, faults=(SHORT,), survives=True),
    Phase("probing, as it shows progress", probing, "progress", at=2, faults=(INTERRUPT, ERROR), hangs=False),
    Phase("calibrating, as the LoRA predicts", calibrating, at=3, faults=(MEMORY, END)),
    Phase("calibrating, in a later step", calibrating, at=7, faults=(INTERRUPT, ERROR)),
    Phase("UnGuidance, as it is hung", any_sampler, "installation", faults=(ERROR, MEMORY)),
    Phase("UnGuidance, in the gate", any_sampler, at=3, faults=ANY),
    Phase("UnGuidance, as it steers", any_sampler, at=5, faults=ANY),
    Phase("UnGuidance, inside the sampler", any_sampler, "comfy.k_diffusion.sampling:to_d", faults=(INTERRUPT, ERROR)),
    Phase("UnGuidance, as the host shows progress", any_sampler, "progress", at=2, faults=(INTERRUPT, END)),
    Phase("UnGuidance KSampler, in the gate", own_sampler, at=3, faults=(INTERRUPT, MEMORY)),
    Phase("UnGuidance KSampler, as it steers", own_sampler, at=5, faults=(INTERRUPT, ERROR)),
    Phase("UnGuidance Guider, in the gate", guider, at=3, faults=(ERROR, END)),
    Phase("UnGuidance Guider, as it steers", guider, at=5, faults=(INTERRUPT, MEMORY)),
    Phase("two concepts, in the second gate", two_concepts, at=6, faults=(INTERRUPT, ERROR)),
    Phase("two concepts, as both steer", two_concepts, at=9, faults=(MEMORY, END)),
    Phase("a run begun again, in the gate's second step", beginning_again, at=6, faults=(INTERRUPT, ERROR)),
    Phase("a run begun again, as it steers", beginning_again, at=10, faults=(INTERRUPT, MEMORY)),
    Phase("whole weights, as they are changed", whole_weights, "comfy.lora:calculate_weight", at=2,
          faults=(ERROR, MEMORY), hangs=False),
    Phase("whole weights, in place", whole_weights, at=2, faults=ANY),
    Phase("saving, as it writes", saving, "os:fsync", faults=(FULL, BROKEN, MEMORY, END), hangs=False),
    Phase("saving, as it names the file", saving, "os:link", faults=(FULL, BROKEN, END), hangs=False),
    Phase("saving, as it writes the preview", saving, "os:replace", faults=(FULL,), hangs=False, survives=True),
    Phase("saving, on a full disk", saving, "", faults=(REALLY,), around=lambda it: traps.full(it.loras / "faults")),
    Phase("saving, into a read-only folder", saving, "", faults=(REALLY,),
          around=lambda it: traps.read_only(it.loras / "faults")),
    Phase("loading", loading, "unguide_ops.files:read_safetensors", faults=(BROKEN, END), hangs=False),
    Phase("importing, as it reads", importing, "unguide_ops.files:read_safetensors", faults=(BROKEN, END), hangs=False),
    Phase("importing, as it looks for layers", importing, "comfy.lora:model_lora_keys_unet", faults=(ERROR, MEMORY),
          hangs=False),
)  # fmt: skip
CASES = tuple(Case(phase, fault) for phase in (*PHASES, *server_faults.PHASES) for fault in phase.faults)


def run(case: Case) -> list[str]:
    """What is wrong after the fault, in sentences: none, if all is well."""
    it, phase = stage(), case.phase
    if isinstance(phase, ServerPhase):
        return server_faults.run(server_faults.servant(it.host, it.loras / it.file), phase, case.fault)
    return run_in_process(it, phase, case.fault)


def run_in_process(it: Stage, phase: Phase, fault: str) -> list[str]:
    """The same for a phase in this process."""
    import comfy.model_management
    import torch

    from dev.reliability.traces import Traces, changed_bits

    again = phase.again or phase.work
    with torch.inference_mode():
        expected = it.expected(again)
        network, files = it.model.model.diffusion_model, it.files()
        trap = Trap(fault, phase.at)
        with ExitStack() as ready:
            ready.enter_context(phase.around(it))
            if phase.place:
                ready.enter_context(traps.set_at(phase.place, trap, network))
                ready.enter_context(traps.armed_in(phase.after, trap))
            inside = Traces(it.model)
            trap.look = inside.differences
            error = error_in(phase.work, it)
            problems = [f"right after it {line}" for line in inside.differences()]
        problems += [*about_the_error(phase, trap, error), *about_the_trap(phase, trap)]
        if fault == MEMORY:  # as the host does when a node runs out of it
            comfy.model_management.unload_all_models()
        kept = phase.keeps and fault != END
        problems += [*it.traces.differences(), *changed_bits(it.model, it.bits), *about_files(it, files, kept)]
        if not torch.equal(it.plain(), it.picture):
            problems.append("a plain picture is not the same as before")
        problems += about_another_time(it, again, expected)
    return problems


def error_in(work: Callable[[Stage], object], it: Stage) -> BaseException | None:
    """What the work raises."""
    try:
        work(it)
    except BaseException as error:  # what ends a process is among the faults
        return error
    return None


def about_the_error(phase: Phase, trap: Trap, error: BaseException | None) -> list[str]:
    """Whether what was raised is the fault, or says what to do about it."""
    import comfy.model_management

    if phase.survives or error is None:
        return [] if phase.survives and error is None else [f"raised is {error!r}"]
    causes = [error]
    while causes[-1] is not None:
        causes.append(causes[-1].__cause__ or causes[-1].__context__)
    if trap.fault == INTERRUPT:
        right = isinstance(error, comfy.model_management.InterruptProcessingException)
    else:
        right = isinstance(error, OSError) if trap.fault == REALLY else trap.error in causes
    return [] if right else [f"the error has become {error!r}"]


def about_the_trap(phase: Phase, trap: Trap) -> list[str]:
    """Whether the case is one: it has sprung, with something of ours on the model."""
    if not phase.place:
        return []
    if not trap.sprung:
        return [f"it has not sprung in {trap.visits} visits"]
    return ["nothing of ours was on the model"] if phase.hangs and not trap.seen else []


def about_files(it: Stage, before: set[Path], kept: bool) -> list[str]:
    """Whether just what was trained so far is new in the loras folder, whole; it is removed again."""
    from unguide.unguide_ops import files

    new = it.files() - before
    problems = [
        f"{path.relative_to(it.loras)} is left" for path in sorted(new) if not kept or path.parent != it.loras / KEPT
    ]
    if kept and not new:
        problems.append("what was trained so far is lost")
    for path in new:
        if path.suffix == ".safetensors" and not files.load_lora(path).is_finite:
            problems.append(f"{path.name} has weights that are no numbers")
        path.unlink()
    return problems


def about_another_time(it: Stage, work: Callable[[Stage], object], expected: object) -> list[str]:
    """Whether the work can be done now, and gives what it gives where nothing has gone wrong."""
    try:
        found = work(it)
    except Exception as error:
        return [f"afterwards it cannot be done: {error!r}"]
    return [] if same(found, expected) else ["afterwards it gives something else"]


def same(one, other) -> bool:
    """Bit for bit."""
    import torch

    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
