"""Official EM and F1 of a predictions file, as the scripts of SQuAD 1.1, SQuAD 2.0 and CoQA report.

In: key=value arguments that name files in the official formats. Out: the report as JSON on stdout;
questions and predictions that don't match are warned of on stderr. Wrong arguments or files: one
line each on stderr, exit status 2. Starts at once: no torch, transformers or omegaconf behind it.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a bare checkout

from qa_dist.records import InputError
from qa_dist.text import metrics

USAGE = """\
usage: python jobs/score.py task=TASK data=FILE predictions=FILE [key=value ...]

  task            squad_v1, squad_v2 or coqa
  data            the official data file (JSON)
  predictions     SQuAD: {question id: text}; CoQA: [{"id": ..., "turn_id": ..., "answer": ...}]
  null_scores     squad_v2: {question id: number}, the higher, the less the answer is believed in
  null_threshold  squad_v2: above it a question counts as not answered; default 1.0
  rounded         coqa: true (to 0.1 as in the official report, default) or false
  human           coqa: true scores the references instead of predictions; default false

example: python jobs/score.py task=squad_v2 data=dev-v2.0.json predictions=predictions.json
"""
TASKS = ("squad_v1", "squad_v2", "coqa")
SWITCH = {"true": True, "false": False}.__getitem__
KEYS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    # key: (the only task that takes it, or "", how to read the value, what is expected)
    "task": ("", {task: task for task in TASKS}.__getitem__, f"one of {', '.join(TASKS)}"),
    "data": ("", Path, "a file"),
    "predictions": ("", Path, "a file"),
    "null_scores": ("squad_v2", Path, "a file"),
    "null_threshold": ("squad_v2", float, "a number"),
    "rounded": ("coqa", SWITCH, "true or false"),
    "human": ("coqa", SWITCH, "true or false"),
}
MAX_NAMED = 10  # ids that one warning lists


def main(argv: Sequence[str]) -> int:
    """Print the report; return the exit status: 0, or 2 for wrong arguments or files."""
    if not argv or {"-h", "--help"} & set(argv):
        print(USAGE, end="")
        return 0 if argv else 2
    try:
        print(json.dumps(score_files(read_arguments(argv)), indent=2))
    except InputError as error:
        print("\n".join(f"error: {line}" for line in str(error).split("\n")), file=sys.stderr)
        return 2
    return 0


def read_arguments(argv: Sequence[str]) -> dict[str, Any]:
    """Return the converted arguments; raise one InputError with a line for each that is wrong."""
    pairs = [argument.partition("=")[::2] for argument in argv]
    task = dict(pairs).get("task")
    given: dict[str, Any] = {}
    errors: list[str] = []
    for key, text in pairs:
        owner, convert, expected = KEYS.get(key, ("", str, ""))
        if key not in KEYS:
            errors.append(f"{key}: unknown key{_hint(key, KEYS)}")
        elif key in given:
            errors.append(f"{key}: given twice; leave one out")
        elif owner and task in TASKS and task != owner:
            errors.append(f"{key}: only task={owner} takes it; leave it out of task={task}")
        try:
            given[key] = convert(text)
            is_bad = not text or given[key] != given[key]  # NaN differs from itself
        except (KeyError, ValueError):
            given[key], is_bad = None, True
        if is_bad and key in KEYS:
            hint = _hint(text, TASKS) if key == "task" else ""
            errors.append(f"{key}={text}: expected {expected}{hint}")
    for key in ("task", "data") if given.get("human") else ("task", "data", "predictions"):
        if key not in given:
            errors.append(f"{key}: missing; add {key}=...")
    if given.get("human") and "predictions" in given:
        errors.append("predictions: human=true scores the references; leave one of the two out")
    if "null_threshold" in given and "null_scores" not in given:
        errors.append("null_threshold: it needs null scores; add null_scores=FILE")
    if errors:
        raise InputError("\n".join(errors))
    return given


def score_files(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read the files, warn of what doesn't match, score; an InputError names the file."""
    is_coqa = arguments["task"] == "coqa"
    readers: dict[str, Callable[[Any], Any]] = {
        "data": _read_coqa if is_coqa else _read_squad,
        "predictions": _read_coqa_predictions if is_coqa else partial(_read_values, (str,)),
        "null_scores": partial(_read_values, (int, float)),
    }
    files: dict[str, Any] = {}
    errors = []
    for key in [key for key in readers if key in arguments]:
        try:
            files[key] = readers[key](_load_json(arguments[key]))
        except InputError as error:
            errors.append(f"{key}={arguments[key]}: {error}")
    if files.get("data") == {}:
        errors.append(f"data={arguments['data']}: it holds no question; give the official file")
    if errors:
        raise InputError("\n".join(errors))
    golds: Any = files["data"]
    predictions: Any = files.get("predictions")
    if predictions is not None:
        fate = "left out of the total" if arguments["task"] == "squad_v2" else "counted as 0"
        _warn(f"questions have no prediction, {fate}", golds, predictions)
    for key in [key for key in files if key != "data"]:
        _warn(f"{key} belong to no question of the data, ignored", files[key], golds)
    try:
        if is_coqa:
            return metrics.score_coqa(golds, predictions, arguments.get("rounded", True))
        if arguments["task"] == "squad_v1":
            return metrics.score_squad_v1(golds, predictions)
        threshold = arguments.get("null_threshold", 1.0)
        return metrics.score_squad_v2(golds, predictions, files.get("null_scores"), threshold)
    except InputError as error:
        names = " ".join(f"{key}={arguments[key]}" for key in files)
        raise InputError(f"{names}: {error}") from None


def _load_json(path: Path) -> Any:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            key = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise InputError(f"the key {key!r} stands twice in one object; keep one of them")
        return record

    def read_constant(literal: str) -> float:
        if literal == "NaN":
            tokens = re.finditer(r'"(?:[^"\\]|\\.)*"|NaN', text)
            place = next(token.start() for token in tokens if token[0] == "NaN")
            raise json.JSONDecodeError("NaN is not JSON, write a number", text, place)
        return float(literal)  # infinite null scores are fair

    try:
        text = path.read_bytes().decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=build, parse_constant=read_constant)
    except OSError as error:
        raise InputError(f"{error.strerror}; give a JSON file that can be read") from None
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        reason = f"malformed JSON at {place}: {error.msg}" if text.strip() else "the file is empty"
        raise InputError(f"{reason}; write it anew") from None
    except (ValueError, RecursionError) as error:  # an endless integer, endless nesting
        raise InputError(f"JSON that can't be read: {error}") from None


def _read_squad(dataset: Any) -> dict[str, list[str]]:
    golds: dict[str, list[str]] = {}
    for article, in_article in _rows(dataset, "data"):
        for paragraph, in_paragraph in _rows(article, "paragraphs", in_article):
            for question, where in _rows(paragraph, "qas", in_paragraph):
                key = str(_item(question, "id", where, str, int))  # COVID-QA has numbers
                if key in golds:
                    raise InputError(f"{where}: question id {key!r} stands twice; keep one of them")
                answers = _rows(question, "answers", where)
                golds[key] = [_item(answer, "text", place, str) for answer, place in answers]
    return golds


def _read_coqa(dataset: Any) -> dict[tuple[str, int], metrics.CoqaGold]:
    golds: dict[tuple[str, int], metrics.CoqaGold] = {}
    for story, where in _rows(dataset, "data"):
        name, source = _item(story, "id", where, str), _item(story, "source", where, str)
        more = _item({"additional_answers": {}} | story, "additional_answers", where, dict)
        columns = [_rows(story, "questions", where), _rows(story, "answers", where)]
        columns += [_rows(more, column, f"{where}.additional_answers") for column in more]
        if len({len(column) for column in columns}) > 1:
            raise InputError(
                f"{where}: story {name!r} has not one answer to each question in each list"
            )
        for turn in zip(*columns, strict=True):
            numbers = [_item(record, "turn_id", place, int) for record, place in turn]
            if len(set(numbers)) > 1 or (name, numbers[0]) in golds:
                raise InputError(
                    f"{turn[0][1]}: turn_id {numbers} of story {name!r}: expected the same, once"
                )
            references = [_item(record, "input_text", place, str) for record, place in turn[1:]]
            golds[name, numbers[0]] = metrics.CoqaGold(source, tuple(references))
    return golds


def _read_values(kinds: tuple[type, ...], record: Any) -> dict[str, Any]:
    expected = f"{{question id: {kinds[-1].__name__}}}"
    if not isinstance(record, dict):
        raise InputError(f"expected an object {expected}, found {type(record).__name__}")
    for key, value in record.items():
        if type(value) not in kinds:
            raise InputError(f"id {key!r}: expected {expected}, found {value!r:.60}")
    return record


def _read_coqa_predictions(records: Any) -> dict[tuple[str, int], str]:
    if not isinstance(records, list):
        expected = "a list of objects with id, turn_id and answer"
        raise InputError(f"expected {expected}, found {type(records).__name__}")
    predictions: dict[tuple[str, int], str] = {}
    for i, record in enumerate(records):
        where = f"[{i}]"
        key = _item(record, "id", where, str), _item(record, "turn_id", where, int)
        if key in predictions:
            raise InputError(f"{where}: the answer to {key} stands twice; keep one of them")
        predictions[key] = _item(record, "answer", where, str)
    return predictions


def _rows(record: Any, key: str, where: str = "") -> list[tuple[Any, str]]:
    """Return the records of the list record[key], each with its place in the file."""
    place = f"{where}.{key}".strip(".")
    return [(row, f"{place}[{i}]") for i, row in enumerate(_item(record, key, where, list))]


def _item(record: Any, key: str, where: str, *kinds: type) -> Any:
    """Return record[key]; raise an InputError that names the place unless it is of these kinds."""
    value = record.get(key) if isinstance(record, dict) else record
    if type(value) not in kinds or not isinstance(record, dict):
        found = "no such key" if isinstance(record, dict) and key not in record else repr(value)
        place, kind = where or "the top level", kinds[0].__name__
        raise InputError(f"{place}: expected the key {key!r} ({kind}), found {found:.60}")
    return value


def _warn(message: str, keys: Collection[Any], others: Collection[Any]) -> None:
    alone = [key for key in keys if key not in others]
    if alone:
        named = ", ".join(map(repr, alone[:MAX_NAMED])) + (", ..." if alone[MAX_NAMED:] else "")
        print(f"warning: {len(alone)} of {len(keys)} {message}: {named}", file=sys.stderr)


def _hint(word: str, known: Iterable[str]) -> str:
    import difflib  # here, since only mistakes need it

    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
