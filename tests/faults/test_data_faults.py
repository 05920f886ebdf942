"""Bad data, bad settings and interrupted preparation, through `python jobs/launch.py ...` itself.

What is refused before any process is started is tried by calling the command's `main` in this very
process (profile=debug); kills are real, of forked children; what needs several processes is
launched as a user would. Rows D1-D8, P1-P6, S13, S14 and S16 of the list of faults.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from prepared_data import (
    logical_windows,
    made_articles,
    make_recipe,
    open_run,
    prepare,
    question,
    write_articles,
)

from qa_dist import faults
from qa_dist.data.prepared import Prepared, read_prepared
from qa_dist.data.shards import ARRAYS, KIND_NULL
from qa_dist.files import MARKER
from qa_dist.plan import make_plan
from qa_dist.prepare import prepare_element
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir
from qa_dist.text.metrics import question_scores

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., Any]
CAT = "the cat sat on a mat"


def load_launch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("job_launch", ROOT / "jobs" / "launch.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Result:
    """How a launch ended."""

    status: int
    out: str
    err: str


class Launcher:
    """Calls the command in this process, in a folder of its own, with small settings."""

    def __init__(self, folder: Path, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.recipe = folder / "faults.yaml"
        self.recipe.write_text(
            f"sources: [{{task: squad, train: {folder}/train.json, dev: {folder}/dev.json}}]\n"
            f"model: {{name: {encoder}}}\n"
            "data: {max_length_tokens: 64, window_overlap_tokens: 16, max_question_tokens: 32}\n"
            "train: {min_micro_batches_per_step: 2, batch_windows: 4}\n"
        )
        write_articles(folder / "train.json", made_articles(3))
        write_articles(folder / "dev.json", made_articles(1))
        self._capsys = capsys
        self._main: Callable[[Sequence[str]], int] = load_launch().main

    @property
    def words(self) -> list[str]:
        return [f"recipe={self.recipe}", "profile=debug", "name=main", "stages=prepare"]

    def __call__(self, *words: str) -> Result:
        """Launch with more words; those of `words` that are given again are left out."""
        keys = {word.partition("=")[0] for word in words}
        mine = [word for word in self.words if word.partition("=")[0] not in keys]
        self._capsys.readouterr()
        status = self._main([*mine, *words])
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err + out
        return Result(status, out, err)

    def refused(self, *words: str) -> str:
        """Launch what must be refused before anything is written; return the message."""
        before = snapshot(self.folder)
        result = self(*words)
        assert result.status == 2, f"{words}: {result}"
        assert result.err.startswith("error: ") and result.out == ""
        assert snapshot(self.folder) == before, "something was written"
        return result.err.removeprefix("error: ").strip()

    def write(self, name: str, content: str | bytes) -> str:
        """Write a data file; return the word that makes it the training data."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return f"sources.0.train={path}"

    @property
    def run(self) -> RunDir:
        return RunDir(self.folder / "runs" / "faults" / "main")

    @property
    def prepared(self) -> Prepared:
        return read_prepared(self.run)


def snapshot(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def launch(
    tiny_encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Launcher]:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # profile=debug sets it: put back at the end
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "here"
    folder.mkdir(mode=0o700)
    monkeypatch.chdir(folder)
    umask = os.umask(0o077)
    yield Launcher(folder, tiny_encoder, capsys)
    os.umask(umask)
    faults.arm("")


def squad(*paragraphs: str) -> str:
    """Return a SQuAD file of paragraphs that are JSON already, good or bad."""
    articles = f'[{{"title": "t", "paragraphs": [{", ".join(paragraphs)}]}}]'
    return f'{{"version": "v2.0", "data": {articles}}}'


def paragraph(*questions: dict[str, Any], context: str = CAT) -> str:
    return json.dumps({"context": context, "qas": list(questions)})


GOOD = paragraph(question("good", CAT, "cat"))


# ---- D1 ----


def test_d1_missing_file(launch: Launcher, run_job: Run) -> None:
    none = launch.folder / "none.json"
    message = launch.refused(f"sources.0.train={none}")
    assert message == (
        f"sources.0.train={none}: there is no such file, looked for from {Path.cwd()}; "
        "give the path of a data file, or a hub name"
    )
    started = time.monotonic()
    done = run_job("launch", *launch.words, f"sources.0.train={none}", f"sources.0.dev={none}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("there is no such file") == 2, "both at once"
    assert len(done.stderr.splitlines()) == 2 and "Traceback" not in done.stderr
    assert time.monotonic() - started < 60, "before anything is started"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (".", "is a folder; give the file itself"),
        ("empty.json", "empty.json: is empty; download or copy it again"),
        ("pipe.json", "is a device or a pipe"),
        ("/dev/zero", "is a device or a pipe"),
        ("~no_such_user_/x.json", "write the path out"),
        ("x" * 300, "can't be read (File name too long)"),
        ("train.json/x.json", "can't be read (Not a directory)"),
        ("link.json", "there is no such file"),
    ],
)
def test_d1_what_is_no_file(launch: Launcher, name: str, wanted: str) -> None:
    (launch.folder / "empty.json").write_bytes(b"")
    os.mkfifo(launch.folder / "pipe.json")
    (launch.folder / "link.json").symlink_to(launch.folder / "nowhere")
    message = launch.refused(f"sources.0.train={name}")
    assert wanted in message and name[:60] in message
    assert len(message) < 300 and "\n" not in message


def test_d1_unreadable_file(tiny_encoder: Path, tmp_path: Path) -> None:
    data = write_articles(tmp_path / "secret.json", made_articles(1))
    data.chmod(0)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)  # root may read anything
    try:
        with pytest.raises(InputError, match=r"secret\.json: can't be read \(Permission denied\)"):
            make_plan(make_recipe(tiny_encoder, data, data), tmp_path)
    finally:
        os.seteuid(before)


def test_d1_encoder_that_is_not_there(launch: Launcher) -> None:
    for name in (str(launch.folder / "none"), str(launch.folder), "x" * 300):
        message = launch.refused(f"model.name={name}")
        assert message.startswith(f"model.name={name[:50]}") and "a folder" in message


# ---- D2 ----

DEEP = '{"context": ' + "[" * 5000 + "]" * 5000 + ', "qas": []}'
BAD_FILES: dict[str, tuple[str | bytes, str]] = {
    "malformed": ('{"data": [{]}', r"line 1, column 12: data\[0\]"),
    "truncated": (squad(GOOD, GOOD)[:200], r"line 1, .*the file ends in the middle"),
    "a list": (f"[{squad(GOOD)}]", r'expected an object with a list "data"'),
    "another key": ('{"rows": []}', r'has no list "data"; records are expected at data\[\]'),
    "wrong nesting": ('{"data": [{"title": "t"}]}', r'data\[0\] has no list "paragraphs"'),
    "a number": (squad(GOOD, "5"), r"data\[0\].paragraphs\[1\]: expected an object .*a number"),
    "JSON Lines": (f"{squad(GOOD)}\n{squad(GOOD)}", r"line 2, column 1: .*JSON Lines"),
    "key twice": ('{"data": [], "data": []}', r'has "data" twice'),
    "deep": (squad(GOOD, DEEP), r"data\[0\].paragraphs\[1\] is nested too deeply"),
    "Latin-1": (squad(GOOD).replace("mat", "m\xe4t").encode("latin-1"), "isn't UTF-8 here"),
    "UTF-16": (squad(GOOD).encode("utf-16"), "isn't UTF-8 here"),
    "gzip": (b"\x1f\x8b\x08\0\0\0", "is a compressed file"),
    "no questions": (squad('{"context": "x", "qas": []}'), "holds no questions in the 1 records"),
    "CoQA's": ('{"data": [{"id": "a", "story": "b"}]}', 'has no list "paragraphs"'),
}


def test_d2_files_that_cannot_be_read(launch: Launcher) -> None:
    for name, (content, wanted) in BAD_FILES.items():
        for policy in ("skip", "stop"):
            word = launch.write("bad.json", content)
            message = launch.refused(word, f"data.on_bad_record={policy}")
            assert message.startswith(f"{launch.folder}/bad.json: "), name
            assert re.search(wanted, message), f"{name}: {message}"
            assert len(message) < 400 and "\n" not in message, name


BAD_RECORDS = {
    "has NaN, which isn't JSON": GOOD.replace('"answer_start": 4', '"answer_start": NaN'),
    "has a key twice": GOOD.replace('"context"', '"context": "x", "context"'),
    "has half a surrogate pair": GOOD.replace("the cat", "the \\ud800 cat"),
    "has an integer of over 4300 digits": GOOD.replace(": 4}", f": {'4' * 5000}}}"),
    'paragraph has no list "qas"': '{"context": "x", "qas": {}}',
    'paragraph has no text "context"': '{"context": 5, "qas": [{"id": "x"}]}',
    'has no list "answers"': GOOD.replace('"answers": [', '"answers": "cat", "x": ['),
    'answer has no text "text"': GOOD.replace('"text": "cat"', '"text": null'),
    "question isn't an object": paragraph().replace("[]", "[7]"),
    'has no text "id"': GOOD.replace('"good"', "null"),
}


def test_d2_bad_records_are_skipped_and_counted(launch: Launcher) -> None:
    word = launch.write("bad.json", squad(GOOD, *BAD_RECORDS.values()))
    result = launch(word)
    assert result.status == 0
    assert "train: 1 examples" in result.out
    for reason in BAD_RECORDS:
        assert f"dropped 1: {reason}" in result.out, reason


def test_d2_bad_records_stop_where_asked(launch: Launcher) -> None:
    for reason, record in BAD_RECORDS.items():
        word = launch.write("bad.json", squad(GOOD, record))
        result = launch(word, "data.on_bad_record=stop", "fresh=true")
        assert result.status == 2
        assert reason in result.err and "data.on_bad_record=skip" in result.err
        assert len(result.err.splitlines()) == 1
        assert launch.prepared.missing("train") == launch.prepared.shards("train")


def test_d2_a_long_line_is_read(launch: Launcher) -> None:
    context = "word " * 20_000 + "end"
    word = launch.write(
        "long.json", squad(GOOD, paragraph(question("q", context, "end"), context=context))
    )
    assert "\n" not in (launch.folder / "long.json").read_text()
    result = launch(word)
    assert result.status == 0 and "train: 2 examples" in result.out


# ---- D3, D4 ----


def test_d3_answers_that_are_not_where_they_should_be(launch: Launcher) -> None:
    twice = "a cat saw the other cat and ran"
    word = launch.write(
        "bad.json",
        squad(
            paragraph(
                question("unique, wrong start", twice, "other", start=0),
                question("several, wrong start", twice, "cat", start=1),
                question("several, right start", twice, "cat", start=20),
                question("nowhere", twice, "dog", start=2),
                question("behind the end", twice, "ran", start=10_000),
                question("before the start", twice, "saw", start=-3),
                question("part of a word", twice, "the", start=0),  # only in "other", and alone
                context=twice,
            )
        ),
    )
    result = launch(word)
    assert result.status == 0
    kept = {}
    for row in logical_windows(launch.prepared, "train"):
        assert row["kind"] != KIND_NULL
        start, end = row["chars"][row["start"]][0], row["chars"][row["end"]][1]
        kept[row["id"]] = (start, row["context"][start:end])
        assert row["context"][start:end] == row["answers"][0], "never a wrong span"
    assert kept["unique, wrong start"] == (14, "other")
    assert kept["several, right start"] == (20, "cat")
    assert {"several, wrong start", "nowhere"}.isdisjoint(kept)
    assert "dropped 1: start of the answer is wrong and its text isn't in the context" in result.out
    assert "its text occurs several times (first: several, wrong start" in result.out
    assert "start of the answer was wrong, repaired (first: unique, wrong start" in result.out


def test_d4_empty_texts_and_unanswerable_questions(launch: Launcher) -> None:
    empty = [
        question("no words", CAT, "cat") | {"question": " "},
        question("no answer text", CAT, "cat") | {"answers": [{"text": "", "answer_start": 0}]},
        question("unanswerable", CAT, None),
        question("says possible", CAT, None) | {"is_impossible": False},
        question("good", CAT, "cat"),
    ]
    nothing = paragraph(question("no context", "", None), context="")
    content = squad(paragraph(*empty), nothing)
    word = launch.write("empty.json", content)
    result = launch(word, word.replace("train", "dev"))
    assert result.status == 0
    train = {row["id"]: row for row in logical_windows(launch.prepared, "train")}
    dev = {row["id"]: row for row in logical_windows(launch.prepared, "dev")}
    assert set(train) == {"unanswerable", "good"}
    assert set(dev) == {q["id"] for q in empty} | {"no context"}, "all that can be scored is kept"
    assert [train[name]["kind"] == KIND_NULL for name in ("unanswerable", "good")] == [True, False]
    assert all(
        row["kind"] == KIND_NULL for name, row in dev.items() if name not in ("good", "no words")
    )
    assert dev["no context"]["context_tokens"] == []
    for name in ("unanswerable", "no context"):
        rule, answers = dev[name]["rule"], dev[name]["answers"]
        assert question_scores(rule, "", answers) == (1.0, 1.0)
        assert question_scores(rule, "cat", answers) == (0.0, 0.0)


# ---- D5, D6 ----


def test_d5_contexts_far_longer_than_a_window(launch: Launcher) -> None:
    long = " ".join(["the cat sat on a mat and"] * 40_000) + " slept"
    giant = "x" * 50_000
    mixed = f"the cat {giant} sat"
    word = launch.write(
        "long.json",
        squad(
            paragraph(question("long", long, "slept"), context=long),
            paragraph(question("giant", giant, giant), context=giant),
            paragraph(question("mixed", mixed, "sat"), context=mixed),
        ),
    )
    assert launch(word).status == 0
    [shard] = launch.prepared.open("train").shards
    names = [shard.example(number)["id"] for number in range(3)]
    targets: dict[str, str] = {}
    num_tokens: dict[str, int] = {}
    for number, name in enumerate(names):
        rows = np.flatnonzero(shard["window_example"] == number)
        starts, ends = shard.char_spans(number)
        text = shard.context_text(number)
        covered = 0
        for row in rows:
            assert shard["window_length"][row] <= 64
            assert shard["window_from"][row] <= covered < shard["window_to"][row]
            covered = int(shard["window_to"][row])
            if shard["window_kind"][row] != KIND_NULL:
                first, last = (shard[f"window_{end}"][row] for end in ("start", "end"))
                targets[name] = text[starts[first] : ends[last]]
        assert covered == len(starts), "windows hold every token"
        in_tokens = "".join(text[a:b] for a, b in zip(starts, ends, strict=True))
        assert in_tokens == "".join(text.split()), "tokens hold every character"
        num_tokens[name] = len(starts)
    assert num_tokens["long"] > 200_000
    assert targets == {"long": "slept", "giant": giant, "mixed": "sat"}


def test_d5_windows_that_never_advance(launch: Launcher) -> None:
    message = launch.refused("data.window_overlap_tokens=64", "data.max_length_tokens=64")
    assert "data.window_overlap_tokens=64: expected less than data.max_length_tokens=64" in message
    message = launch.refused("data.max_question_tokens=60", "data.max_length_tokens=64")
    assert "data.max_question_tokens=60: expected at most" in message


UNICODE = [
    ("The cafe\u0301 was na\u0131\u0308ve.", "cafe\u0301"),
    ("The o\ufb03ce \ufb01nds it.", "o\ufb03ce"),
    ("He \U0001f600 said \U0001f469\u200d\U0001f4bb works.", "\U0001f469\u200d\U0001f4bb"),
    ("One\r\ntwo\r\nthree\tfour", "two\r\nthree"),
    ("zero\u200bwidth and\u00a0hard\u3000spaces here", "hard\u3000spaces"),
    ("\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd abc", "\u05e2\u05d5\u05dc\u05dd"),
    ("\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u3002", "\u65e5\u672c"),
    ("\u0939\u093f\u0928\u094d\u0926\u0940 and \u0928\u092e\u0938\u094d\u0924\u0947", "and"),
    ("\ufeffWith a mark, \u00c5ngstr\u00f6m \U00010348 end", "\u00c5ngstr\u00f6m"),
    ("a\0b null \x7f control", "control"),
]


def test_d6_answers_survive_the_round_trip(launch: Launcher) -> None:
    paragraphs = [
        paragraph(question(f"u{i}", context, answer), context=context)
        for i, (context, answer) in enumerate(UNICODE)
    ]
    word = launch.write("unicode.json", squad(*paragraphs))
    assert launch(word, "data.on_bad_record=stop").status == 0
    rows = {row["id"]: row for row in logical_windows(launch.prepared, "train")}
    for i, (context, answer) in enumerate(UNICODE):
        row = rows[f"u{i}"]
        assert row["context"] == context and row["answers"] == [answer]
        start, end = row["chars"][row["start"]][0], row["chars"][row["end"]][1]
        assert answer in context[start:end]
        if i != 6:  # a token per CJK character for BERT; others may not split them
            assert context[start:end] == answer, f"{context[start:end]!r}"


# ---- D7 ----


def test_d7_ids_that_are_double_or_numbers(launch: Launcher) -> None:
    content = squad(
        paragraph(question("a", CAT, "cat"), question("a", CAT, "mat"), question(7, CAT, "cat")),
        paragraph(question("7", CAT, "mat"), question("b", CAT, "mat")),
    )
    word = launch.write("ids.json", content)
    result = launch(word, word.replace("train", "dev"))
    assert result.status == 0
    for split in ("train", "dev"):
        assert (
            f"{split}: dropped 1: id occurs twice in the paragraph, the first is kept" in result.out
        )
        assert f"{split}: kept 1: id is a number, read as text (first: 7)" in result.out
        assert f"{split}: 1 question ids occur more than once" in result.out
    rows = list(logical_windows(launch.prepared, "dev"))
    assert [row["id"] for row in rows] == ["a", "7", "7", "b"]
    assert rows[0]["answers"] == ["cat"], "the first"


# ---- D8 ----


def test_d8_corrupted_shard_stops_all_ranks(launch: Launcher, run_job: Run) -> None:
    assert launch("profile=local", "ranks_per_node=2", "dry_run=true").status == 0, "control"
    assert launch().status == 0
    shard = launch.prepared.shards("train")[0]
    data = bytearray((shard / ARRAYS).read_bytes())
    data[len(data) // 2] ^= 4
    (shard / ARRAYS).write_bytes(data)
    words = [word for word in launch.words if not word.startswith(("profile", "stages"))]
    places = [f"{name}_dir={launch.folder / name}" for name in ("runs", "prepared")]
    # What profile=debug has set stays: another profile would be another recipe.
    same = [f"{key}={value}" for key, value in debug_settings().items()]
    done = run_job(
        *("launch", *words, *places, *same),
        *("profile=local", "ranks_per_node=2", "stages=train"),
        timeout=120,
    )
    assert done.returncode == 1, done.stderr + done.stdout
    assert "train, element 0" in done.stderr and "Launch the run again" in done.stderr
    assert "Traceback" not in done.stderr
    logs = [path.read_text() for path in sorted(launch.run.logs.glob("train-0-*.err"))]
    assert len(logs) == 2 and all("InputError" in log for log in logs), "both ranks, together"
    assert "arrays.bin: its sha256 differs" in "".join(logs)
    assert not launch.run.checkpoints.exists()

    assert launch.prepared.missing("train") == [shard], "it is no longer believed"
    assert launch().status == 0, "as the message says"
    assert launch.prepared.missing("train") == []
    assert "train-00000-of-00001" in done.stderr, "whichever rank read it"


def debug_settings() -> dict[str, str]:
    import yaml

    profile = yaml.safe_load((ROOT / "slurm" / "profiles" / "debug.yaml").read_text())
    return dict(profile["recipe_defaults"])


# ---- P1 ----


def test_p1_one_shard_fails_and_only_it_is_made_again(launch: Launcher, run_job: Run) -> None:
    write_articles(launch.folder / "train.json", [*made_articles(3), *made_articles(1)])
    write_articles(launch.folder / "dev.json", made_articles(1, paragraphs=1, questions=1))
    reference = prepare(launch.folder / "reference", recipe_of(launch), num_shards=2)
    windows = [shard.num_windows for shard in reference.open("train").shards]
    assert len({*windows, reference.open("dev").num_windows}) == 3, (
        "control: the fault fires in one"
    )
    log = launch.folder / "faults.log"
    fault = f"point=prepare.batch;step={windows[1]};attempt=1;action=raise"
    places = [f"{name}_dir={launch.folder / name}" for name in ("runs", "prepared")]
    words = ["launch", launch.words[0], "profile=local", "name=main", "stages=prepare", *places]
    words.append("data.num_shards=2")
    env = {faults.VARIABLE: fault, faults.LOG_VARIABLE: str(log)}

    first = run_job(*words, env=env)
    assert first.returncode == 1 and len(faults.read_log(log)) == 1
    assert (
        "prepare, element 1" in first.stderr and "injected fault at prepare.batch" in first.stderr
    )
    assert "The same command goes on from what is finished" in first.stderr
    prepared = launch.prepared
    assert [path.name for path in prepared.missing("train")] == ["train-00001-of-00002"]
    assert prepared.missing("dev") == []
    before = inodes(prepared)

    second = run_job(*words, env=env)
    assert second.returncode == 0, second.stderr
    after = inodes(prepared)
    assert {name for name in after if before.get(name) != after[name]} == {"train-00001-of-00002"}
    assert contents(prepared) == contents(reference)


def recipe_of(launch: Launcher) -> Any:
    from qa_dist.recipe_loading import load_recipe

    return load_recipe(str(launch.recipe), [], launch.folder)


def inodes(prepared: Prepared) -> dict[str, int]:
    return {path.parent.name: path.stat().st_ino for path in prepared.folder.glob(f"*/{ARRAYS}")}


def contents(prepared: Prepared) -> dict[str, bytes]:
    paths = [path for split in prepared.num_shards for path in prepared.shards(split)]
    return {f"{p.name}/{name}": (p / name).read_bytes() for p in paths for name in (ARRAYS, MARKER)}


# ---- P2-P6 ----


def in_child(work: Callable[[], int], fault: str = "") -> int:
    """Do `work` in a forked process that injects `fault`; return its exit status (-9: killed)."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            faults.arm(fault)
            status = work()
        finally:
            os._exit(status)
    for _ in range(6000):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError("the child hung")


def test_p2_killed_in_the_middle_of_a_shard(
    launch: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = launch.folder / "faults.log"
    monkeypatch.setenv(faults.LOG_VARIABLE, str(log))
    status = in_child(lambda: launch().status, "point=prepare.batch;action=kill9")
    assert status == -signal.SIGKILL
    assert [firing["point"] for firing in faults.read_log(log)] == ["prepare.batch"]
    prepared = launch.prepared
    assert prepared.missing("train") == prepared.shards("train")
    left = [path.name for path in prepared.folder.iterdir() if path.name.startswith(".")]
    assert len(left) == 1, "control: it was half-way"

    assert launch().status == 0
    assert not [path for path in prepared.folder.rglob(".*") if path.name.endswith(".tmp")]
    twin = launch("prepared_dir=twin", "name=twin")
    assert twin.status == 0
    assert contents(prepared) == contents(read_prepared(RunDir(launch.run.root.with_name("twin"))))


@pytest.mark.parametrize("damage", ["deleted", "cut", "longer", "marker cut"])
def test_p3_a_damaged_shard_is_made_again(launch: Launcher, damage: str) -> None:
    assert launch().status == 0
    prepared = launch.prepared
    whole = contents(prepared)
    shard = prepared.shards("dev")[0]
    if damage == "deleted":
        (shard / ARRAYS).unlink()
    elif damage == "cut":
        os.truncate(shard / ARRAYS, 100)
    elif damage == "longer":
        with (shard / ARRAYS).open("ab") as stream:
            stream.write(b"\0")
    else:
        os.truncate(shard / MARKER, 40)
    before = inodes(prepared)
    result = launch()
    assert result.status == 0 and "prepare (1 elements)" in result.out
    assert contents(prepared) == whole
    assert inodes(prepared)["train-00000-of-00001"] == before["train-00000-of-00001"]
    assert "nothing to do, it is all there" in launch().out


def test_p4_input_changed_after_it_was_prepared(launch: Launcher) -> None:
    assert launch().status == 0
    old = launch.prepared.fingerprint
    with (launch.folder / "train.json").open("a") as stream:
        stream.write("\n")
    message = launch.refused()
    assert message.startswith(f"{launch.run.root}: this run was made with other settings")
    assert f"{old} -> " in message and "the input or the tokenizer was changed" in message
    assert "fresh=true" in message and "name=..." in message
    assert launch("fresh=true").status == 0
    assert launch.prepared.fingerprint != old


def test_p5_two_attempts_at_the_same_shard(tiny_encoder: Path, tmp_path: Path) -> None:
    data = write_articles(tmp_path / "data.json", made_articles(3))
    recipe = make_recipe(tiny_encoder, data, data)
    reference = prepare(tmp_path / "reference", recipe)
    run, prepared = open_run(tmp_path, recipe)

    def both(number: int) -> int:
        faults.arm("point=prepare.batch;action=sleep:0.5")  # so that they are at it together
        prepare_element(run, number)
        return 0

    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            status = 99
            try:
                status = both(0)
            finally:
                os._exit(status)
        children.append(child)
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert ended == [0, 0]
    prepare_element(run, 1)
    assert contents(prepared) == contents(reference)
    assert not [path for path in prepared.folder.iterdir() if path.name.startswith(".")]


def test_p6_no_room_for_a_shard(launch: Launcher) -> None:
    """A limit of the operating system on a file's size: the write itself fails half-way."""
    big = "word " * 60_000
    small, large = made_articles(1, questions=4), [{"context": big, "qas": []}]
    large[0]["qas"] = [question(f"big{i}", big, "word", start=0) for i in range(8)]
    write_articles(launch.folder / "train.json", [*small, large])

    def limited() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        result = launch("data.num_shards=2")
        (launch.folder / "said").write_text(result.err)
        return result.status

    assert in_child(limited) == 2
    said = (launch.folder / "said").read_text()
    prepared = launch.prepared
    assert [path.name for path in prepared.missing("train")] == ["train-00001-of-00002"]
    assert said.startswith(
        f"error: {prepared.shards('train')[1]}: can't be written (File too large)"
    )
    assert "bytes are free there" in said and len(said.splitlines()) == 1
    assert not [path for path in prepared.folder.iterdir() if path.name.startswith(".")]
    before = inodes(prepared)
    assert launch("data.num_shards=2").status == 0
    assert inodes(prepared)["train-00000-of-00002"] == before["train-00000-of-00002"]


# ---- S13 ----


def test_s13_all_that_is_wrong_is_said_at_once(launch: Launcher, run_job: Run) -> None:
    wrong = [
        "train.learnin_rate=1e-5",
        "train.batch_windows=many",
        "train.epochs=-1",
        "model.head=pointer",
        "data.on_bad_record=ignore",
    ]
    message = launch.refused(wrong[0], "runs_dri=x")
    assert 'did you mean "train.learning_rate"' in message
    assert 'did you mean "runs_dir"' in message
    message = launch.refused(*wrong[1:])
    assert message.startswith("4 things are wrong in what was asked for; nothing was started:")
    wishes = ("a whole number", "more than 0", "one of span", "one of skip, stop")
    for word, wanted in zip(wrong[1:], wishes, strict=True):
        [line] = [line for line in message.splitlines() if word in line]
        assert "command line" in line and wanted in line, line
    done = run_job("launch", *launch.words, *wrong[1:])
    assert done.returncode == 2 and done.stderr == f"error: {message}\n" and done.stdout == ""


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "is empty; expected at least sources: and model:"),
        (
            b"model:\n  name: x\nmodel:\n  name: y\n",
            ":3: model={...}: is given twice (first in line 1)",
        ),
        (b"model:\n  name: \xff\n", "isn't UTF-8 (byte 0xff at offset 15)"),
        (b"model:\n\tname: x\n", ":2:1: isn't valid YAML"),
        (b"- a\n- b\n", "expected lines `key: value`"),
        (b"model: {name: x}\nsources: 5\n", ":2: sources=5: expected a list"),
        (b"model: !!python/object:os.system {}\n", "expected no YAML tag"),
        (b"model:\n  name: ${oc.env:HOME}\n", "expected no ${...}"),
        (b"train:\n  epochs: yes\n  seed: 1.5\n", ":2: train.epochs=yes: expected a number"),
    ],
)
def test_s13_recipes_that_cannot_be_read(launch: Launcher, content: bytes, wanted: str) -> None:
    launch.recipe.write_bytes(content)
    message = launch.refused()
    assert str(launch.recipe) in message and wanted in message


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("stages=prepare,cook", "'cook' is none of prepare, train, evaluate, aggregate"),
        ("fresh=maybe", "expected true or false"),
        ("dry_run=1", "expected true or false"),
        ("nodes=0", "expected a number of machines, at least 1"),
        ("nodes=two", "expected a whole number such as"),
        ("name=", "expected a value after the ="),
        ("ranks_per_node=-1", "at least 0"),
        ("gpus_per_node=65", "at most 64"),
        ("profile=lokal", 'did you mean "local"?'),
        ("recipe=tiny_cqa", 'did you mean "tiny_coqa"?'),
        ("train.seed", "expected key=value"),
    ],
)
def test_s13_launch_keys(launch: Launcher, word: str, wanted: str) -> None:
    message = launch.refused(word)
    assert word in message and wanted in message


# ---- S14 ----

HOSTILE = (
    *("$(touch canary)", "`touch canary`", "x; touch canary", "x\ntouch canary", "x\r#SBATCH -o y"),
    *(
        'x"\ntouch canary #',
        "x' ; touch canary '",
        "x\\",
        "%j",
        "../x",
        "/x",
        "x/../../y",
        "x" * 300,
    ),
    *("\u202ex", "x\0y", "-x", "~", "*", ""),
)


@pytest.mark.parametrize("key", ["name", "recipe", "profile"])
def test_s14_hostile_names(launch: Launcher, key: str) -> None:
    for value in HOSTILE:
        message = launch.refused(f"{key}={value}")
        assert key in message and len(message) < 250, (value, message)
        assert message.isprintable() or (message.count("\n") == 1 and "\0" not in message)
    assert not list(launch.folder.rglob("*canary*"))


@pytest.mark.parametrize("key", ["model.name", "sources.0.train", "sources.0.dev"])
def test_s14_hostile_paths(launch: Launcher, key: str) -> None:
    for value in HOSTILE:
        if value in ("~", "", "-x", "*"):  # a home, the default, and names that a hub may know
            continue
        message = launch.refused(f"{key}={value}")
        assert key in message and "\0" not in message and "\u202e" not in message, (value, message)
    assert not list(launch.folder.rglob("*canary*"))


def test_s14_hostile_values_of_the_real_command(
    launch: Launcher, run_job: Run, tmp_path: Path
) -> None:
    values = ["$(touch canary)", "x\ntouch canary", "`touch canary`"]
    before = snapshot(tmp_path)
    done = run_job(
        "launch",
        *launch.words[:2],
        f"name={values[1]}",
        f"stages={values[0]}",
        f"runs_dir={values[1]}",
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert snapshot(tmp_path) == before


def test_s14_places_with_odd_names_are_only_places(launch: Launcher) -> None:
    result = launch("runs_dir=$(touch canary)", "prepared_dir=`touch canary`; %j")
    assert result.status == 0
    assert (launch.folder / "$(touch canary)" / "faults" / "main" / "run.json").is_file()
    assert not (launch.folder / "canary").exists()


def test_s14_hostile_texts_in_the_data(launch: Launcher) -> None:
    """Ids, titles and texts are shown, never run or taken for a path or for markup."""
    nasty = "[bold]$(touch canary)[/bold] ../../x \x1b[2J"
    lie = question(f"{nasty} lie", CAT, "dog", start=3)
    records = squad(paragraph(question(nasty, CAT, "cat"), lie)).replace('"t"', json.dumps(nasty))
    result = launch(launch.write("nasty.json", records))
    assert result.status == 0
    assert "[bold]$(touch canary)[/bold] ../../x" in " ".join(result.out.split()), "as it is"
    assert "\x1b" not in result.out, "a terminal must not obey what stands in a data file"
    assert not list(launch.folder.rglob("*canary*"))


# ---- S16 ----


@pytest.mark.parametrize("where", ["runs", "runs/faults", "runs/faults/main"])
def test_s16_folders_that_others_can_write_to(launch: Launcher, where: str) -> None:
    folder = launch.folder / where
    folder.mkdir(parents=True)
    for mode in (0o777, 0o770):
        folder.chmod(mode)
        result = launch()
        assert result.status == 2
        assert (
            result.err
            == f"error: {folder}: others can write to it; run `chmod go-w {folder}` first\n"
        )
    assert not (launch.folder / "prepared").exists()
    folder.chmod(0o755)
    assert launch().status == 0


@pytest.mark.parametrize("where", ["runs", "runs/faults", "runs/faults/main"])
def test_s16_links(launch: Launcher, where: str) -> None:
    elsewhere = launch.folder / "elsewhere"
    elsewhere.mkdir()
    link = launch.folder / where
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere)
    result = launch()
    assert result.status == 2
    assert result.err.startswith(f"error: {link}: is a symbolic link; give the real folder instead")
    assert list(elsewhere.iterdir()) == [] and not (launch.folder / "prepared").exists()


def test_s16_prepared_data_is_private_too(launch: Launcher) -> None:
    assert launch().status == 0
    open_to_others = [
        path
        for path in [launch.folder / "prepared", *(launch.folder / "prepared").rglob("*")]
        if path.stat().st_mode & 0o077
    ]
    assert open_to_others == []
