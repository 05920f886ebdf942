"""Tokenizers load by folder, keep or drop case as told, and are told apart by their digest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chat_model import make_chat_model
from huggingface_hub import constants
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from qa_dist.data.tokenizer import (
    load_chat_tokenizer,
    load_tokenizer,
    model_limit,
    read_model_config,
    tokenizer_digest,
)
from qa_dist.records import PAD_MULTIPLE, InputError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CASED = [*SPECIAL, "The", "Sky", "the", "sky", "Is", "is", "É", "e", "##s"]
UNCASED = [*SPECIAL, "the", "sky", "is", "e", "##s"]


def write_model(folder: Path, model_type: str = "bert", **config: Any) -> Path:
    folder.mkdir(parents=True)
    config = {"model_type": model_type, "max_position_embeddings": 512, **config}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_vocab(folder: Path, vocab: list[str]) -> Path:
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab))
    return folder


def write_settings(folder: Path, **settings: Any) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def wordpiece(vocab: list[str], lower_case: bool) -> Tokenizer:
    ids = {token: i for i, token in enumerate(vocab)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


GENERIC = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    **{f"{token[1:-1].lower()}_token": token for token in SPECIAL},
}


def tokens_of(folder: Path, lower_case: bool | None, text: str = "The Sky") -> list[str]:
    backend = load_tokenizer(str(folder), lower_case).backend
    tokens: list[str] = backend.encode(text, add_special_tokens=False).tokens
    return tokens


# Case


def test_a_cased_vocabulary_without_settings_is_not_lower_cased_in_silence(tmp_path: Path) -> None:
    """SpanBERT's files: vocab.txt and nothing that says how to read it."""
    folder = write_vocab(write_model(tmp_path / "m"), CASED)
    with pytest.raises(InputError, match=r"model\.lower_case=false"):
        load_tokenizer(str(folder), None)
    assert tokens_of(folder, False) == ["The", "Sky"]
    assert tokens_of(folder, True) == ["the", "sky"]


def test_a_cased_tokenizer_json_is_not_lower_cased_in_silence(tmp_path: Path) -> None:
    """transformers 5 takes do_lower_case=True for granted, whatever tokenizer.json says."""
    folder = write_model(tmp_path / "m")
    wordpiece(CASED, lower_case=False).save(str(folder / "tokenizer.json"))
    with pytest.raises(InputError, match=r"model\.lower_case=false"):
        load_tokenizer(str(folder), None)
    assert tokens_of(folder, False) == ["The", "Sky"]
    write_settings(folder, do_lower_case=False)
    assert tokens_of(folder, None) == ["The", "Sky"]


def test_files_that_ask_for_lower_case_get_it(tmp_path: Path) -> None:
    folder = write_vocab(write_model(tmp_path / "a"), CASED)
    assert tokens_of(write_settings(folder, do_lower_case=True), None) == ["the", "sky"]
    folder = write_model(tmp_path / "b")
    wordpiece(CASED, lower_case=True).save(str(folder / "tokenizer.json"))
    assert tokens_of(folder, None) == ["the", "sky"]
    folder = write_vocab(write_model(tmp_path / "c"), UNCASED)
    assert tokens_of(folder, None) == ["the", "sky"]


@pytest.mark.parametrize("says", [False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_lower_case_is_obeyed_where_transformers_ignores_it(
    tmp_path: Path, says: bool, asked: bool
) -> None:
    folder = write_settings(write_model(tmp_path / "m"), **GENERIC)
    wordpiece(CASED, lower_case=says).save(str(folder / "tokenizer.json"))
    from transformers import AutoTokenizer

    ignored = AutoTokenizer.from_pretrained(folder, do_lower_case=asked)
    assert (ignored.tokenize("The") == ["the"]) == says, "what this test is about"
    assert tokens_of(folder, asked) == (["the", "sky"] if asked else ["The", "Sky"])
    assert tokens_of(folder, None) == (["the", "sky"] if says else ["The", "Sky"])
    accents = tokens_of(folder, asked, "É [SEP]")
    assert accents == (["e", "[SEP]"] if asked else ["É", "[SEP]"])


@pytest.mark.parametrize("asked", [False, True])
def test_lower_case_with_normalizers_in_a_row(tmp_path: Path, asked: bool) -> None:
    folder = write_settings(write_model(tmp_path / "m"), **GENERIC)
    tokenizer = wordpiece(CASED, lower_case=False)
    steps = [normalizers.NFKC(), *([] if asked else [normalizers.Lowercase()])]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert tokens_of(folder, asked) == (["the", "sky"] if asked else ["The", "Sky"])


def test_case_that_cannot_be_changed_is_an_error(tmp_path: Path) -> None:
    folder = write_settings(write_model(tmp_path / "m"), **GENERIC)
    tokenizer = wordpiece(CASED, lower_case=False)
    tokenizer.normalizer = normalizers.Replace("A", "a")  # as a case-folding character map does
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(InputError, match=r"model\.lower_case=false has no effect"):
        load_tokenizer(str(folder), False)


# Loading


def test_what_is_loaded(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    tokenizer = wordpiece(UNCASED, lower_case=True)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    loaded = load_tokenizer(str(folder), None)
    assert (loaded.backend.truncation, loaded.backend.padding) == (None, None)
    assert len(loaded.backend.encode("the sky is the sky").ids) == 7
    assert loaded.sep_text == "[SEP]"
    assert (loaded.template.before, loaded.template.between) == ((2,), (3,))
    assert loaded.template.type_ids == (0, 0, 0, 1, 1)
    assert (loaded.template.sep_id, loaded.template.pad_id) == (3, 0)
    extra = loaded.backend.encode("<extra>", add_special_tokens=False).ids
    assert extra == [loaded.vocab_size - 1]


def saved_tokenizer(folder: Path, family: str) -> Any:
    from transformers import AlbertTokenizer, BertTokenizer, RobertaTokenizer

    write_model(folder, family)
    tokenizer: Any
    if family == "bert":
        tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(UNCASED)})
    elif family == "roberta":
        tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        tokens += sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = RobertaTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[])
    else:
        pieces = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", "▁", "▁the", "▁sky", "is", "s"]
        tokenizer = AlbertTokenizer(vocab=[(piece, -1.0 * i) for i, piece in enumerate(pieces)])
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize(
    ("family", "num_special", "sep_text"),
    [("bert", 3, "[SEP]"), ("roberta", 4, "</s>"), ("albert", 3, "[SEP]")],
)
def test_families(tmp_path: Path, family: str, num_special: int, sep_text: str) -> None:
    peer = saved_tokenizer(tmp_path / "m", family)
    loaded = load_tokenizer(str(tmp_path / "m"), None)
    assert (loaded.template.num_special_tokens, loaded.sep_text) == (num_special, sep_text)
    assert (loaded.template.sep_id, loaded.template.pad_id) == (
        peer.sep_token_id,
        peer.pad_token_id,
    )
    assert loaded.template.null_position == 0 and loaded.vocab_size == len(peer)
    texts = (f"the Sky{sep_text}is", "the sky is the sky")
    assert loaded.backend.encode(*texts).ids == peer(*texts)["input_ids"]


def test_a_folder_without_tokenizer_files(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    calls: list[Any] = [load_tokenizer, tokenizer_digest]
    for call in calls:  # transformers would make up a vocabulary of the 5 special tokens
        with pytest.raises(InputError, match=r"model\.name=.*no tokenizer files.*tokenizer\.json"):
            call(str(folder), None)


def offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


@pytest.mark.parametrize(
    "name", ["no-such-team/no-such-model", "no-such-model", "/no/such/folder", "./no", "a/b/c", ""]
)
def test_a_name_that_leads_nowhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, tmp_path)
    calls: list[Any] = [
        lambda: load_tokenizer(name, None),
        lambda: tokenizer_digest(name, None),
        lambda: model_limit(name),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"model\.name.*expected a folder") as caught:
            call()
        assert "\n" not in str(caught.value)
        if name.startswith("no-such"):
            assert f"hf download {name}" in str(caught.value)


def test_broken_files_are_named(tmp_path: Path) -> None:
    folder = write_vocab(write_model(tmp_path / "m"), UNCASED)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"model\.name=.*can't be loaded"):
        load_tokenizer(str(folder), None)
    for broken in ("{", "[]"):
        (folder / "config.json").write_text(broken)
        with pytest.raises(InputError, match=r"config\.json"):
            tokenizer_digest(str(folder), None)


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", model_type="no-such-type")
    write_settings(folder, auto_map={"AutoTokenizer": ["code.Mine", "code.Mine"]})
    flag = tmp_path / "ran"
    (folder / "code.py").write_text(f"open({str(flag)!r}, 'w')\nclass Mine: pass\n")
    with pytest.raises(InputError):
        load_tokenizer(str(folder), None)
    assert not flag.exists()


@pytest.mark.parametrize("role", ["cls", "sep", "pad"])
def test_a_tokenizer_without_the_tokens_that_windows_need(tmp_path: Path, role: str) -> None:
    settings = {key: value for key, value in GENERIC.items() if key != f"{role}_token"}
    folder = write_settings(write_model(tmp_path / "m"), **settings)
    wordpiece(UNCASED, lower_case=True).save(str(folder / "tokenizer.json"))
    with pytest.raises(InputError, match=f"no {role} token"):
        load_tokenizer(str(folder), None)


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write_vocab(write_model(tmp_path / "m", model_type="canine"), UNCASED)
    write_settings(folder, tokenizer_class="CanineTokenizer")
    with pytest.raises(InputError, match=r"CanineTokenizer isn't a fast tokenizer"):
        load_tokenizer(str(folder), None)


# Digest and limit


def test_the_digest_depends_on_what_the_tokens_depend_on(tmp_path: Path) -> None:
    folder = write_vocab(write_model(tmp_path / "m"), CASED)
    seen = [tokenizer_digest(str(folder), lower_case) for lower_case in (None, False, True)]
    write_settings(folder, do_lower_case=False)
    seen.append(tokenizer_digest(str(folder), None))
    write_vocab(folder, UNCASED)
    seen.append(tokenizer_digest(str(folder), None))
    write_model(tmp_path / "e", model_type="electra")
    (folder / "config.json").write_text((tmp_path / "e/config.json").read_text())
    seen.append(tokenizer_digest(str(folder), None))
    wordpiece(UNCASED, lower_case=True).save(str(folder / "tokenizer.json"))
    seen.append(tokenizer_digest(str(folder), None))
    assert len(set(seen)) == len(seen) == 7
    assert all(len(digest) == 64 for digest in seen)


def test_the_digest_depends_on_nothing_else(tmp_path: Path) -> None:
    first = write_vocab(write_model(tmp_path / "a"), CASED)
    second = write_vocab(write_model(tmp_path / "b", hidden_size=9), CASED)
    (second / "README.md").write_text("moved and described")
    assert tokenizer_digest(str(first), None) == tokenizer_digest(str(second), None)
    for folder in (first, second):
        wordpiece(CASED, lower_case=True).save(str(folder / "tokenizer.json"))
    (second / "vocab.txt").unlink()  # not read beside a tokenizer.json
    assert tokenizer_digest(str(first), None) == tokenizer_digest(str(second), None)


@pytest.mark.parametrize(
    ("model_type", "positions", "limit"),
    [
        ("bert", 512, 512),
        ("roberta", 514, 512),
        ("xlm-roberta", 514, 512),
        ("camembert", 514, 512),
        ("bert", 100, 96),  # windows are padded up to a multiple of 8
        ("t5", None, None),
        ("xlnet", -1, None),
    ],
)
def test_model_limit(
    tmp_path: Path, model_type: str, positions: int | None, limit: int | None
) -> None:
    folder = write_model(tmp_path / "m", model_type, max_position_embeddings=positions)
    assert model_limit(str(folder)) == limit
    assert not limit or limit % PAD_MULTIPLE == 0


BERT_SETTINGS: dict[str, Any] = {
    **{"vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
    **{"intermediate_size": 8, "max_position_embeddings": 512, "type_vocab_size": 2},
}


@pytest.mark.parametrize("more", [{}, {"architectures": ["BertForPreTraining"]}])
def test_a_config_without_model_type_is_berts_if_plainly_so(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    """TinyBERT's and SpanBERT's files; transformers 5 refuses them."""
    (tmp_path / "config.json").write_text(json.dumps({**BERT_SETTINGS, **more}))
    assert read_model_config(str(tmp_path))["model_type"] == "bert"
    assert tokens_of(write_vocab(tmp_path, UNCASED), None) == ["the", "sky"]
    assert tokens_of(tmp_path, True) == ["the", "sky"]


@pytest.mark.parametrize(
    "more",
    [
        {"type_vocab_size": 1},
        {"embedding_size": 128},
        {"architectures": ["RobertaModel"]},
        {"hidden_size": None},
    ],
)
def test_another_config_without_model_type_is_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    config = {key: v for key, v in {**BERT_SETTINGS, **more}.items() if v is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for read in (read_model_config, model_limit):
        with pytest.raises(InputError, match=r'its config\.json names no "model_type".*write'):
            read(str(tmp_path))


def test_model_limit_needs_the_config(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        model_limit(str(tmp_path))


def test_a_cached_hub_model_is_found_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, tmp_path)
    repository = tmp_path / "models--team--model"
    folder = write_vocab(write_model(repository / "snapshots/0123"), UNCASED)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123")
    assert model_limit("team/model") == 512
    assert tokenizer_digest("team/model", None) == tokenizer_digest(str(folder), None)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="hf download team/model"):
        model_limit("team/model")


def test_a_submit_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    folder = write_vocab(write_model(tmp_path / "m"), UNCASED)
    code = f"""
import sys
from qa_dist.data.tokenizer import model_limit, tokenizer_digest
tokenizer_digest({str(folder)!r}, None), model_limit({str(folder)!r})
heavy = ["torch", "transformers", "tokenizers", "huggingface_hub", "numpy"]
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif("QA_DIST_TEST_DATA" not in os.environ, reason="QA_DIST_TEST_DATA isn't set")
def test_a_published_model() -> None:
    folder = f"{os.environ['QA_DIST_TEST_DATA']}/models/all-MiniLM-L6-v2"
    loaded = load_tokenizer(folder, None)
    assert (loaded.backend.truncation, loaded.backend.padding) == (None, None)  # it sets both
    assert (loaded.vocab_size, loaded.template.num_special_tokens) == (30522, 3)
    assert model_limit(folder) == 512
    started = time.monotonic()
    assert tokenizer_digest(folder, None) != tokenizer_digest(folder, True)
    assert time.monotonic() - started < 0.5


def test_a_chat_tokenizer_has_a_template(tmp_path: Path):
    make_chat_model(tmp_path)
    before = tokenizer_digest(str(tmp_path), None)
    assert load_chat_tokenizer(str(tmp_path)).chat_template
    template = tmp_path / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert tokenizer_digest(str(tmp_path), None) != before
    template.unlink()
    with pytest.raises(InputError, match=r"model\.name=.* has no chat template.*Instruct"):
        load_chat_tokenizer(str(tmp_path))
