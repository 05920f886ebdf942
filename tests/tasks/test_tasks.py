"""Each task has what the Protocol says, and is named as recipes name it."""

import pytest

from qa_dist.recipe import TASKS as TASK_NAMES
from qa_dist.tasks import TASKS


def test_recipes_and_modules_agree():
    assert set(TASKS) == set(TASK_NAMES)


@pytest.mark.parametrize("name", TASKS)
def test_null_is_answered_one_way(name):
    task = TASKS[name]
    assert task.NULL_CLASS is None or task.NULL_CLASS in task.ANSWER_CLASSES
    expected = task.NULL_CLASS or ""
    assert expected == task.NULL_TEXT
    assert task.LEVELS[:1] in (("data",), ())  # a CoNLL file has none
    assert task.count_questions({}) == 0
