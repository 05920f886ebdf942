"""From YAML files and `key=value` words to checked Recipes and Profiles, and back to YAML.

defaults (recipe.py) <- YAML <- command line. Every value is read as text and turned into its
field's type by OmegaConf, so 1e-5 is a number wherever it stands. All that is wrong is collected
and said in one InputError, a line each. Nothing is looked up, filled in or run: no resolvers, no
tags, no import paths.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml  # type: ignore[import-untyped,unused-ignore]

from qa_dist.profile import Profile, check_profile
from qa_dist.recipe import Recipe
from qa_dist.recipe_checks import check_recipe, show_value, text_fault
from qa_dist.recipe_fields import did_you_mean, find_slot, leaf_paths, plain_path, slot_path
from qa_dist.recipe_reading import Reading, parse_value, put_value, read_text, read_yaml
from qa_dist.records import InputError
from qa_dist.run_dir import check_name

COMMAND_LINE = "command line"
MAY_CHANGE = {
    "train.log_every_steps": "what is written down, not what is trained",
    "train.checkpoint_every_steps": "which steps are kept; saving draws no random numbers",
    "train.keep_checkpoints": "which steps are kept",
    "train.engine": "where weights and moments lie; checkpoints hold them whole",
    "sources.*.train": "the bytes count, not where they lie; the fingerprint covers them",
    "sources.*.dev": "the same",
    "data.num_shards": "the content of prepared data doesn't depend on it (design 6)",
    "evaluation.*": "evaluation reads checkpoints and never touches training",
}
"""What may differ between two attempts of a run, and why; _FIXED_BY_HEAD says what may not even so.

The rest would make the course so far another one than the recipe's. That holds for epochs and
max_steps too, since the learning rate falls to 0 at the last step; for micro_batch_tokens, which
decides what each dropout mask falls on; and for validation_windows, as losses of unlike sets can't
be compared and the best checkpoint is chosen by them.
"""
_FIXED_BY_HEAD = {"causal_lm": {"evaluation.max_new_tokens"}}
"""What may not change with a head: prepared prompts leave room for an answer of so many tokens."""

_T = TypeVar("_T")
_SOURCE_NUMBER = re.compile(r"(?<=^sources)\.[0-9]+\.")
_SOURCE = re.compile(r"sources\.[0-9]{1,3}(\.|$)")

# ---- the front doors


def load_recipe(path_or_name: str, overrides: Sequence[str], recipes_folder: Path) -> Recipe:
    """Return the checked recipe of a name in `recipes_folder` or of a path that ends in .yaml.

    Raises InputError with all that is wrong in the file, in `overrides` and in their relations.
    """
    path = _find_yaml(path_or_name, recipes_folder, "recipe")
    return _load(Recipe, path, overrides, check_recipe)


def load_profile(name: str, folder: Path, overrides: Sequence[str] = ()) -> Profile:
    """Return the checked profile of a name in `folder`, its `recipe_defaults` checked as well."""
    path = _find_yaml(name, folder, "profile")
    return _load(Profile, path, overrides, _check_whole_profile)


def load_saved_recipe(path: Path) -> Recipe:
    """Return the recipe that `recipe_to_yaml` wrote, checked again."""
    return recipe_from_yaml_text(read_text(path), str(path))


def recipe_from_yaml_text(text: str, where: str = "recipe.yaml") -> Recipe:
    """Return the recipe that YAML text holds, `name` included; `where` is what messages call it."""
    reading = Reading(Recipe, where)
    read_yaml(reading, text)
    return _build(Recipe, reading, check_recipe, default_name="")


def recipe_to_yaml(recipe: Recipe) -> str:
    """Return all settings as YAML, in the order of the dataclasses."""
    return _to_yaml(recipe)


def profile_to_yaml(profile: Profile) -> str:
    """Return all settings as YAML, in the order of the dataclass."""
    return _to_yaml(profile)


def list_recipes(folder: Path) -> list[tuple[str, str]]:
    """Return (name, first comment line) of each YAML file in `folder`; profiles work as well."""
    heads = []
    for path in sorted(folder.glob("*.yaml")):
        with path.open(encoding="utf-8", errors="replace") as stream:
            first = stream.readline(1000).strip()
        heads.append((path.stem, first.lstrip("# ") if first.startswith("#") else ""))
    return heads


def with_profile_defaults(overrides: Sequence[str], profile: Profile) -> list[str]:
    """Return `overrides` behind those of the profile's `recipe_defaults` that they don't set."""
    given = {plain_path(word.partition("=")[0]) for word in overrides}
    defaults = profile.recipe_defaults.items()
    return [*(f"{k}={v}" for k, v in defaults if plain_path(k) not in given), *overrides]


def split_arguments(
    words: Sequence[str], launch_keys: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """Return ({launch key: text}, [recipe overrides]) of `key=value` words; nothing is evaluated.

    Raises InputError with all words that aren't key=value, unknown keys and keys given twice.
    """
    launch: dict[str, str] = {}
    overrides: dict[str, str] = {}
    problems: list[str] = []
    known = [*launch_keys, *leaf_paths(Recipe)]
    rest = list(words)
    while rest:
        word = rest.pop(0)
        key, equals, value = word.partition("=")
        path, shown = plain_path(key), show_value(word)
        if not equals and slot_path(path) in known and rest and "=" not in rest[0]:
            value = rest.pop(0)
            pair = show_value(f"{word} {value}"), show_value(f"{word}={value}")
            problems.append(f"{pair[0]}: expected {pair[1]}")
        elif not equals:
            problems.append(f"{shown}: expected key=value")
        elif path in launch or path in overrides:
            problems.append(f"{shown}: {show_value(key)} is given twice; keep one")
        elif key in launch_keys:
            launch[key] = value
            if fault := text_fault(value) or ("" if value else "expected a value after the ="):
                problems.append(f"{shown}: {fault}")
        elif find_slot(Recipe, path):
            overrides[path] = word
        else:
            problems.append(f"{shown}: no such setting{did_you_mean(key, known)}")
    _raise_problems([f"{COMMAND_LINE}: {problem}" for problem in problems])
    return launch, list(overrides.values())


def recipe_difference(
    saved: Recipe, asked: Recipe, changeable: Collection[str] = frozenset(MAY_CHANGE)
) -> list[str]:
    """Return `key: saved -> asked` for each setting that may not change within a run."""
    old, new = _flat(asdict(saved)), _flat(asdict(asked))
    fixed = _FIXED_BY_HEAD.get(asked.model.head, set())
    lines = []
    for path in dict.fromkeys([*old, *new]):
        patterns = {path, f"{path.partition('.')[0]}.*", _SOURCE_NUMBER.sub(".*.", path)}
        may_change = path not in fixed and not patterns.isdisjoint(changeable)
        before, after = old.get(path, "(none)"), new.get(path, "(none)")
        if before != after and not may_change:
            lines.append(f"{path}: {before} -> {after}")
    return lines


def _flat(settings: Any, prefix: str = "") -> dict[str, str]:
    """Return {path: value as a message shows it} of nested dicts and lists."""
    if isinstance(settings, dict | list):
        items = settings.items() if isinstance(settings, dict) else enumerate(settings)
        parts = [_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in items]
        return {path: value for part in parts for path, value in part.items()}
    # repr tells null from "null", and no two floats look alike
    return {prefix: "null" if settings is None else repr(settings)}


# ---- files


def _find_yaml(path_or_name: str, folder: Path, what: str) -> Path:
    if path_or_name.endswith((".yaml", ".yml")) and not text_fault(path_or_name):
        return Path(path_or_name)
    known = [path.stem for path in sorted(folder.glob("*.yaml"))]
    if "," in path_or_name and what == "recipe":
        raise InputError(
            f"recipe={show_value(path_or_name)}: expected one recipe; a list may be given for a "
            "setting (model.head=span,span_crf model.name=...,...), or launch each and compare "
            "them: python jobs/report.py compare RUN RUN"
        )
    check_name(path_or_name, what)
    if path_or_name not in known:
        close = difflib.get_close_matches(path_or_name, known, n=1)
        meant = f'did you mean "{close[0]}"? ' if close else ""
        raise InputError(
            f"{what}={path_or_name}: there is none of that name in {folder}; {meant}"
            f"{what}s: {', '.join(known) or 'none'} (or give a path that ends in .yaml)"
        )
    return folder / f"{path_or_name}.yaml"


def _to_yaml(settings: Recipe | Profile) -> str:
    text = yaml.safe_dump(asdict(settings), sort_keys=False, allow_unicode=True, width=10_000)
    return str(text)


# ---- values


def _load(
    root: type[_T], path: Path, overrides: Sequence[str], check: Callable[[_T], list[str]]
) -> _T:
    reading = Reading(root, str(path))
    try:
        read_yaml(reading, read_text(path))
    except InputError as error:
        reading.give_up(str(error))
    seen: set[str] = set()
    for word in overrides:
        key, equals, value = word.partition("=")
        plain = plain_path(key)
        if not equals or plain in seen:
            wrong = "is given twice; keep one" if equals else "expected key=value"
            reading.problems.append(f"{COMMAND_LINE}: {show_value(word)}: {wrong}")
            continue
        seen.add(plain)
        put_value(reading, plain, value, COMMAND_LINE)
    return _build(root, reading, check, default_name=path.stem)


def _build(
    root: type[_T], reading: Reading, check: Callable[[_T], list[str]], default_name: str
) -> _T:
    """Return the dataclass of all values read; raise InputError with all that is wrong."""
    texts = {"name": default_name, **reading.values}
    values = {path: _value(root, path, text) for path, text in texts.items()}
    num_sources = _count_sources(reading)
    nested: dict[str, Any] = {}
    for path, value in values.items():
        section, _, name = path.partition(".")
        if not name:
            nested[path] = value
        elif section != "sources":
            nested.setdefault(section, {})[name] = value
    for index in range(num_sources):
        head = f"sources.{index}."
        source = {p.removeprefix(head): v for p, v in values.items() if p.startswith(head)}
        nested.setdefault("sources", []).append(source)
    settings = _make(root, nested)
    problems = list(reading.problems)
    try:
        check_name(str(values["name"]), "name")
    except InputError as error:
        problems.append(f"{reading.source}: {error}")
    for sentence in check(settings):
        if not reading.is_about_blamed(sentence):
            where = reading.origins.get(sentence.partition("=")[0], reading.source)
            problems.append(f"{where}: {sentence}")
    _raise_problems(problems)
    return settings


def _value(root: type, path: str, text: str | None) -> bool | int | float | str | None:
    slot = find_slot(root, path)
    assert slot is not None
    return None if text is None else parse_value(slot, text)


def _make(root: type[_T], values: Mapping[str, Any]) -> _T:
    """Return the dataclass of these values, a section's in a mapping of their own.

    Not OmegaConf.structured and merge: they take 20 ms to do the same with nodes between.
    """
    made = dict(values)
    for name, value in values.items():
        slot = find_slot(root, name)
        assert slot is not None
        if slot.kind == "section":
            made[name] = _make(slot.hint, value)
        elif slot.kind == "list":
            (of_item,) = get_args(slot.hint)
            made[name] = [_make(of_item, item) for item in value]
    return root(**made)


def _count_sources(reading: Reading) -> int:
    """Return how many sources are numbered from 0 without a gap; blame those after a gap."""
    found = {int(p.split(".")[1]) for p in {*reading.values, *reading.blamed} if _SOURCE.match(p)}
    count = next(index for index in range(len(found) + 1) if index not in found)
    for index in sorted(found - set(range(count))):
        sentence = f"sources.{index}: expected sources.{count} first; number them from 0"
        reading.blame(reading.source, f"sources.{index}", sentence)
    return count


def _check_whole_profile(profile: Profile) -> list[str]:
    reading = Reading(Recipe, "")
    for key, value in profile.recipe_defaults.items():
        put_value(reading, plain_path(key), value, "recipe_defaults")
    return [*check_profile(profile), *reading.problems]


class ProblemsError(InputError):
    """Some things are wrong in what was asked for, and nothing was started."""

    def __init__(self, problems: Sequence[str]) -> None:
        count = "one thing is" if len(problems) == 1 else f"{len(problems)} things are"
        lines = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"{count} wrong in what was asked for; nothing was started:{lines}")
        self.problems = problems
        """A sentence for each."""


def _raise_problems(problems: list[str]) -> None:
    if problems:
        raise ProblemsError(problems)
