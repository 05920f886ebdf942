"""Curves: one JSON line per step in scalars.jsonl, and the same points as TensorBoard events.

scalars.jsonl and scores/*.json are the truth, TensorBoard is a view that can be rebuilt from them.
A run that goes on from step s forgets what an earlier attempt wrote beyond s, in both: afterwards
scalars.jsonl equals that of a run that was never interrupted. The order of TensorBoard's files is
that of their names, which only grow: a clock that was set back does no harm. No torch here.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from qa_dist import files

TRAIN = "train"
SCORES = "scores"
HPARAMS = "hparams"
_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d{10,})\..*")


class ScalarWriter:
    """Append scalars to `scalars_path` and to TensorBoard's run "train" under `tensorboard_folder`.

    `resume_step` is the step of the checkpoint that training goes on from: later points of earlier
    attempts are dropped. None or 0: the run starts from the beginning, and all of them are.
    """

    def __init__(
        self, tensorboard_folder: Path, scalars_path: Path, resume_step: int | None = None
    ) -> None:
        last_step = resume_step or 0
        scalars_path.parent.mkdir(parents=True, exist_ok=True)
        _drop_lines_after(scalars_path, last_step)
        self._lines = scalars_path.open("a", encoding="utf-8")
        self._events = _EventFile(tensorboard_folder / TRAIN, first_step=last_step + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write one point per name; NaN and infinities become null in JSON, NaN in TensorBoard."""
        if "step" in scalars:
            raise ValueError("a scalar can't be called \"step\": that is the line's own key")
        values = {name: _finite_or_none(value) for name, value in scalars.items()}
        self._lines.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._lines.flush()
        self._events.write(step, values)

    def close(self) -> None:
        self._lines.close()
        self._events.close()

    def __enter__(self) -> ScalarWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_scalars(scalars_path: Path) -> list[dict[str, Any]]:
    """Return the lines of scalars.jsonl as {"step": ..., name: value or None}; none if not there.

    A line that can't be read was torn by a crash, and is left out.
    """
    return [line for _, line in _read_lines(scalars_path)]


def rebuild_tensorboard(tensorboard_folder: Path, scalars_path: Path) -> None:
    """Write TensorBoard's run "train" anew from scalars.jsonl; wall times become now."""
    points = [
        (line["step"], {name: value for name, value in line.items() if name != "step"})
        for line in read_scalars(scalars_path)
    ]
    _write_events_anew(tensorboard_folder / TRAIN, points)


def write_scores(
    tensorboard_folder: Path, scores: Mapping[int, Mapping[str, float | None]]
) -> None:
    """Write TensorBoard's run "scores" anew from `scores` (step -> name -> value).

    Doing it twice leaves one point per step, since what was there before is replaced.
    """
    _write_events_anew(tensorboard_folder / SCORES, sorted(scores.items()))


def write_hparams(
    tensorboard_folder: Path,
    settings: Mapping[str, bool | float | str],
    step: int,
    results: Mapping[str, float | None],
) -> None:
    """Write TensorBoard's run "hparams" anew: a row of the tab HParams, `results` its metrics.

    Doing it twice leaves one row, since what was there before is replaced.
    """
    _write_events_anew(tensorboard_folder / HPARAMS, [(step, results)], settings)


def _finite_or_none(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _read_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Return the raw and parsed lines that were written whole."""
    try:
        raw_lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    lines = []
    for raw in raw_lines:
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        # A torn number may still parse ("12" of "123"), so the newline has to be there as well.
        if raw.endswith(b"\n") and isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append((raw, line))
    return lines


def _drop_lines_after(path: Path, last_step: int) -> None:
    """Rewrite `path` without torn lines and lines beyond `last_step`, keeping the rest's bytes.

    The new file takes the old one's name: an earlier attempt that still lives writes to the old.
    """
    if not path.exists():
        return
    kept = b"".join(raw for raw, line in _read_lines(path) if line["step"] <= last_step)
    with files.replaced_file(path) as temporary:
        temporary.write_bytes(kept)


def _write_events_anew(
    folder: Path,
    points: Iterable[tuple[int, Mapping[str, float | None]]],
    settings: Mapping[str, bool | float | str] | None = None,
) -> None:
    """Replace all event files of `folder` by one with `points`.

    The new file sorts last and begins by purging everything, so that a crash before the old ones
    are deleted, and a TensorBoard that watches meanwhile, show no point twice.
    """
    old_paths = _event_files(folder)
    events = _EventFile(folder, first_step=0, is_hidden=True)
    if settings:
        events.write_settings(settings)
    for step, values in points:
        events.write(step, values)
    events.close()
    for path in old_paths:
        path.unlink(missing_ok=True)


def _event_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _EVENT_FILE.fullmatch(path.name))


class _EventFile:
    """One new event file in `folder`, whose name sorts after those that are there.

    Its first event tells TensorBoard to forget, of this folder, all points from `first_step` on.
    Events are written at once, without TensorBoard's queue and thread: a kill loses none. With
    `is_hidden` TensorBoard doesn't see the file before close().
    """

    def __init__(self, folder: Path, first_step: int, is_hidden: bool = False) -> None:
        # Half a second of imports, which whoever only reads scalars.jsonl doesn't pay.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        last = max((_seconds_of(path) for path in _event_files(folder)), default=0)
        seconds = max(int(time.time()), last + 1)
        host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())
        self._path = folder / f"events.out.tfevents.{seconds:010d}.{host}.{os.getpid()}"
        self._open_path = folder / f".new.{os.getpid()}.tmp" if is_hidden else self._path
        self._stream: IO[bytes] = self._open_path.open("wb")
        self._records = RecordWriter(self._stream)
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))
        self._stream.flush()

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Write one point per name; None is drawn as NaN: a mark in the chart, not a gap."""
        points = [
            self._summary.Value(tag=name, simple_value=math.nan if value is None else value)
            for name, value in values.items()
        ]
        self._write(step=step, summary=self._summary(value=points))
        self._stream.flush()

    def write_settings(self, settings: Mapping[str, bool | float | str]) -> None:
        """Write what the plugin HParams takes for a session that has ended, whatever its figures
        are."""
        from tensorboard.plugins.hparams import api_pb2, metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import (
            HParamsPluginData,
            SessionEndInfo,
            SessionStartInfo,
        )

        start = SessionStartInfo(start_time_secs=time.time())
        for name, value in settings.items():
            if isinstance(value, bool):
                start.hparams[name].bool_value = value
            elif isinstance(value, str):
                start.hparams[name].string_value = value
            else:
                start.hparams[name].number_value = value
        end = SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
        for tag, data in (
            (metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start)),
            (metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end)),
        ):
            value = self._summary.Value(
                tag=tag,
                metadata=metadata.create_summary_metadata(data),
                tensor=metadata.NULL_TENSOR,
            )
            self._write(step=0, summary=self._summary(value=[value]))

    def close(self) -> None:
        self._stream.close()
        if self._open_path != self._path:
            self._open_path.replace(self._path)

    def _write(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())


def _seconds_of(path: Path) -> int:
    match = _EVENT_FILE.fullmatch(path.name)
    return int(match[1]) if match else 0
