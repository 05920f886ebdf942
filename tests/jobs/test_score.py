"""jobs/score.py from the outside: what it prints for good files, and one clear line per mistake."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "jobs" / "score.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("score", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


score = load_script()


def squad(**answers: list[str]) -> dict[str, Any]:
    qas = [{"id": key, "answers": [{"text": text} for text in v]} for key, v in answers.items()]
    return {"version": "x", "data": [{"title": "t", "paragraphs": [{"context": "c", "qas": qas}]}]}


def column(*texts: str) -> list[dict[str, Any]]:
    return [{"turn_id": i, "input_text": text} for i, text in enumerate(texts, 1)]


def story(name: str = "s1", source: str = "cnn") -> dict[str, Any]:
    return {
        "id": name,
        "source": source,
        "questions": column("who?", "where?"),
        "answers": column("the cat", "here"),
        "additional_answers": {"0": column("a dog", "here"), "1": column("cat", "there")},
    }


class Job:
    """Runs the job in this process on files of a folder of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys

    def file(self, name: str, content: object) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    def run(self, *arguments: str) -> tuple[int, str, str]:
        status = score.main(arguments)
        out, err = self.capsys.readouterr()
        return status, out, err

    def score(self, task: str, data: object, predictions: object, *more: str) -> tuple[Any, str]:
        """Score good files; return the report and what went to stderr."""
        files = (
            f"data={self.file('d.json', data)}",
            f"predictions={self.file('p.json', predictions)}",
        )
        status, out, err = self.run(f"task={task}", *files, *more)
        assert status == 0, err
        return json.loads(out), err

    def fail(self, *arguments: str) -> list[str]:
        """Run into errors; return their lines, each without "error: "."""
        status, out, err = self.run(*arguments)
        assert (status, out) == (2, "")
        lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
        assert lines and all(line.startswith("error: ") for line in lines), err
        return [line.removeprefix("error: ") for line in lines]

    def fail_on(self, task: str, data: object, predictions: object, *more: str) -> str:
        """Run into the one error of these files; return its line without "error: <file>: "."""
        paths = {"data": self.file("d.json", data), "predictions": self.file("p.json", predictions)}
        files = [f"{key}={path}" for key, path in paths.items()]
        (line,) = self.fail(f"task={task}", *files, *more)
        named, _, message = line.partition(": ")
        assert set(named.split()) <= {*files, *more}, line
        return message


@pytest.fixture
def job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Job:
    return Job(tmp_path, capsys)


# ---------------------------------------------------------------- reports


def test_squad_v1_report(job: Job) -> None:
    report, err = job.score("squad_v1", squad(a=["x", "cat"], b=["dog"]), {"a": "The Cat", "b": ""})
    assert list(report.items()) == [("exact_match", 50.0), ("f1", 50.0)]
    assert err == ""


def test_squad_v1_warns_of_what_does_not_match(job: Job) -> None:
    report, err = job.score("squad_v1", squad(a=["cat"], b=["dog"]), {"a": "cat", "z": "dog"})
    assert report["exact_match"] == 50.0
    missing, extra = err.splitlines()
    assert missing == "warning: 1 of 2 questions have no prediction, counted as 0: 'b'"
    assert extra == "warning: 1 of 2 predictions belong to no question of the data, ignored: 'z'"


def test_squad_v2_report(job: Job) -> None:
    data = squad(a=["cat"], b=[], c=["dog"])
    report, err = job.score("squad_v2", data, {"a": "cat", "b": "x"})
    assert report == {
        **{"exact": 50.0, "f1": 50.0, "total": 2},
        **{"HasAns_exact": 100.0, "HasAns_f1": 100.0, "HasAns_total": 1},
        **{"NoAns_exact": 0.0, "NoAns_f1": 0.0, "NoAns_total": 1},
    }
    assert err == "warning: 1 of 3 questions have no prediction, left out of the total: 'c'\n"


def test_squad_v2_null_scores_and_threshold(job: Job) -> None:
    data, predictions = squad(a=["cat"], b=[]), {"a": "cat", "b": "x"}
    null_scores = job.file("n.json", b'{"b": Infinity, "a": 1, "zz": 0.5}')
    report, err = job.score("squad_v2", data, predictions, f"null_scores={null_scores}")
    assert report["exact"] == 100.0  # a is at the default threshold of 1, b beyond
    assert (report["best_f1"], report["best_f1_thresh"]) == (100.0, 1)
    assert list(report)[-3:] == ["pr_exact_ap", "pr_f1_ap", "pr_oracle_ap"]
    assert err == "warning: 1 of 3 null_scores belong to no question of the data, ignored: 'zz'\n"
    more = (f"null_scores={null_scores}", "null_threshold=0.5")
    assert job.score("squad_v2", data, predictions, *more)[0]["exact"] == 50.0


def test_coqa_report(job: Job) -> None:
    data = {"data": [story(), {**story("s2", "reddit"), "additional_answers": {}}]}
    del data["data"][1]["additional_answers"]  # as in the training data
    predictions = [
        {"id": "s1", "turn_id": 1, "answer": "Cat!"},  # each of the three others: 1, 1, 1
        {"id": "s1", "turn_id": 2, "answer": "over there"},  # F1: 2/3, 2/3, 0
        {"id": "s2", "turn_id": 2, "answer": "here"},
        {"id": "s9", "turn_id": 1, "answer": "?"},
    ]
    report, err = job.score("coqa", data, predictions)
    assert report["news"] == {"em": 50.0, "f1": 72.2, "turns": 2}
    assert report["out_domain"] == {"em": 50.0, "f1": 50.0, "turns": 2}
    assert report["overall"]["turns"] == 4
    assert "1 of 4 questions have no prediction, counted as 0: ('s2', 1)" in err
    assert "1 of 4 predictions belong to no question of the data, ignored: ('s9', 1)" in err
    unrounded, _ = job.score("coqa", data, predictions, "rounded=false")
    assert unrounded["news"]["f1"] == pytest.approx(100 * (1 + 4 / 9) / 2, abs=1e-12)
    assert job.score("coqa", data, predictions, "rounded=true", "human=false")[0] == report


def test_coqa_human_needs_no_predictions(job: Job) -> None:
    data = job.file("d.json", {"data": [story()]})
    status, out, err = job.run("task=coqa", f"data={data}", "human=true")
    assert (status, err) == (0, "")
    # cat, dog, cat: 1, 0, 1. here, here, there: 1, 1, 0.
    assert json.loads(out)["overall"] == {"em": 66.7, "f1": 66.7, "turns": 2}


def test_a_warning_lists_ten_ids(job: Job) -> None:
    data = squad(**{f"q{i:02}": ["x"] for i in range(13)})
    _, err = job.score("squad_v2", data, {"q00": "x", "q01": "y"})
    assert "warning: 11 of 13 questions" in err and err.endswith("'q10', 'q11', ...\n")
    _, err = job.score("squad_v2", data, {"q00": "x", "q01": "y", "q02": "z"})
    assert "warning: 10 of 13 questions" in err and err.endswith("'q11', 'q12'\n")


def test_a_byte_order_mark_and_lone_surrogates_are_read(job: Job) -> None:
    data = b"\xef\xbb\xbf" + json.dumps(squad(a=["\ud800 x"])).encode()
    assert job.score("squad_v1", data, b'{"a": "\\ud800 x"}')[0]["exact_match"] == 100.0


def test_a_number_as_question_id_is_read_as_text(job: Job) -> None:
    data = damaged(GOOD, *IN_QAS, 0, "id", value=262)  # as in COVID-QA
    report, err = job.score("squad_v1", data, {"262": "x"})
    assert (report["exact_match"], err) == (100.0, "")


def test_the_script_runs_from_any_folder_and_loads_nothing_heavy(job: Job) -> None:
    files = job.file("d.json", squad(a=["x"])), job.file("p.json", {"a": "x", "\ud800": ""})
    arguments = ["task=squad_v1", f"data={files[0]}", f"predictions={files[1]}"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-X", "importtime", str(SCRIPT), *arguments]
    result = subprocess.run(
        command, cwd=job.folder, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == {"exact_match": 100.0, "f1": 100.0}
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "qa_dist.text.metrics" in loaded
    assert not {"torch", "transformers", "omegaconf", "numpy", "difflib", "argparse"} & loaded
    failed = subprocess.run([sys.executable, str(SCRIPT), "task=x"], capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.startswith("error: task=x")


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(("arguments", "status"), [((), 2), (("-h",), 0), (("x=1", "--help"), 0)])
def test_usage(job: Job, arguments: tuple[str, ...], status: int) -> None:
    got, out, err = job.run(*arguments)
    assert (got, err) == (status, "")
    assert "\nexample: python jobs/score.py task=squad_v2 data=" in out
    assert all(f"  {key} " in out for key in score.KEYS if key != "task")


def test_all_wrong_arguments_are_named_at_once(job: Job) -> None:
    lines = job.fail("task=squad2", "dta=x", "--predictions=p", "rounded=yes", "zzz")
    assert lines == [
        "task=squad2: expected one of squad_v1, squad_v2, coqa; did you mean 'squad_v2'?",
        "dta: unknown key; did you mean 'data'?",
        "--predictions: unknown key; did you mean 'predictions'?",
        "rounded=yes: expected true or false",
        f"zzz: unknown key; known: {', '.join(score.KEYS)}",
        "data: missing; add data=...",
        "predictions: missing; add predictions=...",
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("task=coqa data=d predictions=", "predictions=: expected a file"),
        ("task=coqa data predictions=p", "data=: expected a file"),
        ("data=d predictions=p", "task: missing; add task=..."),
        ("task=coqa data=d predictions=p data=e", "data: given twice; leave one out"),
        (
            "task=coqa data=d predictions=p null_scores=n",
            "null_scores: only task=squad_v2 takes it; leave it out of task=coqa",
        ),
        (
            "task=squad_v1 data=d predictions=p human=false",
            "human: only task=coqa takes it; leave it out of task=squad_v1",
        ),
        (
            "task=squad_v2 data=d predictions=p null_threshold=1",
            "null_threshold: it needs null scores; add null_scores=FILE",
        ),
        (
            "task=squad_v2 data=d predictions=p null_scores=n null_threshold=two",
            "null_threshold=two: expected a number",
        ),
        (
            "task=squad_v2 data=d predictions=p null_scores=n null_threshold=-NaN",
            "null_threshold=-NaN: expected a number",
        ),
        (
            "task=coqa data=d predictions=p human=true",
            "predictions: human=true scores the references; leave one of the two out",
        ),
    ],
)
def test_a_wrong_argument(job: Job, arguments: str, expected: str) -> None:
    assert job.fail(*arguments.split()) == [expected]


# ---------------------------------------------------------------- files

GOOD = squad(a=["x"])


def test_all_bad_files_are_named_at_once(job: Job) -> None:
    data, predictions = job.folder / "absent.json", job.file("p.json", [])
    lines = job.fail("task=squad_v1", f"data={data}", f"predictions={predictions}")
    assert lines == [
        f"data={data}: No such file or directory; give a JSON file that can be read",
        f"predictions={predictions}: expected an object {{question id: str}}, found list",
    ]


def test_a_folder_in_place_of_a_file(job: Job) -> None:
    predictions = job.file("p.json", {})
    (line,) = job.fail("task=coqa", f"data={job.folder}", f"predictions={predictions}")[:1]
    assert line == f"data={job.folder}: Is a directory; give a JSON file that can be read"


def test_an_unreadable_file(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:  # a file's mode would not stop root
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    lines = job.fail("task=squad_v1", "data=d.json", "predictions=p.json")
    assert lines[0] == "data=d.json: Permission denied; give a JSON file that can be read"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty; write it anew"),
        (b" \n", "the file is empty; write it anew"),
        (b'{"a":\n "x",}', "malformed JSON at line 2 column 6: "),
        (b'{"a": "x"', "malformed JSON at line 1 column 10: "),
        (b'{"a": "x"}{}', "malformed JSON at line 1 column 11: Extra data"),
        (
            b'{"NaN": "NaN \\" NaN",\n "a": NaN}',
            "malformed JSON at line 2 column 7: NaN is not JSON",
        ),
        (b'{"a": "\xe4"}', "byte 7 is not UTF-8; save the file as UTF-8"),
        (b'{"a": "x", "b": "", "a": "y"}', "the key 'a' stands twice in one object"),
        (b'{"a": ' + b"1" * 5000 + b"}", "JSON that can't be read: Exceeds the limit"),
        (b"[" * 100_000, "JSON that can't be read: maximum recursion"),
        (b'["a"]', "expected an object {question id: str}, found list"),
        (b'{"b": "x", "a": null}', "id 'a': expected {question id: str}, found None"),
        (b'{"a": ["x"]}', "id 'a': expected {question id: str}, found ['x']"),
    ],
)
def test_bad_predictions(job: Job, content: bytes, expected: str) -> None:
    assert job.fail_on("squad_v1", GOOD, content).startswith(expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": "0.5"}', "id 'a': expected {question id: float}, found '0.5'"),
        (b'{"a": true}', "id 'a': expected {question id: float}, found True"),
        (b'{"a": NaN}', "malformed JSON at line 1 column 7: NaN is not JSON"),
        (b"{}", "1 predicted questions lack a null score: 'a' first"),
    ],
)
def test_bad_null_scores(job: Job, content: bytes, expected: str) -> None:
    more = f"null_scores={job.file('n.json', content)}"
    assert job.fail_on("squad_v2", GOOD, {"a": "x"}, more).startswith(expected)


def damaged(data: dict[str, Any], *path: str | int, value: object = None) -> dict[str, Any]:
    """Return a copy with the item at `path` replaced by `value`, or removed where that is None."""
    copy = json.loads(json.dumps(data))
    *parents, last = path
    record = copy
    for step in parents:
        record = record[step]
    if value is None:
        del record[last]
    else:
        record[last] = value
    return dict(copy)


IN_QAS = ("data", 0, "paragraphs", 0, "qas")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([], "the top level: expected the key 'data' (list), found []"),
        ({"version": "1.1"}, "the top level: expected the key 'data' (list), found no such key"),
        ({"data": {}}, "the top level: expected the key 'data' (list), found {}"),
        ({"data": []}, "it holds no question; give the official file"),
        ({"data": ["x"]}, "data[0]: expected the key 'paragraphs' (list), found 'x'"),
        (damaged(GOOD, "data", 0, "paragraphs"), "data[0]: expected the key 'paragraphs'"),
        (damaged(GOOD, *IN_QAS), "data[0].paragraphs[0]: expected the key 'qas' (list)"),
        (damaged(GOOD, *IN_QAS, 0, "id"), "data[0].paragraphs[0].qas[0]: expected the key 'id'"),
        (
            damaged(GOOD, *IN_QAS, 0, "id", value=7.5),
            "data[0].paragraphs[0].qas[0]: expected the key 'id' (str), found 7.5",
        ),
        (
            damaged(GOOD, *IN_QAS, 0, "answers"),
            "data[0].paragraphs[0].qas[0]: expected the key 'answers' (list), found no such key",
        ),
        (
            damaged(GOOD, *IN_QAS, 0, "answers", 0, "text"),
            "data[0].paragraphs[0].qas[0].answers[0]: expected the key 'text' (str)",
        ),
        (
            {"data": GOOD["data"] * 2},
            "data[1].paragraphs[0].qas[0]: question id 'a' stands twice; keep one of them",
        ),
        (squad(a=["x"], b=[]), "expected answers to every question of SQuAD 1.1, but 'b' has none"),
    ],
)
def test_bad_squad_data(job: Job, data: object, expected: str) -> None:
    assert job.fail_on("squad_v1", data, {"a": "x", "b": "x"}).startswith(expected)


def test_no_prediction_for_any_question(job: Job) -> None:
    message = job.fail_on("squad_v2", GOOD, {"z": "x"})
    assert message == "none of the 1 questions has a prediction: do the ids match?"


COQA = {"data": [story()]}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (damaged(COQA, "data", 0, "id"), "data[0]: expected the key 'id' (str)"),
        (damaged(COQA, "data", 0, "source"), "data[0]: expected the key 'source' (str)"),
        (damaged(COQA, "data", 0, "questions"), "data[0]: expected the key 'questions' (list)"),
        (damaged(COQA, "data", 0, "answers"), "data[0]: expected the key 'answers' (list)"),
        (
            damaged(COQA, "data", 0, "additional_answers", value=[]),
            "data[0]: expected the key 'additional_answers' (dict), found []",
        ),
        (
            damaged(COQA, "data", 0, "additional_answers", "1", 1),
            "data[0]: story 's1' has not one answer to each question in each list",
        ),
        (
            damaged(COQA, "data", 0, "additional_answers", "1", 1, "input_text"),
            "data[0].additional_answers.1[1]: expected the key 'input_text' (str)",
        ),
        (
            damaged(COQA, "data", 0, "answers", 1, "turn_id", value=1),
            "data[0].questions[1]: turn_id [2, 1, 2, 2] of story 's1': expected the same, once",
        ),
        (
            damaged(COQA, "data", 0, "answers", 1, "turn_id", value="2"),
            "data[0].answers[1]: expected the key 'turn_id' (int), found '2'",
        ),
        (
            {"data": [story(), story()]},
            "data[1].questions[0]: turn_id [1, 1, 1, 1] of story 's1': expected the same, once",
        ),
        ({"data": [story(source="web")]}, "turn ('s1', 1): expected a source of ['mctest', "),
        ({"data": []}, "it holds no question; give the official file"),
        ({"data": [[]]}, "data[0]: expected the key 'id' (str), found []"),
    ],
)
def test_bad_coqa_data(job: Job, data: object, expected: str) -> None:
    predictions = [{"id": "s1", "turn_id": turn, "answer": "x"} for turn in (1, 2)]
    assert job.fail_on("coqa", data, predictions).startswith(expected)


@pytest.mark.parametrize(
    ("predictions", "expected"),
    [
        ({"s1": "x"}, "expected a list of objects with id, turn_id and answer, found dict"),
        (["x"], "[0]: expected the key 'id' (str), found 'x'"),
        ([{"turn_id": 1, "answer": "x"}], "[0]: expected the key 'id' (str), found no such key"),
        ([{"id": "s1", "turn_id": "1", "answer": "x"}], "[0]: expected the key 'turn_id' (int)"),
        ([{"id": "s1", "turn_id": True, "answer": "x"}], "[0]: expected the key 'turn_id' (int)"),
        (
            [{"id": "s1", "turn_id": 1, "answer": None}],
            "[0]: expected the key 'answer' (str), found None",
        ),
        (
            [{"id": "s1", "turn_id": 1, "answer": x} for x in "ab"],
            "[1]: the answer to ('s1', 1) stands twice; keep one of them",
        ),
    ],
)
def test_bad_coqa_predictions(job: Job, predictions: object, expected: str) -> None:
    assert job.fail_on("coqa", COQA, predictions).startswith(expected)


def test_coqa_human_with_one_reference(job: Job) -> None:
    data = job.file("d.json", damaged(COQA, "data", 0, "additional_answers"))
    (line,) = job.fail("task=coqa", f"data={data}", "human=true")
    assert line.startswith(f"data={data}: turn ('s1', 1): human performance needs at least two")


# ---------------------------------------------------------------- real data


def real_data(name: str) -> Path:
    folder = os.environ.get("QA_DIST_TEST_DATA")
    if not folder:
        pytest.skip("QA_DIST_TEST_DATA is not set: no real data")
    return Path(folder) / "data" / name


def test_real_squad_answers_score_full_marks(job: Job) -> None:
    data = real_data("squad/dev-v2.0.json")
    articles = json.loads(data.read_text(encoding="utf-8"))["data"]
    questions = [q for article in articles for p in article["paragraphs"] for q in p["qas"]]
    best = {q["id"]: q["answers"][0]["text"] if q["answers"] else "" for q in questions}
    predictions = job.file("p.json", best)
    status, out, err = job.run("task=squad_v2", f"data={data}", f"predictions={predictions}")
    report = json.loads(out)
    assert (status, err) == (0, "")
    assert (report["exact"], report["total"]) == (100.0, len(questions))
    assert report["HasAns_total"] + report["NoAns_total"] == report["total"]


def test_real_coqa_record(job: Job) -> None:
    data = real_data("coqa/official-one-dev.json")
    status, out, err = job.run("task=coqa", f"data={data}", "human=true")
    assert (status, err) == (0, "")
    # 12 turns of 4 references each; checked against the official script.
    assert json.loads(out)["overall"] == {"em": 75.0, "f1": 90.8, "turns": 12}
