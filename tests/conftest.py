"""Fixtures that many tests share: a tiny random encoder, tiny data files, a launcher in a process
of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chat_model import make_chat_model
from prepared_data import made_articles
from zygote import Zygote

from qa_dist.run_dir import RunDir

# Started in the background by a shell, or by nohup, we would ignore these, and so would all that
# tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "qa_dist" / "sample"


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with real data for trials; tests that need it are skipped where it isn't there."""
    folder = os.environ.get("QA_DIST_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("QA_DIST_TEST_DATA names no folder with real data")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT (2 layers, 32 hidden) and a WordPiece tokenizer of the sample's
    words."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast, set_seed

    folder = tmp_path_factory.mktemp("tiny_encoder")
    stories = json.loads((SAMPLE / "coqa-dev.json").read_text())["data"]
    texts = [story["story"] for story in stories]
    texts += [question["input_text"] for story in stories for question in story["questions"]]
    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(texts, vocab_size=600, show_progress=False)
    BertTokenizerFast(tokenizer_object=trained._tokenizer).save_pretrained(folder)
    set_seed(0)
    config = BertConfig(
        vocab_size=trained.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_job(tmp_path: Path) -> Run:
    """Run `python jobs/<name>.py words...` from a folder of the test's own; return the finished
    process."""

    def run(
        name: str, *words: str, timeout: float = 300, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "160", **(env or {})},
        )

    return run


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Forks real processes that have torch imported; see tests/zygote.py."""
    zygote = Zygote(tmp_path_factory.mktemp("zygote"))
    yield zygote
    zygote.close()


@pytest.fixture(scope="session")
def lm_zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Forks processes that have imported what a quantised language model needs too."""
    modules = ("peft", "bitsandbytes", "transformers.models.qwen2.modeling_qwen2")
    zygote = Zygote(tmp_path_factory.mktemp("lm_zygote"), *modules)
    yield zygote
    zygote.close()


@pytest.fixture(scope="session")
def tiny_chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random language model and its chat tokenizer."""
    return make_chat_model(tmp_path_factory.mktemp("tiny_chat"), tie_word_embeddings=False)


@pytest.fixture(scope="session")
def launch_words(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words for jobs/launch.py: in this process, prepared data shared by all
    tests."""
    prepared = tmp_path_factory.mktemp("shared") / "prepared"
    return [
        "recipe=tiny_coqa",
        "profile=debug",
        "name=main",
        f"prepared_dir={prepared}",
        f"model.name={tiny_encoder}",
        f"sources.0.train={SAMPLE / 'coqa-train.json'}",
        f"sources.0.dev={SAMPLE / 'coqa-dev.json'}",
        "sources.0.max_train_examples=128",
        "sources.0.max_dev_examples=48",
        "train.batch_windows=8",
        "train.max_steps=8",
        "train.checkpoint_every_steps=3",
        "train.keep_checkpoints=2",
        "train.learning_rate=5e-4",
        "train.log_every_steps=2",
        "train.validation_windows=16",
        "evaluation.num_resamples=50",
        "data.num_shards=1",
    ]


@pytest.fixture(scope="session")
def finished_run(
    zygote: Zygote, launch_words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """A run of all stages that nothing interrupted. For reading only: copy it to change it."""
    runs = tmp_path_factory.mktemp("finished")
    child = zygote.run("launch", *launch_words, f"runs_dir={runs}")
    assert child.status == 0, child.text
    return RunDir(runs / "tiny_coqa" / "main")


@pytest.fixture(scope="session")
def words_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of a few words, and a config: no weights, which aren't needed."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    trained = BertWordPieceTokenizer(lowercase=True)
    texts = [p["context"] for article in made_articles(8) for p in article] * 3
    trained.train_from_iterator(texts, vocab_size=200, min_frequency=1, show_progress=False)
    folder = tmp_path_factory.mktemp("encoder")
    BertTokenizerFast(tokenizer_object=trained._tokenizer).save_pretrained(folder)
    config = {"model_type": "bert", "max_position_embeddings": 128}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
