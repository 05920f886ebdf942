"""A model's tokenizer by name: loaded whole for the prepare stage, or as a digest for a submit.

In: `model.name` (a folder or a hub name) and `model.lower_case`. Out: the fast tokenizer's backend
with its pair template; a digest of all that its result depends on; the longest input of the model.
Only `load_tokenizer` imports transformers: a submit needs the other two and must start at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qa_dist.files import canonical_json, file_sha256
from qa_dist.records import PAD_MULTIPLE, InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from qa_dist.text.windows import PairTemplate

CONFIG_FILE = "config.json"
_WHOLE_FILE = "tokenizer.json"
_SETTINGS_FILE = "tokenizer_config.json"
_TEMPLATE_FILE = "chat_template.jinja"
_SETTING_FILES = (
    *(_SETTINGS_FILE, "special_tokens_map.json", "added_tokens.json"),
    _TEMPLATE_FILE,
)
_VOCAB_FILES = (
    *("vocab.txt", "vocab.json", "merges.txt", "bpe.codes"),
    *("spiece.model", "spm.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
# Their position ids start at 2, so two of the positions are never used.
_POSITIONS_FROM_2 = {
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
# What Google's BERT code called its settings; published checkpoints of that age name no model_type.
_BERT_SETTINGS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "max_position_embeddings", "type_vocab_size"),
)
_MAX_CASED_SHARE = 0.01
_EXPECTED = (
    "expected a folder with config.json and tokenizer.json (or vocabulary files), or a hub name"
)
_DOWNLOAD = (
    "on a machine without internet, or with HF_HUB_OFFLINE set, download it first where there is"
    " internet, e.g. `hf download {name}` on a login node"
)


@dataclass(frozen=True)
class LoadedTokenizer:
    """A fast tokenizer's backend, without truncation or padding, and what goes around its pairs."""

    backend: Tokenizer
    template: PairTemplate
    sep_text: str
    """The separator's text: joins history and question before they are tokenised."""
    vocab_size: int
    """All token ids are smaller; added tokens included."""


def load_tokenizer(name: str, lower_case: bool | None) -> LoadedTokenizer:
    """Load the tokenizer of `model.name`; raise InputError if there is none, or none that is fast.

    `lower_case` None leaves case to the model's files; InputError if these don't say, and
    transformers' default would lower-case a cased vocabulary (SpanBERT's files are like that).
    """
    from tokenizers import Tokenizer

    from qa_dist.text.windows import read_pair_template

    loaded = _load_from_files(name, lower_case)
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise InputError(
            f"model.name={name}: {type(loaded).__name__} isn't a fast tokenizer, and windows need "
            "one; use a model with a tokenizer.json, such as a BERT, RoBERTa or ALBERT model"
        )
    if lower_case is None:
        _check_case(name, backend)
    elif _lower_cases(backend) != lower_case:  # tokenizers without a class of their own ignore it
        backend = _with_case(name, backend, lower_case)
    backend.no_truncation()
    backend.no_padding()
    ids: dict[str, int] = {}
    for role in ("cls", "sep", "pad"):
        token_id = getattr(loaded, f"{role}_token_id", None)
        if token_id is None:
            raise InputError(
                f"model.name={name}: its tokenizer has no {role} token; question answering needs "
                "cls, sep and pad tokens: use an encoder such as a BERT, RoBERTa or ALBERT model"
            )
        ids[role] = token_id
    sep_text = str(loaded.sep_token)
    if backend.encode(sep_text, add_special_tokens=False).ids != [ids["sep"]]:
        raise InputError(
            f"model.name={name}: its tokenizer doesn't keep its separator {sep_text!r} in one "
            "piece; list it among the special tokens of tokenizer.json"
        )
    template = read_pair_template(backend, ids["cls"], ids["sep"], ids["pad"])
    vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
    return LoadedTokenizer(backend, template, sep_text, vocab_size)


def check_chat_template(name: str) -> None:
    """Raise InputError if the model's tokenizer has no chat template; loads nothing."""
    files = _find_files(name, (_SETTINGS_FILE, _TEMPLATE_FILE))
    has_one = _TEMPLATE_FILE in files
    if not has_one and _SETTINGS_FILE in files:
        has_one = bool(_read_json(name, files[_SETTINGS_FILE]).get("chat_template"))
    if not has_one:
        raise InputError(
            f"model.name={name}: its tokenizer has no chat template; with model.head=causal_lm use "
            "a model that was trained on conversations, such as Qwen/Qwen2.5-3B-Instruct"
        )


def load_chat_tokenizer(name: str) -> Any:
    """Load the tokenizer of a chat model, with its own chat template; raise InputError if it can't
    be loaded, isn't fast or has no template."""
    loaded = _load_from_files(name, None)
    if not getattr(loaded, "is_fast", False):
        raise InputError(
            f"model.name={name}: {type(loaded).__name__} isn't a fast tokenizer, and prompts need "
            "one to cut long contexts; use a model with a tokenizer.json"
        )
    check_chat_template(name)
    return loaded


def tokenizer_digest(name: str, lower_case: bool | None) -> str:
    """Return a sha256 of the files that make up the tokenizer, and of `lower_case`.

    Vocabulary files count only without a tokenizer.json: transformers doesn't read them beside one.
    """
    files = _find_tokenizer_files(name)
    config = _read_json(name, files.pop(CONFIG_FILE, None))
    parts = {
        "files": {filename: file_sha256(path) for filename, path in files.items()},
        "model_type": config.get("model_type"),
        "tokenizer_class": config.get("tokenizer_class"),
        "lower_case": lower_case,
    }
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def read_model_config(name: str) -> dict[str, Any]:
    """Return the encoder's config.json, with a "model_type" also where the file has none.

    Files of BERT's age (TinyBERT's, SpanBERT's) don't name it, and transformers 5 no longer guesses
    it from the folder's name. What is plainly BERT's is taken as such; InputError for all else.
    """
    config = _read_json(name, _find_files(name, (CONFIG_FILE,)).get(CONFIG_FILE))
    if "model_type" in config:
        return config
    named = [str(model_class) for model_class in config.get("architectures") or ()]
    is_bert = (
        all(key in config for key in _BERT_SETTINGS)
        and config["type_vocab_size"] == 2  # 1: RoBERTa's
        and "embedding_size" not in config  # ALBERT's, ELECTRA's, MobileBERT's
        and all(model_class.startswith("Bert") for model_class in named)
    )
    if not is_bert:
        raise InputError(
            f'model.name={name}: its config.json names no "model_type", and its settings aren\'t'
            ' plainly BERT\'s; write the architecture into it, such as "model_type": "roberta"'
        )
    return {**config, "model_type": "bert"}


def model_limit(name: str) -> int | None:
    """Return the most tokens of a window, special ones included; None if the model has no limit.

    A multiple of 8 where there is one: windows are padded up to that, and must still have
    positions.
    """
    config = read_model_config(name)
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions <= 0:
        return None
    limit = positions - 2 if config["model_type"] in _POSITIONS_FROM_2 else positions
    return limit - limit % PAD_MULTIPLE


def _load_from_files(name: str, lower_case: bool | None) -> Any:
    from transformers import AutoTokenizer

    options: dict[str, Any] = {} if lower_case is None else {"do_lower_case": lower_case}
    # Without these files transformers raises obscure errors, or gives BERT 5 tokens and no error.
    config = _read_json(name, _find_tokenizer_files(name).get(CONFIG_FILE))
    if "model_type" not in config:
        options["tokenizer_type"] = read_model_config(name)["model_type"]
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"model.name={name}: its tokenizer can't be loaded ({reason}); {_EXPECTED}; "
            + _DOWNLOAD.format(name=name)
        ) from error


# Case


def _check_case(name: str, backend: Tokenizer) -> None:
    """Raise InputError if lower-casing is only a default, and the vocabulary is a cased one."""
    if not _lower_cases(backend):
        return
    files = _find_files(name, (_WHOLE_FILE, _SETTINGS_FILE))
    if _SETTINGS_FILE in files and "do_lower_case" in _read_json(name, files[_SETTINGS_FILE]):
        return
    if _WHOLE_FILE in files:
        parts = _normalizer_parts(_read_json(name, files[_WHOLE_FILE]).get("normalizer"))
        if any(part["type"] == "Lowercase" or part.get("lowercase") for part in parts):
            return
    special = {token.content for token in backend.get_added_tokens_decoder().values()}
    tokens = [token for token in backend.get_vocab() if token not in special]
    num_cased = sum(token != token.lower() for token in tokens)
    if num_cased > _MAX_CASED_SHARE * len(tokens):
        raise InputError(
            f"model.name={name}: {num_cased} of its {len(tokens)} tokens have capitals, its files "
            "don't say whether to lower-case, and the default would; set model.lower_case=false "
            "(a cased model such as SpanBERT), or true"
        )


def _lower_cases(backend: Tokenizer) -> bool:
    normalizer = backend.normalizer
    return normalizer is not None and "A" not in normalizer.normalize_str("A")


def _normalizer_parts(state: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the steps of a serialised normalizer, nested ones flattened."""
    if state is None:
        return []
    if state["type"] != "Sequence":
        return [state]
    return [part for inner in state["normalizers"] for part in _normalizer_parts(inner)]


def _with_case(name: str, backend: Tokenizer, lower_case: bool) -> Tokenizer:
    """Return the tokenizer with lower-casing put into its normalizer, or taken out of it."""
    from tokenizers import Tokenizer

    state = json.loads(backend.to_str())
    parts = [p for p in _normalizer_parts(state["normalizer"]) if p["type"] != "Lowercase"]
    bert_parts = [part for part in parts if part["type"] == "BertNormalizer"]
    for part in bert_parts:
        part["lowercase"] = lower_case
    if lower_case and not bert_parts:
        parts.append({"type": "Lowercase"})
    whole = {"type": "Sequence", "normalizers": parts} if len(parts) > 1 else None
    state["normalizer"] = parts[0] if len(parts) == 1 else whole
    changed = Tokenizer.from_str(json.dumps(state))
    if _lower_cases(changed) != lower_case:
        raise InputError(
            f"model.lower_case={str(lower_case).lower()} has no effect on model.name={name}: case "
            "is decided by the character map in its vocabulary; leave model.lower_case out"
        )
    return changed


# Files


def _find_tokenizer_files(name: str) -> dict[str, Path]:
    """Return config.json and the files that the tokenizer is made of; InputError if none are."""
    files = _find_files(name, (CONFIG_FILE, _WHOLE_FILE, *_SETTING_FILES))
    if _WHOLE_FILE not in files:
        vocab_files = _find_files(name, _VOCAB_FILES)
        if not vocab_files:
            raise InputError(
                f"model.name={name} has no tokenizer files; {_EXPECTED}; "
                + _DOWNLOAD.format(name=name)
            )
        files.update(vocab_files)
    return files


def _find_files(name: str, filenames: Sequence[str]) -> dict[str, Path]:
    """Return the path of each of these files that the model has: its folder's, or the hub cache's.

    What the cache doesn't know is asked of the hub, once; if that can't be reached, only the
    lack of config.json is an error.
    """
    folder = Path(name)
    if folder.is_dir():
        return {file: folder / file for file in filenames if (folder / file).is_file()}
    if not name or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise InputError(f"model.name={name}: there is no such folder; {_EXPECTED}")
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    found: dict[str, Path] = {}
    is_offline = False
    for file in filenames:
        try:
            cached = try_to_load_from_cache(name, file)
            if cached is None:
                cached = hf_hub_download(name, file, local_files_only=is_offline)
            if isinstance(cached, str):  # else a mark that the model has no such file
                found[file] = Path(cached)
        except LocalEntryNotFoundError as error:
            is_offline = True
            if file == CONFIG_FILE:
                raise _not_found(name, error) from error
        except EntryNotFoundError:
            continue
        except (HFValidationError, OSError, ValueError) as error:
            raise _not_found(name, error) from error
    return found


def _not_found(name: str, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[0]
    return InputError(
        f"model.name={name} is neither a folder here nor to be had from the hub ({reason}); "
        f"{_EXPECTED}; " + _DOWNLOAD.format(name=name)
    )


def _read_json(name: str, path: Path | None) -> dict[str, Any]:
    if path is None:
        raise InputError(f"model.name={name} has no {CONFIG_FILE}; {_EXPECTED}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"model.name={name}: {path} isn't JSON ({error}); download or copy it again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"model.name={name}: {path} doesn't hold a JSON object; copy it again")
    return content
