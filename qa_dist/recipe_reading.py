"""Reading a recipe's or profile's values, whatever is wrong with them: a Reading collects both.

YAML is read as nodes only, no object is ever made from it: every value is text until its field
says what it is, so 1e-5 is a number and `no` a word or a truth as the field wants it. OmegaConf
turns text into the field's type. Knows nothing of ranges and relations (recipe.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml  # type: ignore[import-untyped,unused-ignore]
from omegaconf import BooleanNode, FloatNode, IntegerNode, StringNode
from omegaconf.errors import OmegaConfBaseException

from qa_dist.recipe_checks import show_value, text_fault
from qa_dist.recipe_fields import (
    Slot,
    did_you_mean,
    expected,
    find_slot,
    leaf_paths,
    plain_path,
    slot_path,
)
from qa_dist.records import InputError

MAX_FILE_BYTES = 1 << 16  # a recipe has 10-25 lines; this isn't one
_NODES: dict[type, Callable[[str], object]] = {
    float: FloatNode,
    int: IntegerNode,
    bool: BooleanNode,
    str: StringNode,
}
_BOOL_WORDS = ("true", "false", "yes", "no", "on", "off")
_NULL_WORDS = ("null", "none", "~")  # on the command line, for fields that aren't text
_KINDS = ("null", "bool", "int", "float", "str", "timestamp", "value", "merge", "seq", "map")
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in _KINDS}


@dataclass
class Reading:
    """What has been read so far: values by path, where each was said, and all that is wrong."""

    root: type
    source: str
    """The file's path, for messages."""
    values: dict[str, str | None] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    blamed: set[str] = field(default_factory=set)

    def give_up(self, sentence: str) -> None:
        """The file says nothing that can be used: what it should have set isn't missed as well."""
        self.problems.append(sentence)
        self.blamed |= {"sources", "model"}

    def is_about_blamed(self, sentence: str) -> bool:
        """Whether `sentence` (`key=...`) speaks of a key whose value was lost in an error."""
        key = sentence.partition("=")[0]
        return any(
            f"{key}.".startswith(f"{path}.")
            or ("." in path and re.search(rf"(?<![\w.]){re.escape(path)}(?![\w.]*\w)", sentence))
            for path in self.blamed
        )

    def blame(self, where: str, path: str, sentence: str) -> None:
        self.problems.append(f"{where}: {sentence}")
        self.blamed.add(path)


def put_value(reading: Reading, path: str, text: str, where: str, is_null: bool = False) -> None:
    """Put one value in its place if it suits its field, else say what was expected."""
    slot = find_slot(reading.root, path)
    given = f"{show_value(path)}={show_value(text)}"
    if slot is None:
        meant = did_you_mean(path, leaf_paths(reading.root))
        reading.blame(where, path, f"{given}: no such setting{meant}")
        reading.blamed |= set(re.findall('"(.+)"', meant))
        return
    elif slot.kind != "value":
        parts = [leaf for leaf in leaf_paths(reading.root) if leaf.startswith(slot_path(path))]
        wanted = f"expected its parts, one by one: {parts[0]}=..."
        reading.problems.append(f"{where}: {given}: {wanted}")
        return
    is_null = is_null or (slot.takes is not str and text.lower() in _NULL_WORDS)
    if fault := _value_fault(slot, text, is_null):
        reading.blame(where, path, f"{given}: {fault}")
    else:
        reading.values[path] = None if is_null else text
        reading.origins[path] = where


def _value_fault(slot: Slot, text: str, is_null: bool) -> str:
    """Return why `text` can't be the value of `slot`; "" if it can."""
    if is_null:
        return "" if slot.is_optional else f"expected {expected(slot)}"
    if fault := text_fault(text):
        return fault
    if "${" in text:
        return (
            "expected no ${...}: nothing is filled in here, as that would copy secrets of the"
            " environment into the run folder and mean another thing elsewhere; write it out"
        )
    # OmegaConf would read any whole number as true, and ??? as missing
    if text == "???" or (slot.takes is bool and text.lower() not in _BOOL_WORDS):
        return f"expected {expected(slot)}"
    try:
        _NODES[slot.takes](text)
    except OmegaConfBaseException:
        return f"expected {expected(slot)}"
    return ""


def parse_value(slot: Slot, text: str) -> bool | int | float | str | None:
    """Return the value that a text which put_value took stands for, in its field's type."""
    if slot.takes is not str and text.lower() in _NULL_WORDS:
        return None
    value = _NODES[slot.takes](text)._value()  # type: ignore[attr-defined]
    assert isinstance(value, bool | int | float | str)
    return value


def read_text(path: Path) -> str:
    """Return the text of a YAML file; raise InputError where it can't be one."""
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


def read_yaml(reading: Reading, text: str) -> None:
    """Put all values of a YAML text into `reading`, and all that isn't as it should be."""
    where = reading.source
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)  # nodes only: no object is ever made
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        hint = (
            "indent with spaces" if "\\t" in str(error.problem) else "expected lines `key: value`"
        )
        reading.give_up(f"{place}: isn't valid YAML: {error.problem}; {hint}")
        return
    except (yaml.YAMLError, RecursionError) as error:
        reading.give_up(f"{where}: isn't valid YAML: {show_value(error)}")
        return
    if root is None:
        reading.give_up(f"{where}: is empty; expected at least sources: and model:")
    elif not isinstance(root, yaml.MappingNode):
        reading.give_up(f"{where}: {_shown(root)}: expected lines `key: value`")
    else:
        _read_mapping(reading, root, "", {})


def _read_mapping(
    reading: Reading, node: yaml.MappingNode, prefix: str, seen: dict[str, int]
) -> None:
    for key_node, value in node.value:
        line = key_node.start_mark.line + 1
        path = prefix + plain_path(_node_text(key_node))
        if path in seen:
            sentence = f"is given twice (first in line {seen[path]}); keep one"
            where = f"{reading.source}:{line}"
            reading.blame(where, path, f"{show_value(path)}={_shown(value)}: {sentence}")
            continue
        seen[path] = line
        _read_node(reading, value, path, seen)


def _read_node(reading: Reading, node: yaml.Node, path: str, seen: dict[str, int]) -> None:
    slot = find_slot(reading.root, path)
    where = f"{reading.source}:{node.start_mark.line + 1}"
    given = f"{show_value(path)}={_shown(node)}"
    if node.tag not in _PLAIN_TAGS:
        tag = show_value(node.tag)
        reading.blame(where, path, f"{given}: expected no YAML tag ({tag}): values only")
    elif slot is None or (slot.kind == "value" and isinstance(node, yaml.ScalarNode)):
        put_value(reading, path, _node_text(node), where, is_null=_is_null(node))
    elif slot.kind == "value":
        reading.blame(where, path, f"{given}: expected {expected(slot)}")
    elif _is_null(node):
        pass  # a section with all its lines commented out
    elif slot.kind == "list" and isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _read_node(reading, item, f"{path}.{index}", seen)
    elif slot.kind != "list" and isinstance(node, yaml.MappingNode):
        _read_mapping(reading, node, f"{path}.", seen)
    else:
        wanted = "a list (lines `- task: ...`)" if slot.kind == "list" else "lines `key: value`"
        reading.blame(where, path, f"{given}: expected {wanted} below it")


def _node_text(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    return "[...]" if isinstance(node, yaml.SequenceNode) else "{...}"


def _shown(node: yaml.Node) -> str:
    return show_value(_node_text(node))


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")  # `null`, `~` or nothing, not quoted
