"""The settings of a dataclass by their full key: types, docstrings, and what a typo may have meant.

Knows the dataclasses' shape only (any frozen dataclass of sections, lists of sections and values);
what the values may be is recipe.py's business, and reading them recipe_loading.py's.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from qa_dist.recipe import Recipe
from qa_dist.recipe_checks import show_value

OTHER_NAMES = {
    "lr": "train.learning_rate",
    "history": "data.history_turns",
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


class Slot(NamedTuple):
    """Where a value goes: a field of a dataclass, and whether that is a section or a list."""

    owner: type
    name: str
    hint: Any
    kind: str
    """"value", "section", "list" or "table" (a dict of texts)."""

    @property
    def is_optional(self) -> bool:
        return type(None) in get_args(self.hint)

    @property
    def takes(self) -> type:
        """The type of its value, None aside."""
        kinds: tuple[type, ...] = get_args(self.hint) or (self.hint,)
        return next(kind for kind in kinds if kind is not type(None))


def describe_fields(root: type = Recipe) -> list[FieldDoc]:
    """Return every setting with its default and docstring, read from the dataclasses' source."""
    docs = []
    for path, slot in slots(root).items():
        if slot.kind in ("value", "table"):
            item = next(f for f in fields(slot.owner) if f.name == slot.name)
            default = "{}" if item.default is MISSING else show_value(item.default)
            doc = _docstrings(slot.owner).get(slot.name, "")
            docs.append(FieldDoc(path, str(item.type), default, doc))
    return docs


@cache
def slots(root: type, prefix: str = "") -> dict[str, Slot]:
    """Return every path below a dataclass; what is in a list goes by index 0."""
    found = {}
    hints = get_type_hints(root)
    for item in fields(root):
        path, hint = f"{prefix}{item.name}", hints[item.name]
        if isinstance(hint, type) and is_dataclass(hint):
            found[path] = Slot(root, item.name, hint, "section")
            found |= slots(hint, f"{path}.")
        elif get_origin(hint) is list:
            found[path] = Slot(root, item.name, hint, "list")
            found[f"{path}.0"] = Slot(root, item.name, get_args(hint)[0], "section")
            found |= slots(get_args(hint)[0], f"{path}.0.")
        else:
            kind = "table" if get_origin(hint) is dict else "value"
            found[path] = Slot(root, item.name, hint, kind)
    return found


def find_slot(root: type, path: str) -> Slot | None:
    """Return where the value of `path` goes; a table's texts go by `<table>.<any key>`."""
    found, table = slots(root).get(slot_path(path)), slots(root).get(path.partition(".")[0])
    if found is None and table is not None and table.kind == "table":
        return table._replace(kind="value")
    return found


def leaf_paths(root: type) -> list[str]:
    """Return the paths that take a value."""
    return [path for path, slot in slots(root).items() if slot.kind in ("value", "table")]


def plain_path(key: str) -> str:
    """Return `sources[0].train` as `sources.0.train`."""
    return re.sub(r"\[([0-9]{1,3})\]", r".\1", key)


def slot_path(path: str) -> str:
    """Return `sources.3.train` as `sources.0.train`, the key of slots."""
    return re.sub(r"^sources\.(0|[1-9][0-9]{0,2})(?=\.|$)", "sources.0", path)


@cache
def _docstrings(owner: type) -> dict[str, str]:
    """Return {field: the string under it}, from the source: only help and errors pay for this."""
    import ast
    import inspect

    (tree,) = ast.parse(inspect.getsource(owner)).body
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    lines = tree.body[1:]  # the first is the class's own docstring
    for above, below in pairwise(lines):
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name)
            docs[above.target.id] = " ".join(str(below.value.value).split())
    return docs


def expected(slot: Slot) -> str:
    """Return what `slot` takes, with its docstring: that has the unit."""
    text = _EXPECTED[slot.takes] + (" or null" if slot.is_optional else "")
    doc = _docstrings(slot.owner).get(slot.name)
    return f"{text} ({doc})" if doc else text


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """Return `; did you mean "train.learning_rate"?`, or a hint where nothing is like `key`."""
    candidates = list(known)
    best = _closest(key, candidates)
    if best:
        index = re.match(r"sources\.([0-9]{1,3})\.", plain_path(key))
        return f'; did you mean "{best.replace(".0.", f".{index[1]}.") if index else best}"?'
    if len(candidates) <= 10:
        return f"; there are {', '.join(candidates)}"
    return "; jobs/launch.py --help lists all of them"


def _closest(key: str, known: list[str]) -> str | None:
    plain = slot_path(plain_path(key.lstrip("-").replace("-", "_").lower()))[:100]
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
