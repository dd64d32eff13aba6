"""Prompts and answers as token ids: the one place where text becomes what the model sees.

Scoring, SFT and its evaluation share one prompt, so that the tokens that are scored are the tokens
that are trained on. `question_eos` is the paper's: the question and an end-of-sequence token.
Special tokens written out in a question or an answer ("</s>") stay text there. A chat template
works on text, so a question that spells out the template's own marks is taken as it stands.
"""

from __future__ import annotations

from typing import Any

from lorapar_core.errors import DataError

Tokenizer = Any
"""A transformers tokenizer. Not imported here: the parent process knows this module's functions."""


def with_chat_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    """Give `tokenizer` the recipe's `model.chat_template` if it has none of its own."""
    if template and not tokenizer.chat_template:
        tokenizer.chat_template = template
    return tokenizer


def eos_id(tokenizer: Tokenizer) -> int:
    """The end-of-sequence token.

    Raises:
        DataError: the tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        raise DataError(
            f"the tokenizer of {tokenizer.name_or_path} has no end-of-sequence token; set "
            "eos_token in its tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


def sft_prompt_ids(tokenizer: Tokenizer, question: str, *, how: str) -> list[int]:
    """The prompt of scoring, SFT and its evaluation; `how` is `sft.prompt`.

    question_eos: the question as the tokenizer takes a text (with a BOS only where it adds one
    itself), and EOS. chat: one user turn in the chat template, open for the assistant's.
    """
    if how == "question_eos":
        return [*plain_ids(tokenizer, question), eos_id(tokenizer)]
    if how == "chat":
        return chat_ids(tokenizer, [{"role": "user", "content": question}])
    raise ValueError(f"no SFT prompt {how!r}; known: question_eos, chat")


def grpo_prompt_ids(
    tokenizer: Tokenizer, question: str, *, how: str, system_prompt: str, sft_how: str
) -> list[int]:
    """The prompt of GRPO and the evaluation after it; `how` is `grpo.prompt`.

    tags: the system prompt and the question in the chat template. as_sft: the SFT prompt. A
    template that refuses a system turn (Gemma's) gets the system prompt at the head of the user's,
    as such models' makers advise.
    """
    if how == "as_sft":
        return sft_prompt_ids(tokenizer, question, how=sft_how)
    if how != "tags":
        raise ValueError(f"no GRPO prompt {how!r}; known: tags, as_sft")
    user = {"role": "user", "content": question}
    if not system_prompt:
        return chat_ids(tokenizer, [user])
    if _takes_system_turn(tokenizer):
        return chat_ids(tokenizer, [{"role": "system", "content": system_prompt}, user])
    return chat_ids(tokenizer, [{"role": "user", "content": f"{system_prompt}\n\n{question}"}])


def answer_ids(tokenizer: Tokenizer, answer: str) -> list[int]:
    """The answer's own tokens, and EOS."""
    return [*text_ids(tokenizer, answer), eos_id(tokenizer)]


def text_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of `text` alone, with nothing added."""
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    return list(encoded["input_ids"])


def plain_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text to go on from, as the tokenizer takes one: with a BOS where it adds one, no EOS."""
    ids = list(tokenizer(text, split_special_tokens=True)["input_ids"])
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def chat_ids(tokenizer: Tokenizer, turns: list[dict[str, str]]) -> list[int]:
    """Turns in the chat template, open for the assistant's.

    Raises:
        DataError: there is no template, or it can't write them.
    """
    if not tokenizer.chat_template:
        raise DataError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; set "
            "model.chat_template, or use prompts without one (sft.prompt: question_eos, "
            "grpo.prompt: as_sft)"
        )
    from jinja2 import TemplateError

    try:
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    except TemplateError as error:
        raise DataError(
            f"the chat template can't write a {turns[0]['role']} turn: {error}; check "
            "model.chat_template"
        ) from error
    return list(ids)


def _takes_system_turn(tokenizer: Tokenizer) -> bool:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    try:
        chat_ids(tokenizer, turns)
    except DataError as error:
        if error.__cause__ is None:
            raise
        return False
    return True
