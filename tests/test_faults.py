"""Whatever goes wrong, wherever: the host is as it was before, and nothing half-done is left."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import cache, partial

import comfy.model_management
import pytest
import torch
from fault_injection import (
    BROKEN,
    END,
    ERROR,
    FULL,
    FULL_DISK,
    INTERRUPT,
    KILL,
    MEMORY,
    OPTIMIZER,
    READ_ONLY,
    SHORT,
    Fault,
    bad_disk,
    inject,
)
from fixtures import Fixtures, same
from node_graphs import DOG, NodeGraph
from restarting_server import RestartingServer
from state_snapshot import StateSnapshot, changed_weights
from unguide.unguide_ops.files.lora_file import load_lora

from dev.client import GraphError, GraphInterruptedError

ANY = (INTERRUPT, ERROR, MEMORY, END)
REALLY = "really"  # nothing is injected: the surroundings are as bad as that
CANCELLED = "unguide/cancelled"
UNFINISHED = "*.unguide-part"
CALIBRATE, GRID = "unguide_ops.pipeline:calibrate", "unguide_ops.pipeline:preview_grid"
READER = "unguide_ops.files.lora_file:read_safetensors"


@dataclass(frozen=True)
class Phase:
    """A job, and where in it something goes wrong; see fault_injection.inject."""

    name: str
    job: Callable[[Fixtures], object]  # in a server: what draws its graph
    place: str = "layer"
    at: int = 1
    after: str = ""
    faults: tuple[str, ...] = ()
    attached: bool = True  # something of ours is on the model by then
    keeps: bool = False  # what was trained so far
    again: Callable | None = None  # a shorter job, to see that it can be done afterwards
    around: Callable[[Fixtures], AbstractContextManager] = lambda fixtures: nullcontext()
    survives: bool = False  # nothing is raised


Training = partial(Phase, job=Fixtures.training, again=Fixtures.training_alone)
PHASES = (
    Training("training, as the LoRA is attached", place="attaching", faults=(ERROR, MEMORY)),
    Training("training, in the first trajectory", at=3, faults=ANY),
    Training("training, in the second trajectory", at=17, faults=(INTERRUPT, MEMORY), keeps=True),
    Training("training, in the first backward", place="gradient", at=1, faults=(ERROR, END)),
    Training("training, in a later backward", place="gradient", at=2, faults=(INTERRUPT, MEMORY), keeps=True),
    Training("training, in the optimizer", place=OPTIMIZER, at=2, faults=(INTERRUPT, ERROR, END), keeps=True),
    Training("training, as it shows a preview", place="progress", at=2, faults=(INTERRUPT, ERROR), keeps=True),
    Training("training, as it is calibrated", after=CALIBRATE, at=4, faults=(INTERRUPT, MEMORY), keeps=True),
    Training("training, as its grid is drawn", after=GRID, at=4, faults=(INTERRUPT, MEMORY), keeps=True),
    Training("training, in a later backward", place="gradient", at=2, faults=(SHORT,), survives=True),
    Training("training, as it is calibrated", after=CALIBRATE, at=4, faults=(SHORT,), survives=True),
    Training("training, as its curve is drawn", place="unguide_ops.plots:loss_curve", faults=(ERROR,), attached=False,
             keeps=True),
    Training("training, ended on a full disk", place=OPTIMIZER, at=2, faults=(INTERRUPT, ERROR),
             around=lambda fixtures: bad_disk(fixtures.loras / CANCELLED, FULL_DISK)),
    Phase("probing, as the base predicts", Fixtures.probing, at=1, faults=(INTERRUPT, ERROR)),
    Phase("probing, as the LoRA predicts", Fixtures.probing, at=3, faults=ANY),
    Phase("probing, as the LoRA predicts", Fixtures.probing, at=3, faults=(SHORT,), survives=True),
    Phase("probing, as it shows progress", Fixtures.probing, "progress", at=2, faults=(INTERRUPT, ERROR),
          attached=False),
    Phase("calibrating, as the LoRA predicts", Fixtures.calibrating, at=3, faults=(MEMORY, END)),
    Phase("calibrating, in a later step", Fixtures.calibrating, at=7, faults=(INTERRUPT, ERROR)),
    Phase("UnGuidance, as it is attached", Fixtures.any_sampler, "attaching", faults=(ERROR, MEMORY)),
    Phase("UnGuidance, in the gate", Fixtures.any_sampler, at=3, faults=ANY),
    Phase("UnGuidance, as it steers", Fixtures.any_sampler, at=5, faults=ANY),
    Phase("UnGuidance, inside the sampler", Fixtures.any_sampler, "comfy.k_diffusion.sampling:to_d",
          faults=(INTERRUPT, ERROR)),
    Phase("UnGuidance, as the host shows progress", Fixtures.any_sampler, "progress", at=2, faults=(INTERRUPT, END)),
    Phase("UnGuidance KSampler, in the gate", Fixtures.own_sampler, at=3, faults=(INTERRUPT, MEMORY)),
    Phase("UnGuidance KSampler, as it steers", Fixtures.own_sampler, at=5, faults=(INTERRUPT, ERROR)),
    Phase("UnGuidance Guider, in the gate", Fixtures.guider, at=3, faults=(ERROR, END)),
    Phase("UnGuidance Guider, as it steers", Fixtures.guider, at=5, faults=(INTERRUPT, MEMORY)),
    Phase("two concepts, in the second gate", Fixtures.two_concepts, at=6, faults=(INTERRUPT, ERROR)),
    Phase("two concepts, as both steer", Fixtures.two_concepts, at=9, faults=(MEMORY, END)),
    Phase("a run that restarts, in the gate's second step", Fixtures.restarting, at=6, faults=(INTERRUPT, ERROR)),
    Phase("a run that restarts, as it steers", Fixtures.restarting, at=10, faults=(INTERRUPT, MEMORY)),
    Phase("whole weights, as they are changed", Fixtures.whole_weights, "comfy.lora:calculate_weight", at=2,
          faults=(ERROR, MEMORY), attached=False),
    Phase("whole weights, in place", Fixtures.whole_weights, at=2, faults=ANY),
    Phase("saving, as it writes", Fixtures.saving, "os:fsync", faults=(FULL, BROKEN, MEMORY, END), attached=False),
    Phase("saving, as it names the file", Fixtures.saving, "os:link", faults=(FULL, BROKEN, END), attached=False),
    Phase("saving, as it writes the preview", Fixtures.saving, "os:replace", faults=(FULL,), attached=False,
          survives=True),
    Phase("saving, on a full disk", Fixtures.saving, "", faults=(REALLY,),
          around=lambda fixtures: bad_disk(fixtures.loras / "faults", FULL_DISK)),
    Phase("saving, into a read-only folder", Fixtures.saving, "", faults=(REALLY,),
          around=lambda fixtures: bad_disk(fixtures.loras / "faults", READ_ONLY)),
    Phase("loading", Fixtures.loading, READER, faults=(BROKEN, END), attached=False),
    Phase("importing, as it reads", Fixtures.importing, READER, faults=(BROKEN, END), attached=False),
    Phase("importing, as it looks for layers", Fixtures.importing, "comfy.lora:model_lora_keys_unet",
          faults=(ERROR, MEMORY), attached=False),
)  # fmt: skip
SERVER_PHASES = (
    Phase("a server steering", NodeGraph.own_sampler, at=6, faults=(ERROR, MEMORY)),
    Phase("a server in the gate", NodeGraph.any_sampler, at=3, faults=(INTERRUPT,)),
    Phase("a server's guider", NodeGraph.guider, at=6, faults=(INTERRUPT,)),
    Phase("a server training", NodeGraph.train, OPTIMIZER, at=3, faults=(INTERRUPT, MEMORY), keeps=True),
    Phase("a server training, killed", NodeGraph.train, OPTIMIZER, at=3, faults=(KILL,)),
    Phase("a server calibrating what it trained", NodeGraph.train, at=3, after=CALIBRATE, faults=(ERROR,), keeps=True),
    Phase("a server saving", NodeGraph.save_lora, "os:fsync", faults=(FULL, KILL)),
)  # fmt: skip
RAISED = {ERROR: "FaultError", MEMORY: "OutOfMemoryError", FULL: "OSError", BROKEN: "OSError"}


def cases(phases):
    return [pytest.param(phase, kind, id=f"{phase.name}: {kind}") for phase in phases for kind in phase.faults]


@pytest.fixture(scope="module")
def fixtures():
    with torch.inference_mode():
        return Fixtures()


@pytest.fixture(scope="module")
def expected(fixtures):
    """expected(job): what the job gives if nothing goes wrong."""
    return cache(lambda job: job(fixtures))


@pytest.fixture(scope="module")
def server(fixtures, tmp_path_factory):
    with RestartingServer(tmp_path_factory.mktemp("base"), fixtures.file) as server:
        yield server


@pytest.fixture(autouse=True)
def passed(record_figure):
    """passed() records that a test has come to its end; that it has begun is recorded before."""
    record_figure("faults", cases=1)
    return lambda: record_figure("faults", passed=1)


@pytest.mark.parametrize(("phase", "kind"), cases(PHASES))
def test_after_a_fault_all_is_as_before(fixtures, expected, passed, phase, kind):
    again = phase.again or phase.job
    result = expected(again)
    network, files = fixtures.model.model.diffusion_model, fixtures.files()
    fault, error = Fault(kind, phase.at), None
    with ExitStack() as stack:
        stack.enter_context(phase.around(fixtures))
        inject(stack.enter_context(pytest.MonkeyPatch.context()), fault, phase.place, network, phase.after)
        state = StateSnapshot(fixtures.model)
        fault.state.on_occurrence = state.differences
        try:
            phase.job(fixtures)
        except BaseException as raised:  # what ends a process is among the faults
            error = raised
        assert not state.differences()
    check_error(phase, fault, error)
    assert not phase.place or fault.state.occurred, f"only {fault.state.calls} calls"
    assert not (phase.place and phase.attached) or fault.state.result, "nothing of ours was on the model"
    if kind == MEMORY:  # as the host does when a node runs out of it
        comfy.model_management.unload_all_models()
    assert not fixtures.state.differences() + changed_weights(fixtures.model, fixtures.weights)
    check_files(fixtures, fixtures.files() - files, phase.keeps and kind != END)
    assert torch.equal(fixtures.plain(), fixtures.picture)
    assert same(again(fixtures), result)
    passed()


def check_error(phase, fault, error):
    """What was raised is the fault."""
    if phase.survives:
        assert error is None
    elif fault.kind == INTERRUPT:
        assert isinstance(error, comfy.model_management.InterruptProcessingException)
    elif fault.kind == REALLY:
        assert isinstance(error, OSError)
    else:
        causes = [error]
        while causes[-1] is not None:
            causes.append(causes[-1].__cause__ or causes[-1].__context__)
        assert fault.error in causes


def check_files(fixtures, new, keeps):
    """Just what was trained so far is new in the loras folder, if it is to be kept, and whole. Removes it again."""
    try:
        assert not [path for path in new if not keeps or path.parent != fixtures.loras / CANCELLED]
        assert new or not keeps, "what was trained so far is lost"
        assert all(load_lora(path).is_finite for path in new if path.suffix == ".safetensors")
    finally:
        for path in new:
            path.unlink()


@pytest.mark.parametrize(("phase", "kind"), cases(SERVER_PHASES))
def test_after_a_fault_a_server_goes_on(server, passed, phase, kind):
    """Or starts again if it was killed."""
    plain, files = server.plain_picture, server.files()
    server.set_fault(kind, phase.place, phase.at, phase.after)
    with pytest.raises(GraphInterruptedError if kind == INTERRUPT else GraphError) as caught:
        server.run(phase.job)
    if kind == KILL:
        assert caught.value.exception_type is None
        server.wait()
    elif kind != INTERRUPT:
        assert RAISED[kind] in caught.value.exception_type
    server.set_fault(kind, "")
    new = server.files() - files
    unfinished = {path for path in new if path.match(UNFINISHED)}
    assert not [path for path in new - unfinished if not phase.keeps or "cancelled" not in path.parts]
    assert new - unfinished or not phase.keeps, "what was trained so far is lost"
    assert server.listed_loras() == {path for path in server.files() if path.suffix == ".safetensors"}
    for path in unfinished:  # what a killed server has left: the next to save here removes it, an hour later
        os.utime(path, (0, 0))
    server.run(NodeGraph.own_sampler if phase.job is NodeGraph.train else phase.job)
    assert server.run(NodeGraph.plain, DOG) == plain
    assert not [*server.loras.rglob(UNFINISHED)]
    passed()
