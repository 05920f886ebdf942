"""A question as a prompt in the model's own chat template, and the answer that is to follow it.

In: strings and a chat model's fast tokenizer. Out: token ids of prompt and answer. A prompt is what
the tokenizer makes of the rendered conversation up to where the assistant begins to speak; the
answer's tokens are the reply's and the token that ends its turn, which is where generation stops.
Prompt and answer are tokenised apart, as generation sees them; with templates that break off before
the answer (ChatML, Llama 3) the two joined are the tokens of the whole conversation.

Worked example (ChatML, Qwen's). The prompt ends in "<|im_start|>assistant" and a line's end; the
answer to it is "Ann<|im_end|>", and what the template puts behind that isn't learnt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from qa_dist.records import InputError

PROMPT_VERSION = 1
"""Part of what prepared data is made of: raise it when prompts change."""

NO_ANSWER = "unknown"
_SHORT = (
    "Answer the last question about the text in as few words as possible, in the text's own words"
    f' where you can. Say "{NO_ANSWER}" if the text doesn\'t hold the answer.'
)
_INSTRUCTIONS = {
    "coqa": _SHORT,
    "squad_v1": _SHORT,
    "squad_v2": _SHORT,
    "prompted": (
        "Answer the question from the text in one or a few sentences. Say so if the text doesn't"
        " hold the answer."
    ),
}
_WITHOUT_TEXT = "Answer the question in one or a few sentences."

Message = dict[str, str]


@dataclass(frozen=True)
class Prompted:
    """One question, ready for a model."""

    prompt: list[int]
    """Token ids up to where the answer begins."""
    answer: list[int]
    """Token ids of the answer, the token that ends the turn last (unless the answer was cut)."""
    cut_tokens: int
    """So many tokens of the context were left out at its end."""


@dataclass(frozen=True)
class Ask:
    """What a prompt is made of."""

    rule: str
    """The scoring rule: it decides what kind of answer is asked for."""
    context: str
    """The text that is asked about; may be empty."""
    history: tuple[str, ...]
    """Earlier questions and answers in turn, oldest first."""
    question: str


def messages_of(ask: Ask) -> list[Message]:
    """Return the conversation up to the question: system, then user and assistant in turn. The text
    stands before the first question."""
    first, *rest = [*ask.history, ask.question]
    text = ask.context.strip()
    roles = ("assistant", "user")
    turns = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(rest)]
    return [
        {"role": "system", "content": _INSTRUCTIONS[ask.rule] if text else _WITHOUT_TEXT},
        {"role": "user", "content": f"Text:\n{text}\n\nQuestion: {first}" if text else first},
        *turns,
    ]


def expected_answer(answers: Sequence[str]) -> str:
    """Return what is to be written for a question: its first reference, or that there is none."""
    return answers[0] if answers else NO_ANSWER


def scored_answer(rule: str, text: str) -> str:
    """Return a written answer as the rule takes it: no answer is the empty string in SQuAD 2.0."""
    is_none = rule == "squad_v2" and text.strip(" .").lower() == NO_ANSWER
    return "" if is_none else text


class Prompter:
    """Renders and tokenises with one model's tokenizer."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        """`tokenizer`: transformers' fast one, with a chat template; `name`: model.name."""
        self._tokenizer, self._name = tokenizer, name
        special = {n: t.content for n, t in tokenizer.added_tokens_decoder.items() if t.special}
        self._special_ids = {*special, *tokenizer.all_special_ids}
        texts = sorted(special.values(), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, texts)) or r"(?!)")
        self.end_id = self._find_end()
        """The token that ends an answer."""
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.end_id if pad is None else int(pad)

    def encode(
        self, ask: Ask, answer: str, max_length: int, answer_room: int | None = None
    ) -> Prompted | None:
        """Tokenise a prompt and its answer; None if they don't fit with any of the context left.

        The context alone is cut, at a word, so that prompt and answer have `max_length` tokens at
        most. answer_room: tokens left for an answer that isn't known yet, instead of this one's
        own, which is then cut to what is left.
        """
        reply = self.answer_tokens(answer)
        room = max_length - (len(reply) if answer_room is None else answer_room)
        prompt = self.prompt_tokens(ask)
        whole = len(prompt)
        if whole > room:
            cut = self._cut(ask, room)
            if cut is None:
                return None
            prompt = cut
        return Prompted(prompt, reply[: max_length - len(prompt)], whole - len(prompt))

    def prompt_tokens(self, ask: Ask) -> list[int]:
        """Return the token ids of a prompt that isn't cut."""
        return self._ids(self._render(messages_of(self._defused(ask)), with_answer=False))

    def answer_tokens(self, answer: str) -> list[int]:
        """Return the token ids of an answer, and of the token that ends its turn."""
        return [*self._ids(self._broken(answer).strip()), self.end_id]

    def _cut(self, ask: Ask, room: int) -> list[int] | None:
        """Return the prompt with the longest start of the context with which it fits."""
        context = self._broken(ask.context.strip())
        encoding = self._tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in encoding["offset_mapping"]]
        keep = min(len(ends), room - len(self.prompt_tokens(replace(ask, context="x"))) + 1)
        while keep > 0:
            head = context[: ends[keep - 1]]
            if not context[len(head) : len(head) + 1].isspace():
                head = head.rpartition(" ")[0] or head
            prompt = self.prompt_tokens(replace(ask, context=head))
            if len(prompt) <= room:
                return prompt if head.strip() else None
            keep -= len(prompt) - room
        return None

    def _find_end(self) -> int:
        """Return the special token with which the template ends an answer, else the tokenizer's
        own end of text. Raises InputError where there is neither, or no system message is taken."""
        probe = messages_of(Ask("prompted", "A cat sat.", (), "Who sat?"))
        before = self._render(probe, with_answer=False)
        after = self._render([*probe, {"role": "assistant", "content": "A cat"}], with_answer=True)
        tail = after[len(before) :] if after.startswith(before) else ""
        for token in self._ids(tail):
            if token in self._special_ids:
                return token
        if self._tokenizer.eos_token_id is None:
            raise InputError(
                f"model.name={self._name}: neither its chat template nor its tokenizer says which "
                "token ends an answer; give the tokenizer an eos_token"
            )
        return int(self._tokenizer.eos_token_id)

    def _render(self, messages: list[Message], with_answer: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=not with_answer
            )
        except Exception as error:  # a template may raise whatever it likes
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"model.name={self._name}: its chat template refuses a system message, a question "
                f"and answers in turn ({reason}); use another model, such as "
                "Qwen/Qwen2.5-3B-Instruct"
            ) from error
        return str(text)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _defused(self, ask: Ask) -> Ask:
        history = tuple(map(self._broken, ask.history))
        return Ask(ask.rule, self._broken(ask.context), history, self._broken(ask.question))

    def _broken(self, text: str) -> str:
        """Break what reads like a special token: a text from outside must not end a turn."""
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
