"""From YAML files and `key=value` words to checked Recipes and Profiles, and back to YAML.

defaults (recipe.py) <- YAML <- command line. Every value is read as text and turned into its
field's type by OmegaConf, so 1e-5 is a number wherever it stands. All that is wrong is collected
and said in one InputError, a line each. Nothing is looked up, filled in or run: no resolvers, no
tags, no import paths.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import yaml  # type: ignore[import-untyped,unused-ignore]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qa_dist.recipe import Profile, Recipe, check_profile, check_recipe, show_value, text_fault
from qa_dist.records import InputError
from qa_dist.run_dir import check_name

COMMAND_LINE = "command line"
MAX_FILE_BYTES = 1 << 16  # a recipe has 10-25 lines; this isn't one

MAY_CHANGE = {
    "train.log_every_steps": "what is written down, not what is trained",
    "train.checkpoint_every_steps": "which steps are kept; saving draws no random numbers",
    "train.keep_checkpoints": "which steps are kept",
    "data.num_shards": "the content of prepared data doesn't depend on it (design 6)",
    "evaluation.*": "evaluation reads checkpoints and never touches training",
}
"""What may differ between two attempts of a run, and why.

The rest would make the course so far another one than the recipe's. That holds for epochs and
max_steps too, since the learning rate falls to 0 at the last step; for micro_batch_tokens, which
decides what each dropout mask falls on; and for validation_windows, as losses of unlike sets can't
be compared and the best checkpoint is chosen by them.
"""

OTHER_NAMES = {
    "lr": "train.learning_rate",
    "batch_size": "train.batch_windows",
    "per_device_train_batch_size": "train.batch_windows",
    "num_train_epochs": "train.epochs",
    "warmup_ratio": "train.warmup_fraction",
    "max_grad_norm": "train.clip_norm",
    "save_steps": "train.checkpoint_every_steps",
    "logging_steps": "train.log_every_steps",
    "save_total_limit": "train.keep_checkpoints",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "doc_stride": "data.window_overlap_tokens",
    "max_seq_length": "data.max_length_tokens",
    "max_query_length": "data.max_question_tokens",
    "max_answer_length": "evaluation.max_answer_tokens",
    "n_best_size": "evaluation.n_best",
    "encoder": "model.name",
    "model_name_or_path": "model.name",
    "do_lower_case": "model.lower_case",
    "dropout": "model.hidden_dropout",
    "train_file": "sources.0.train",
    "validation_file": "sources.0.dev",
}
"""What other suites call our settings, for "did you mean"."""

_T = TypeVar("_T")
_BOOL_WORDS = ("true", "false", "yes", "no", "on", "off")
_EXPECTED = {
    float: "a number such as 3e-5",
    int: "a whole number such as 4",
    bool: "true or false",
    str: "text",
}


class FieldDoc(NamedTuple):
    """One setting, for --help."""

    path: str
    type: str
    default: str
    doc: str


class _Slot(NamedTuple):
    """Where a value goes: a field of a dataclass, and whether that is a section or a list."""

    owner: type
    name: str
    hint: Any
    kind: str  # "value", "section", "list" or "table" (a dict of texts)


@dataclass
class _Reading:
    """What has been read so far: values by path, where each was said, and all that is wrong."""

    root: type
    values: dict[str, str | None] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    blamed: set[str] = field(default_factory=set)

    def blame(self, where: str, path: str, sentence: str) -> None:
        self.problems.append(f"{where}: {sentence}")
        self.blamed.add(path)


# ---- the front doors


def load_recipe(path_or_name: str, overrides: Sequence[str], recipes_folder: Path) -> Recipe:
    """Return the checked recipe of a name in `recipes_folder` or of a path that ends in .yaml.

    Raises InputError with all that is wrong in the file, in `overrides` and in their relations.
    """
    path = _find_yaml(path_or_name, recipes_folder, "recipe")
    return _load(Recipe, path, overrides, check_recipe, f"recipe {show_value(path_or_name)}")


def load_profile(name: str, folder: Path, overrides: Sequence[str] = ()) -> Profile:
    """Return the checked profile of a name in `folder`, its `recipe_defaults` checked as well."""
    path = _find_yaml(name, folder, "profile")
    return _load(Profile, path, overrides, _check_whole_profile, f"profile {show_value(name)}")


def load_saved_recipe(path: Path) -> Recipe:
    """Return the recipe that `recipe_to_yaml` wrote, checked again."""
    return recipe_from_yaml_text(_read_text(path), str(path))


def recipe_from_yaml_text(text: str, where: str = "recipe.yaml") -> Recipe:
    """Return the recipe that YAML text holds, `name` included; `where` is what messages call it."""
    reading = _Reading(Recipe)
    _read_yaml(reading, text, where)
    return _build(Recipe, reading, check_recipe, where, default_name="")


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
    given = {_plain_path(word.partition("=")[0]) for word in overrides}
    defaults = profile.recipe_defaults.items()
    return [*(f"{k}={v}" for k, v in defaults if _plain_path(k) not in given), *overrides]


def split_arguments(
    words: Sequence[str], launch_keys: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """Return ({launch key: text}, [recipe overrides]) of `key=value` words; nothing is evaluated.

    Raises InputError with all words that aren't key=value, unknown keys and keys given twice.
    """
    launch: dict[str, str] = {}
    overrides: dict[str, str] = {}
    problems: list[str] = []
    known = [*launch_keys, *_leaf_paths(Recipe)]
    rest = list(words)
    while rest:
        word = rest.pop(0)
        key, equals, value = word.partition("=")
        path = _plain_path(key)
        if not equals:
            example = f"{key}=..."
            if rest and "=" not in rest[0] and _slot_path(path) in known:
                example = f"{key}={show_value(rest[0])}"
                word += " " + rest.pop(0)
            problems.append(f"{show_value(word)}: expected key=value, such as {_example(example)}")
        elif path in launch or path in overrides:
            problems.append(f"{show_value(word)}: {show_value(key)} is given twice; keep one")
        elif key in launch_keys:
            launch[key] = value
            if fault := text_fault(value) or ("" if value else "expected a value after the ="):
                problems.append(f"{show_value(word)}: {fault}")
        elif _slot_path(path) in _slots(Recipe):
            overrides[path] = word
        else:
            problems.append(f"{show_value(word)}: no such setting{_did_you_mean(key, known)}")
    _raise_problems("command line", problems)
    return launch, list(overrides.values())


def recipe_difference(saved: Recipe, asked: Recipe) -> list[str]:
    """Return `key: saved -> asked` for each setting that may not change within a run."""
    old, new = _flat(asdict(saved)), _flat(asdict(asked))
    lines = []
    for path in dict.fromkeys([*old, *new]):
        allowed = path in MAY_CHANGE or f"{path.partition('.')[0]}.*" in MAY_CHANGE
        if old.get(path, MISSING) != new.get(path, MISSING) and not allowed:
            shown = [show_value(side[path]) if path in side else "(none)" for side in (old, new)]
            lines.append(f"{path}: {shown[0] or '(empty)'} -> {shown[1] or '(empty)'}")
    return lines


def describe_fields(root: type = Recipe) -> list[FieldDoc]:
    """Return every setting with its default and docstring, read from the dataclasses' source."""
    docs = []
    for path, slot in _slots(root).items():
        if slot.kind in ("value", "table"):
            item = next(f for f in fields(slot.owner) if f.name == slot.name)
            default = "{}" if item.default is MISSING else show_value(item.default)
            doc = _docstrings(slot.owner).get(slot.name, "")
            docs.append(FieldDoc(path, str(item.type), default, doc))
    return docs


# ---- the fields, by path


@cache
def _slots(root: type, prefix: str = "") -> dict[str, _Slot]:
    """Return every path below a dataclass; what is in a list goes by index 0."""
    slots = {}
    hints = get_type_hints(root)
    for item in fields(root):
        path, hint = f"{prefix}{item.name}", hints[item.name]
        if is_dataclass(hint):
            slots[path] = _Slot(root, item.name, hint, "section")
            slots |= _slots(hint, f"{path}.")
        elif get_origin(hint) is list:
            slots[path] = _Slot(root, item.name, hint, "list")
            slots[f"{path}.0"] = _Slot(root, item.name, get_args(hint)[0], "section")
            slots |= _slots(get_args(hint)[0], f"{path}.0.")
        else:
            kind = "table" if get_origin(hint) is dict else "value"
            slots[path] = _Slot(root, item.name, hint, kind)
    return slots


def _leaf_paths(root: type) -> list[str]:
    return [path for path, slot in _slots(root).items() if slot.kind in ("value", "table")]


def _plain_path(key: str) -> str:
    """Return `sources[0].train` as `sources.0.train`."""
    return re.sub(r"\[([0-9]{1,3})\]", r".\1", key)


def _slot_path(path: str) -> str:
    """Return `sources.3.train` as `sources.0.train`, the key of _slots."""
    return re.sub(r"^sources\.(0|[1-9][0-9]{0,2})(?=\.|$)", "sources.0", path)


@cache
def _docstrings(owner: type) -> dict[str, str]:
    """Return {field: the string under it}, from the source: only help and errors pay for this."""
    import ast
    import inspect

    (tree,) = ast.parse(inspect.getsource(owner)).body
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for above, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name):  # noqa: SIM102
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                docs[above.target.id] = " ".join(str(below.value.value).split())
    return docs


def _did_you_mean(key: str, known: Iterable[str]) -> str:
    """Return `; did you mean "train.learning_rate"?`, or a hint where nothing is like `key`."""
    best = _closest(key, list(known))
    return f'; did you mean "{best}"?' if best else "; jobs/launch.py --help lists all of them"


def _closest(key: str, known: list[str]) -> str | None:
    plain = _slot_path(_plain_path(key.lstrip("-").replace("-", "_").lower()))[:100]
    section, _, last = plain.rpartition(".")
    if OTHER_NAMES.get(last) in known:
        return OTHER_NAMES[last]

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, plain, candidate).ratio()
        if section and not candidate.startswith(f"{section}."):
            return whole
        # no section was given, or the right one: the field's own name decides
        last_part = candidate.rpartition(".")[2]
        return max(whole, difflib.SequenceMatcher(None, last, last_part).ratio())

    best = max(known, key=likeness, default="")
    return best if best and likeness(best) >= 0.6 else None


# ---- files


def _find_yaml(path_or_name: str, folder: Path, what: str) -> Path:
    if path_or_name.endswith((".yaml", ".yml")) and not text_fault(path_or_name):
        return Path(path_or_name)
    known = [path.stem for path in sorted(folder.glob("*.yaml"))]
    check_name(path_or_name, what)
    if path_or_name not in known:
        close = difflib.get_close_matches(path_or_name, known, n=1)
        meant = f'did you mean "{close[0]}"? ' if close else ""
        raise InputError(
            f"{what}={path_or_name}: there is none of that name in {folder}; {meant}"
            f"{what}s: {', '.join(known) or 'none'} (or give a path that ends in .yaml)"
        )
    return folder / f"{path_or_name}.yaml"


def _read_text(path: Path) -> str:
    try:
        if path.is_file() and path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path}: has over {MAX_FILE_BYTES} bytes; expected a short YAML file")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: isn't UTF-8 (byte {error.object[error.start]:#04x} at offset {error.start});"
            " save it as UTF-8"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); check the path") from None


def _read_yaml(reading: _Reading, text: str, where: str) -> None:
    """Put all values of a YAML text into `reading`, and all that isn't as it should be."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)  # nodes only: no object is ever made
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        hint = "indent with spaces" if "\\t" in str(error.problem) else "expected lines `key: value`"
        reading.problems.append(f"{place}: isn't valid YAML: {error.problem}; {hint}")
        return
    except (yaml.YAMLError, RecursionError) as error:
        reading.problems.append(f"{where}: isn't valid YAML: {show_value(error)}")
        return
    if root is None:
        reading.problems.append(f"{where}: is empty; expected at least sources: and model:")
    elif not isinstance(root, yaml.MappingNode):
        reading.problems.append(f"{where}: {_node_text(root)}: expected lines `key: value`")
    else:
        _read_mapping(reading, root, "", where, {})


def _read_mapping(
    reading: _Reading, node: yaml.MappingNode, prefix: str, where: str, seen: dict[str, int]
) -> None:
    for key_node, value in node.value:
        line = key_node.start_mark.line + 1
        path = prefix + _plain_path(str(key_node.value))
        if path in seen:
            sentence = f"is given twice (first in line {seen[path]}); keep one"
            reading.blame(f"{where}:{line}", path, f"{show_value(path)}: {sentence}")
            continue
        seen[path] = line
        _read_node(reading, value, path, where, seen)


def _read_node(
    reading: _Reading, node: yaml.Node, path: str, where: str, seen: dict[str, int]
) -> None:
    slot = _slots(reading.root).get(_slot_path(path))
    place = f"{where}:{node.start_mark.line + 1}"
    scalar = isinstance(node, yaml.ScalarNode)
    given = f"{show_value(path)}={_node_text(node)}"
    if not str(node.tag).startswith("tag:yaml.org,2002:") or "python" in node.tag:
        reading.blame(place, path, f"{given}: expected no YAML tag ({show_value(node.tag)})")
    elif slot is None or slot.kind == "value":
        if slot is None or scalar:
            _put(reading, path, _node_text(node), place, scalar and _is_null(node))
        else:
            reading.blame(place, path, f"{given}: expected {_expected(slot)}")
    elif scalar and _is_null(node):
        pass  # a section with all its lines commented out
    elif slot.kind == "list" and isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _read_node(reading, item, f"{path}.{index}", where, seen)
    elif slot.kind == "section" and isinstance(node, yaml.MappingNode):
        _read_mapping(reading, node, f"{path}.", where, seen)
    elif slot.kind == "table" and isinstance(node, yaml.MappingNode):
        for key, item in node.value:
            _put(reading, f"{path}.{key.value}", _node_text(item), place, False)
    else:
        wanted = "a list (lines `- task: ...`)" if slot.kind == "list" else "lines `key: value`"
        reading.blame(place, path, f"{given}: expected {wanted} below it")


def _node_text(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    return "[...]" if isinstance(node, yaml.SequenceNode) else "{...}"


def _is_null(node: yaml.ScalarNode) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")  # `null`, `~` or nothing, not quoted


def _to_yaml(settings: Recipe | Profile) -> str:
    text = yaml.safe_dump(asdict(settings), sort_keys=False, allow_unicode=True, width=10_000)
    return str(text)


# ---- values


def _load(
    root: type[_T], path: Path, overrides: Sequence[str], check: Callable[[_T], list[str]], title: str
) -> _T:
    reading = _Reading(root)
    _read_yaml(reading, _read_text(path), str(path))
    seen: set[str] = set()
    for word in overrides:
        key, equals, value = word.partition("=")
        plain = _plain_path(key)
        if not equals or plain in seen:
            wrong = "is given twice; keep one" if equals else "expected key=value"
            reading.problems.append(f"{COMMAND_LINE}: {show_value(word)}: {wrong}")
            continue
        seen.add(plain)
        _put(reading, plain, value, COMMAND_LINE, False)
    return _build(root, reading, check, title, default_name=path.stem)


def _put(reading: _Reading, path: str, text: str, where: str, is_null: bool) -> None:
    """Put one value in its place if it suits its field, else say what was expected."""
    slots, table = _slots(reading.root), path.partition(".")[0]
    slot = slots.get(_slot_path(path))
    given = f"{show_value(path)}={show_value(text)}"
    if slot is None and table in slots and slots[table].kind == "table":
        slot = slots[table]._replace(hint=str, kind="value")
    if slot is None:
        meant = _did_you_mean(path, _leaf_paths(reading.root))
        reading.blame(where, path, f"{given}: no such setting{meant}")
        reading.blamed.add(meant.partition('"')[2].partition('"')[0])
    elif slot.kind != "value":
        parts = [leaf for leaf in slots if leaf.startswith(f"{_slot_path(path)}.")]
        reading.blame(where, path, f"{given}: expected its parts one by one, as {parts[-1]}=...")
    elif fault := _value_fault(slot, text, is_null):
        reading.blame(where, path, f"{given}: {fault}")
    else:
        null = is_null or (not _is_text(slot) and text.lower() in ("null", "none", "~"))
        reading.values[path] = None if null else text
        reading.origins[path] = where


def _value_fault(slot: _Slot, text: str, is_null: bool) -> str:
    """Return why `text` can't be the value of `slot`; "" if it can."""
    if fault := text_fault(text):
        return fault
    if "${" in text:
        return (
            "expected no ${...}: nothing is filled in here, as that would copy secrets of the"
            " environment into the run folder and mean another thing elsewhere; write it out"
        )
    if text == "???":
        return f"expected {_expected(slot)}"
    if is_null or (not _is_text(slot) and text.lower() in ("null", "none", "~")):
        return "" if type(None) in get_args(slot.hint) else f"expected {_expected(slot)}"
    if bool in (slot.hint, *get_args(slot.hint)) and text.lower() not in _BOOL_WORDS:
        return f"expected {_expected(slot)}"  # OmegaConf would read any whole number as true
    if is_dataclass(slot.owner) and slot.name in {f.name for f in fields(slot.owner)}:
        try:
            value = {} if get_origin(slot.hint) is dict else text
            OmegaConf.merge(OmegaConf.structured(slot.owner), {slot.name: value})
        except OmegaConfBaseException:
            return f"expected {_expected(slot)}"
    return ""
