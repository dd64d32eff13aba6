"""The lab's tokenizer: a token a word, a number, a sign, a line break.

A space goes before each line, so that "7" at its start and " 7" elsewhere are one token, and comes
off again when tokens become text: `decode(encode(text)) == text` for every text of the language. A
text begins with a word and ends without a line break; it has one space between words, none before
. , : ? and none at the ends of a line. The chat template is the question as it stands: the model
knows no turns, and the answer follows at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorapar_core.data.lab import KNOWN, LARGEST, NEW, PEOPLE, THINGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<eos>", "<unk>")
MARKS = (".", ",", ":", "?")
WORDS = ("has", "them", "how", "many", "now", "count", "####", "+", "-", "*", "/", "=")


def vocabulary() -> list[str]:
    """Tokens in the order of their ids."""
    verbs = [verb.word for verb in (*KNOWN, *NEW)]
    numbers = [str(number) for number in range(LARGEST + 1)]
    spaced = [f" {word}" for word in (*WORDS, *numbers, *PEOPLE, *THINGS, *verbs)]
    return [*SPECIAL, "\n", *MARKS, *spaced]


def build() -> PreTrainedTokenizerFast:
    """An ordinary fast tokenizer, which `AutoTokenizer` loads once it is saved."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    ids = {token: n for n, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(" "), normalizers.Replace("\n", "\n ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"\n| ?[a-z]+| ?[0-9]+| ?#+| ?[-+*/=]|[.,:?]"), behavior="isolated"
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Fuse(), decoders.Replace("\n ", "\n"), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template="{{ messages[-1]['content'] }}",
        model_max_length=256,
    )
