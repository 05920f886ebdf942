"""From `train.learning_rate=1e-5,3e-5 seeds=1,2` to the runs of a sweep.

In: words of a command line. Out: each run with its values and its own recipe settings. All that is
wrong with the lists is said at once; what single values may be is recipe_loading.py's business.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

from qa_dist.recipe import Recipe
from qa_dist.recipe_checks import CHOICES, show_value
from qa_dist.recipe_fields import Slot, find_slot, plain_path
from qa_dist.recipe_loading import COMMAND_LINE, ProblemsError
from qa_dist.recipe_reading import Reading, parse_value, put_value
from qa_dist.sweep import SEED, Member, Value, run_name, show

MAX_RUNS = 256
"""Most runs of one launch: a list too many asks for thousands."""


def expand(
    name: str, seeds: str | None, overrides: Sequence[str]
) -> list[tuple[Member, list[str]]]:
    """Return a run for each combination of values, and its recipe settings; none if no setting has
    several values and no seeds are given.

    Raises ProblemsError with all that is wrong with the lists.
    """
    problems: list[str] = []
    lists: dict[str, list[tuple[str, Value]]] = {}
    fixed = []
    for word in overrides:
        key, _, text = word.partition("=")
        path = plain_path(key)
        slot = find_slot(Recipe, path)
        if path == SEED and seeds is not None:
            problems.append(f"{COMMAND_LINE}: seeds={show_value(seeds)}: {word} is given as well")
        elif slot is not None and slot.kind == "value" and _is_list(path, slot, text):
            lists[path] = _read_list(path, slot, text, f"{key}={text}", problems)
        else:
            fixed.append(word)
    if seeds is not None:
        slot = find_slot(Recipe, SEED)
        assert slot is not None
        lists[SEED] = _read_list(SEED, slot, seeds, f"seeds={seeds}", problems)
    if problems:
        raise ProblemsError(problems)
    count = math.prod(map(len, lists.values()))
    if count > MAX_RUNS:
        sizes = " x ".join(f"{len(values)} of {path}" for path, values in lists.items())
        sentence = f"{count:,} runs ({sizes}): expected at most {MAX_RUNS}; launch a part at a time"
        raise ProblemsError([f"{COMMAND_LINE}: {sentence}"])
    paths = sorted(lists, key=lambda path: (path == SEED, path))
    members = []
    for chosen in itertools.product(*(lists[path] for path in paths)) if paths else ():
        values = {path: value for path, (_, value) in zip(paths, chosen, strict=True)}
        own = [f"{path}={text}" for path, (text, _) in zip(paths, chosen, strict=True)]
        members.append((Member(run_name(name, values), values), [*fixed, *own]))
    return members


def _is_list(path: str, slot: Slot, text: str) -> bool:
    """Return whether a text holds several values.

    Paths of data may hold commas and are never split; nor is an encoder's folder that is there.
    """
    if "," not in text:
        return False
    if path == "model.name":
        try:
            return not Path(text).exists()
        except (OSError, ValueError):  # too long, or no path at all
            return True
    return slot.takes is not str or re.sub(r"\.\d+\.", ".", path) in {*CHOICES, "train.only"}


def _read_list(
    path: str, slot: Slot, text: str, shown: str, problems: list[str]
) -> list[tuple[str, Value]]:
    """Return (text, value) of each item; add what is wrong with them to `problems`."""
    found: dict[str, tuple[str, Value]] = {}
    shown = f"{COMMAND_LINE}: {show_value(shown)}"
    for item in (part.strip() for part in text.split(",")):
        if not item:
            problems.append(f"{shown}: expected a value on each side of each comma")
            break
        reading = Reading(Recipe, "")
        put_value(reading, path, item, COMMAND_LINE)
        problems += reading.problems
        if reading.problems:
            continue
        value = parse_value(slot, item)
        if show(value) in found:
            problems.append(f"{shown}: {show_value(item)} is there twice; keep one")
        found[show(value)] = item, value
    return list(found.values())
