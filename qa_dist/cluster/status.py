"""How runs are: markers and heartbeats first, then squeue, then accounting.

In: runs' folders. Out: plain data that show_status.py draws and --json prints. Works without
accounting, without SLURM (local runs) and while the controller is down: then it says so and tells
what the disk says. The queue is asked before the disk is read for the last time, so that a job the
queue has forgotten has written all that it ever will. Changes nothing; loads no torch, no numpy.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from qa_dist.cluster.heartbeats import (
    Holder,
    OnDisk,
    aggregates_of,
    is_at_work,
    is_on_slurm,
    jobs_of,
    launcher,
    read_elements,
    worker,
)
from qa_dist.cluster.queue import JobName, Queue, QueuedJob
from qa_dist.cluster.reasons import explain_end, is_running, why_ended, why_waiting
from qa_dist.cluster.run_logs import begun_jobs, last_lines, last_words, slurms_words
from qa_dist.cluster.submitted import is_cut_short, read_submitted
from qa_dist.evaluation.elements import is_each_checkpoint
from qa_dist.files import read_json, read_setting
from qa_dist.profile import STAGES
from qa_dist.run_dir import RunDir

STATES = ("done", "running", "waiting", "failed", "missing")
_ERRORS = 5
_WITHOUT_A_WORD = "ended without a word"
_TO_COME = "training submits it at the next checkpoint"


@dataclass(frozen=True)
class Element:
    """One element of a stage, as it is."""

    index: int
    state: str
    """One of STATES; missing: not done, and nobody is going to do it."""
    note: str = ""
    """Why it waits, failed or is missing."""
    job: str = ""
    """SLURM's name of its job, e.g. "12_3"."""
    nodes: str = ""


@dataclass(frozen=True)
class StageStatus:
    """One stage."""

    stage: str
    elements: list[Element]
    step: int = 0
    of: int = 0
    unit: str = ""
    rate: float | None = None
    """Units per second."""
    eta_s: float | None = None
    attempt: int = 0
    """The newest attempt that it was part of."""

    def count(self, state: str) -> int:
        """Return how many elements are in a state."""
        return sum(element.state == state for element in self.elements)

    @property
    def state(self) -> str:
        """The state that tells most: failed, running, waiting, missing or done."""
        order = ("failed", "running", "waiting", "missing", "done")
        return next(state for state in order if self.count(state) or state == "done")


@dataclass(frozen=True)
class RunStatus:
    """One run."""

    run: str
    """Its folder."""
    recipe: str
    name: str
    created: str
    attempt: int
    where: str
    """"slurm", or "local"."""
    queue: str
    """Why the queue doesn't answer; empty: it does, or wasn't needed."""
    stages: list[StageStatus]
    holder: Holder | None = None
    """The process that runs a local run's stages."""
    loss: float | None = None
    validation_loss: float | None = None
    score: dict[str, float] = field(default_factory=dict)
    """step, em and f1 of the last checkpoint that was scored."""
    updated_at: float = 0.0
    """The newest heartbeat."""

    @property
    def state(self) -> str:
        """failed, running, waiting, stopped (nothing is on its way) or done."""
        states = [stage.state for stage in self.stages]
        for state in ("failed", "running", "waiting"):
            if state in states:
                return state
        return "stopped" if "missing" in states else "done"

    def to_json(self) -> dict[str, Any]:
        """Return what --json prints."""
        stages = []
        for stage in self.stages:
            facts = {name: value for name, value in vars(stage).items() if name != "elements"}
            facts["state"] = stage.state
            facts["elements"] = {state: stage.count(state) for state in STATES}
            facts["not_done"] = [vars(e) for e in stage.elements if e.state != "done"]
            stages.append(facts)
        own = {**vars(self), "holder": vars(self.holder) if self.holder else None}
        return {**own, "state": self.state, "stages": stages}


def collect(runs: Sequence[RunDir], stages: Sequence[str] = STAGES) -> list[RunStatus]:
    """Return how runs are, with one question to the queue for all of them."""
    queue = Queue()
    unfinished: list[JobName] = []
    for run in runs:
        if is_on_slurm(run):
            for stage in stages:
                jobs = jobs_of(run, stage)
                unfinished += [
                    jobs[element.index]
                    for element in read_elements(run, stage)
                    if not element.is_done and element.index in jobs
                ]
                if stage == "aggregate":
                    unfinished += aggregates_of(run)
    queue.ask(unfinished)
    return [_collect_run(run, stages, queue) for run in runs]


def _collect_run(run: RunDir, stages: Sequence[str], queue: Queue) -> RunStatus:
    facts = read_json(run.run_json)
    on_slurm = is_on_slurm(run)
    holder = None if on_slurm else launcher(run)
    found: list[StageStatus] = []
    seen = 0.0
    for stage in stages:
        disk = read_elements(run, stage)
        jobs = jobs_of(run, stage) if on_slurm else {}
        if on_slurm and stage == "aggregate":  # one that still lives counts before a newer one
            for name in aggregates_of(run):
                if _is_alive(queue, name):
                    jobs[0] = name
        ends = _Ends(run, stage, facts.get("cancelled", ()))
        follows_done = all(before.state == "done" for before in found)
        is_to_come = _is_to_come(run, facts.get("stages", ()), stage, found)
        elements = []
        for one in disk:
            if one.is_done:
                elements.append(Element(one.index, "done"))
            elif on_slurm:
                job = jobs.get(one.index)
                elements.append(_judge_slurm(one, job, queue, follows_done, is_to_come, ends))
            else:
                elements.append(_judge_local(one, holder, ends))
            seen = max(seen, float(one.heartbeat.get("updated_at") or 0))
        found.append(_with_progress(run, stage, elements, disk))
    loss, validation_loss = _losses(run)
    return RunStatus(
        run=str(run.root),
        recipe=str(facts.get("recipe", "")),
        name=str(facts.get("name", run.root.name)),
        created=str(facts.get("created", "")),
        attempt=int(facts.get("attempt", 0)),
        where="slurm" if on_slurm else "local",
        queue=queue.error if on_slurm else "",
        stages=found,
        holder=holder,
        loss=loss,
        validation_loss=validation_loss,
        score=_last_score(run),
        updated_at=seen,
    )


def _is_alive(queue: Queue, name: JobName) -> bool:
    job = queue.find(name)
    return job is not None and job.is_alive


class _Ends:
    """How jobs ended that didn't say so themselves; reads the logs of a few elements only, as
    those of a thousand would take too long."""

    def __init__(self, run: RunDir, stage: str, cancelled: Collection[int]) -> None:
        self._run, self._stage, self._cancelled = run, stage, cancelled
        self._left = _ERRORS

    @cached_property
    def begun(self) -> set[str]:
        """The jobs that began, by the names of their logs."""
        return begun_jobs(self._run)

    @cached_property
    def why_not_submitted(self) -> str:
        """Return why an element has no job."""
        if not is_cut_short(self._run):
            return "not submitted"
        if launcher(self._run):
            return "being submitted"
        return "not submitted, as its launch was killed; launch again for the rest"

    def end_of(self, element: int, name: JobName | None, job: QueuedJob | None) -> tuple[str, str]:
        """Return an ending as reasons.py has it, and the last lines of the element's logs."""
        if name and name[0] in self._cancelled:
            return "CANCELLED", ""
        words = ""
        if name and self._left:
            words = slurms_words(self._run, name)
        how = why_ended(job, words)
        if not self._left or how == "CANCELLED":
            return how, ""
        self._left -= 1
        return how, last_words(self._run, self._stage, element, name)


# ---- one element


def _is_to_come(
    run: RunDir, asked: Collection[str], stage: str, before: Sequence[StageStatus]
) -> bool:
    """Return whether training, which isn't over, will submit more of a stage."""
    if stage not in asked or stage not in ("evaluate", "aggregate") or not is_each_checkpoint(run):
        return False
    training = [one.state for one in before if one.stage == "train"]
    return training[-1:] in (["running"], ["waiting"])


def _judge_slurm(
    disk: OnDisk,
    name: JobName | None,
    queue: Queue,
    follows_done: bool,
    is_to_come: bool,
    ends: _Ends,
) -> Element:
    """Weigh what an element's heartbeat says against what the queue says of its job."""
    index, said = disk.index, disk.said
    if name is None:
        problem = disk.heartbeat.get("not_submitted", "")
        if is_to_come:
            again = f"couldn't be submitted yet ({problem}); tried again at the next checkpoint"
            return Element(index, "waiting", again if problem else _TO_COME)
        if problem:
            note = f"couldn't be submitted ({problem}); launch again"
        else:
            note = ends.why_not_submitted
        return Element(index, "missing", note)
    shown = str(name[0]) if name[1] is None else f"{name[0]}_{name[1]}"
    if queue.error:
        state = {"running": "running", "waiting": "waiting", "failed": "failed"}.get(
            said, "missing"
        )
        return Element(index, state, str(disk.heartbeat.get("error", "")), shown)
    job = queue.find(name)
    if job and job.is_alive and not is_running(job):
        return Element(index, "waiting", why_waiting(job), shown)
    if said == "failed":
        return Element(index, "failed", str(disk.heartbeat.get("error", "")), shown)
    if job and job.is_alive:
        is_ending = job.state == "COMPLETING"
        note = "ending" if is_ending else "" if said == "running" else "starting"
        return Element(index, "running", note, shown, job.nodes)
    if said == "stopped":
        by = disk.heartbeat.get("stopped_by")
        return Element(index, "missing", f"stopped in order ({by})" if by else "stopped", shown)
    if said == "done" and is_to_come:
        return Element(index, "waiting", _TO_COME, shown)
    if said == "done":
        step, of = disk.heartbeat.get("step"), disk.heartbeat.get("of")
        note = "what it made is gone" if step == of else f"it had only {step} of {of} to work on"
        return Element(index, "missing", note, shown)
    how, words = ends.end_of(index, name, job)
    has_begun = said == "running" or shown in ends.begun
    if how == "CANCELLED" and (has_begun or follows_done):
        return Element(index, "missing", "it was cancelled", shown)
    if not has_begun and not follows_done:
        return Element(index, "missing", "not run: the stage before it isn't done", shown)
    text = f"its job {shown} {_WITHOUT_A_WORD if has_begun else 'never started'}"
    text = ": ".join(filter(None, [text, explain_end(how)]))
    state = "failed" if has_begun else "missing"
    return Element(index, state, f"{text}\n{words}".strip(), shown)


def _judge_local(disk: OnDisk, holder: Holder | None, ends: _Ends) -> Element:
    """Weigh what an element's heartbeat says against the processes of this machine."""
    index, said = disk.index, disk.said
    if said == "failed":
        return Element(index, "failed", str(disk.heartbeat.get("error", "")))
    if said == "waiting" and holder:
        return Element(index, "waiting", "its turn comes")
    if said != "running":
        note = {"stopped": "stopped in order", "done": "what it made is gone", "": "not begun"}
        return Element(index, "missing", note.get(said, "its launch has ended"))
    updated_at = float(disk.heartbeat.get("updated_at") or 0)
    own = worker(disk) or holder
    if own and not own.is_here:
        age = max(0, round(time.time() - updated_at))
        return Element(index, "running", f"on {own.host}, last sign {age} s ago")
    if own and (own == holder or is_at_work(own, updated_at)):
        return Element(index, "running")
    _, words = ends.end_of(index, None, None)
    return Element(index, "failed", f"its process {_WITHOUT_A_WORD}\n{words}".strip())


# ---- a stage's progress


def _with_progress(
    run: RunDir, stage: str, elements: list[Element], disk: Sequence[OnDisk]
) -> StageStatus:
    beats = [one.heartbeat for one in disk if one.heartbeat.get("of")]
    step = sum(int(beat.get("step") or 0) for beat in beats)
    of = sum(int(beat["of"]) for beat in beats)
    running = [
        one.heartbeat
        for one, element in zip(disk, elements, strict=True)
        if element.state == "running" and one.heartbeat.get("of")
    ]
    rate = _rate(run, stage, running) if running else None
    eta = None
    if rate:
        left = sum(int(beat["of"]) - int(beat.get("step") or 0) for beat in running)
        others = sum(element.state == "waiting" for element in elements)
        eta = (left + others * of / len(beats)) / rate
    unit = next((str(beat["unit"]) for beat in beats if beat.get("unit")), "")
    attempts = [int(one.heartbeat.get("attempt") or 0) for one in disk]
    attempts += [one.attempt for one in read_submitted(run) if one.stage == stage]
    return StageStatus(stage, elements, step, of, unit, rate, eta, max(attempts, default=0))


def _rate(run: RunDir, stage: str, beats: Sequence[Mapping[str, Any]]) -> float | None:
    """Return how many units a second all running elements together do; None: can't be told."""
    if stage == "train":
        windows = _last_scalar(run, "speed/windows_per_s")
        per_step = read_setting(run.recipe, "batch_windows")
        return windows / int(per_step) if windows and per_step.isdigit() else None
    timed = [beat for beat in beats if beat.get("seconds") and beat.get("step")]
    if not timed or len(timed) < len(beats):
        return None
    return sum(float(beat["step"]) / float(beat["seconds"]) for beat in timed)


def _last_scalar(run: RunDir, name: str) -> float | None:
    """Return the newest value of a scalar; the file's end alone is read."""
    for line in reversed(last_lines(run.scalars, 200)):
        try:
            value = json.loads(line).get(name)
        except (ValueError, AttributeError):
            continue  # torn, or cut where reading began
        if isinstance(value, int | float):
            return float(value)
    return None


def _losses(run: RunDir) -> tuple[float | None, float | None]:
    return _last_scalar(run, "train/loss"), _last_scalar(run, "validation/loss")


def _last_score(run: RunDir) -> dict[str, float]:
    paths = sorted(run.scores.glob("step-*.json"))
    if not paths:
        return {}
    scores = read_json(paths[-1])
    figures = scores["scores"][scores["headline"]]
    return {"step": scores["step"], "em": figures["em"], "f1": figures["f1"]}
