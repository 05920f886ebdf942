"""Ask a trained run about a text: its named entities, the answer to a question, or both.

    python jobs/predict.py ner_conll2003_bert/main --text "Angela Merkel was born in Hamburg."
    python jobs/predict.py squad2_electra/main --text "..." --question "How high is it?"
    python jobs/predict.py RUN --text "..." --json      for programs

The newest checkpoint answers. RUN is a folder or recipe/name; runs_dir=FOLDER says where runs are
kept (default runs). --text - reads the text from the standard input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(sys.path.pop(0))  # this folder last: its tensorboard.py is no package
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qa_dist.cluster.find_runs import find_run, read_words
from qa_dist.records import InputError

_OPTIONS = ("--text", "--question")


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0 answered, 2 bad input."""
    if not argv or any(word in ("-h", "--help", "help") for word in argv):
        print((__doc__ or "").strip())
        return 0
    try:
        rest, given = take_options(argv)
        words, flags, runs_dir = read_words(rest, 1, ("--json", *_OPTIONS))
        if not words:
            raise InputError("which run? Give its folder, or recipe/name")
        run = find_run(words[0], runs_dir)
        if "--text" not in given:
            raise InputError('--text: expected a text to read; give --text "..."')
        text = given["--text"]
        if text == "-":
            text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")

        from qa_dist.evaluation.answer import read_text  # and torch with it

        found = read_text(run, text, given.get("--question"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    print(json.dumps(found, ensure_ascii=False) if "--json" in flags else "\n".join(lines(found)))
    return 0


def take_options(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Split the options that have a value from the other words. Raises InputError."""
    rest: list[str] = []
    given: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        name, has_value, value = word.partition("=")
        if name not in _OPTIONS:
            rest.append(word)
            continue
        if not has_value:
            value = next(words, "")
        if name in given or not value:
            raise InputError(f'{name}: expected once, with some words: {name} "..."')
        given[name] = value
    return rest, given


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return what was found as lines for people."""
    shown = [f"{found['run']}, step {found['step']}"]
    for one in found["found"]:
        if "entities" in one:
            shown.append(f"{one['source']}: {len(one['entities'])} entities")
            for entity in one["entities"]:
                place = f"{entity['start']}-{entity['end']}"
                shown.append(f"  {entity['type']:6} {place:>11}  {one_line(entity['text'])}")
        else:
            is_span = one["start"] is not None
            place = f"  (characters {one['start']}-{one['end']})" if is_span else ""
            shown.append(f"{one['source']}: {one_line(one['answer']) or 'no answer'}{place}")
    return shown


def one_line(text: str) -> str:
    """Return a piece of text without what would break a terminal's line."""
    return text if text.isprintable() else repr(text)[1:-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
