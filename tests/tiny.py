"""A tokenizer and a model small enough to be made in every test run, and always the same.

The tokenizer is a byte-level BPE with single digits, trained on the sentences below; the model is
a random Llama with grouped-query attention (4 heads, 2 key-value heads). Neither knows anything.
"""

from __future__ import annotations

from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
VOCABULARY = 448
CONTEXT = 1024

_SENTENCES = (
    "Maya has 5 apples. Omar gives her 3 more. How many apples does Maya have now?",
    "Maya has 5 + 3 = 8 apples.\n#### 8",
    "A ticket to the museum costs $7. How much do 4 tickets cost?",
    "The tickets cost 4 * 7 = $28.\n#### 28",
    "Leo bakes 6 trays of muffins with 12 muffins on each tray. He gives 20 to friends.",
    "The trays hold 6 * 12 = 72 muffins.\nLeo keeps 72 - 20 = 52 muffins.\n#### 52",
    "Nora shares 24 cookies equally among 8 children. How many cookies does each child get?",
    "Each child gets 24 / 8 = 3 cookies.\n#### 3",
    "How many pages are left to read? How many minutes are left? How much does he pay in all?",
    "Respond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>",
    "There are 12 boxes with 9 pencils each. How many pencils are there in the boxes?",
    "System 1 answers at once; System 2 needs several steps of reasoning.",
)


def tiny_tokenizer_dir(path: Path, *, bos: bool = False, chat_template: bool = True) -> Path:
    """Save the tokenizer to `path`, as `AutoTokenizer.from_pretrained(path)` reads it.

    `bos` has it put `<s>` before every text, as Llama 2's does.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", SPECIAL_TOKENS.index("<s>"))]
        )
    names = {"bos_token": "<s>"} if bos else {}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=CHAT_TEMPLATE if chat_template else None,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        **names,
    )
    path.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(path)
    return path


def tiny_model_dir(
    path: Path, *, layers: int = 2, hidden: int = 64, seed: int = 0, tied: bool = False
) -> Path:
    """Save the model, with its tokenizer, to `path`. The same arguments give the same weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny_tokenizer_dir(path)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=SPECIAL_TOKENS.index("</s>"),
        pad_token_id=SPECIAL_TOKENS.index("<pad>"),
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(path)
    return path
