"""What a stage needs on its device, in bytes, by parts that a user can turn down.

    peak = base weights + libraries + adapter, gradients, optimizer, masks, reference
         + the larger of what a stage does in turn: a training pass, or generation
    training pass = activations kept for the backward pass + the output head's work

Everything follows from the model's widths and the recipe; `activations` counts the tensors that
autograd keeps, one by one (a test compares it with those that torch saves). Two figures are
measured, on a CPU: what a process holds once the libraries are imported, and the share of the
activations that glibc's heap leaves in holes (`HOLES`).

It is an upper bound, but for a heap's holes, which are told as they were on average: of rows as
long as the longest (`Lengths`, `Asked`), and with every element of the adapter active, for theta's
share isn't known before the partition. A process reads its host's
memory too: what is told for a GPU is the GPU's alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from lorapar_core.choices import HEAD_PLACES
from lorapar_core.config import GrpoConfig, PeftConfig, Recipe
from lorapar_core.data.problems import Kind
from lorapar_core.model_shape import ModelShape
from lorapar_core.other_adapters import IA3_MODULES
from lorapar_core.sharding import sharers

Device = Literal["cpu", "gpu"]
Parts = dict[str, int]
"""What memory goes to -> bytes."""

FLOAT = 4
MIB = 2**20
NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Bytes of a weight in nf4: 4 bits, 8 for the scale of 64, and 32 for the scale of 256 such."""
WIDTH = {"float32": 4, "bfloat16": 2}
"""Bytes of a number."""
LIBRARIES = {"training": 540 * MIB, "other": 410 * MIB}
"""A CPU process after its imports, trl's among them or not. Measured with torch 2.13."""
CONTEXT = 512 * MIB
"""What CUDA takes of a GPU before the first tensor, about."""
HOLES, HOLES_RECOMPUTED = 0.2, 0.33
"""On a CPU: freed blocks that glibc's heap doesn't hand out again, since an aligned block doesn't
fit where one of the same size was (measured with glibc 2.36). As a share of a pass's tensors they
are 0 or 0.45, by the addresses that a process happens to get; this is the middle. With activation
checkpointing they are a third of what the pass would keep without, for the layers make it all the
same."""
TILE = 1 << 23
"""Logits that a CPU holds at a time, `label_logprobs.TILE`."""
HEAD_ROWS, HEAD_COLUMNS = 4096, 32768
"""Positions and tokens of trl's tile of logits."""
VOTE_TOKENS = 4096
"""Tokens of a local teacher's batch, `teachers.local.BATCH_TOKENS`."""
VOTE_PREFIX, VOTE_QUESTION, VOTE_ENDS = 256, 64, 8
"""Tokens that a teacher's prompts have in common, tokens of its own, and lengths in a batch: usual
ones, since nobody has tokenised them."""
TOKEN_BYTES = 3
"""Bytes of English a token has at least, about: for prompts that nobody has tokenised."""
TEMPLATE_TOKENS = 32
"""Tokens that a chat template adds, about."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a stage's process needs."""

    name: str
    """The stage, as people see it."""
    parts: Mapping[str, int]
    """Bytes by what they go to, the largest first."""

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the longest row."""

    sft: int
    """Prompt and answer, in scoring and SFT."""
    prompt: int
    """GRPO's prompt, and the test problems'."""

    @classmethod
    def allowed(cls, recipe: Recipe) -> Lengths:
        """As long as the recipe lets them be: the question, and what is put around it."""
        section = recipe.grpo
        if section.prompt == "as_sft" and recipe.sft.prompt == "question_eos":
            return cls(recipe.sft.max_length, section.max_prompt_length + 1)
        system = len(section.system_prompt.encode()) if section.prompt == "tags" else 0
        around = system // TOKEN_BYTES + TEMPLATE_TOKENS
        return cls(recipe.sft.max_length, section.max_prompt_length + around)


@dataclass(frozen=True, slots=True)
class Asked:
    """A benchmark as it is put to a model."""

    kind: Kind
    prompt: int
    """Tokens of the longest prompt, worked examples among them."""
    new: int = 0
    """Tokens of the longest answer; a choice writes none."""
    drawn: bool = False
    """Whether answers are drawn, and not the likeliest."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A model with its adapter, on a device."""

    shape: ModelShape
    modules: tuple[str, ...]
    """A layer's modules that have an adapter."""
    rank: int
    width: int
    """Bytes of a base number."""
    attention: str
    device: Device
    quantized: bool = False
    """Whether the linear weights are held in nf4."""
    other: PeftConfig | None = None
    """An adapter that isn't LoRA: `rank` is 0, and `modules` are those that IA3 scales."""

    @property
    def virtual_tokens(self) -> int:
        """That stand before every row."""
        other = self.other
        return other.virtual_tokens if other and other.kind != "ia3" else 0

    @property
    def elements(self) -> int:
        """Of the adapter."""
        if self.other:
            return other_elements(self.shape, self.other)
        widths = (sum(self.shape.linears[name]) for name in self.modules)
        return self.rank * self.shape.layers * sum(widths)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that go through the model side by side, padded to `tokens` each."""

    rows: int
    tokens: int
    masked: bool = False
    """Whether attention is given a mask, as padding asks for."""
    dropout: bool = False
    context: int = 0
    """Earlier tokens of each row whose keys and values are given."""
    per_example: bool = False
    """Whether `per_example` stands in for PEFT's layers."""

    @property
    def positions(self) -> int:
        return self.rows * self.tokens


def activations(setup: Setup, batch: Batch, *, checkpointing: bool = False) -> int:
    """Bytes that the layers keep for the backward pass.

    With activation checkpointing each layer keeps its input, and one at a time all the rest.
    """
    layers = setup.shape.layers
    one = _kept_by_layer(setup, batch)
    if not checkpointing:
        return layers * one
    return layers * batch.positions * setup.shape.hidden * setup.width + one


def _kept_by_layer(setup: Setup, batch: Batch) -> int:
    shape, width = setup.shape, setup.width
    norms = 2 * FLOAT * (shape.hidden + 1)  # in float32, whatever the base is
    low = len(setup.modules) * setup.rank * (FLOAT if batch.per_example else width)
    gated = 3 * shape.inner * width  # the gate, the activated gate, and what it multiplies
    each = norms + low + gated + _kept_inputs(setup, batch) + _kept_by_attention(setup, batch)
    return batch.positions * each


def _kept_inputs(setup: Setup, batch: Batch) -> int:
    """Bytes a token: what A is multiplied with, for A's gradient."""
    into = {name: setup.shape.linears[name][0] for name in setup.modules}
    if batch.dropout:  # each module draws its own; a CPU keeps the noise as float32
        noise = FLOAT if setup.device == "cpu" else 1
        return sum(into.values()) * (noise + setup.width)
    if setup.width < FLOAT and not batch.per_example:  # each module casts its own
        return sum(into.values()) * setup.width
    shared = {"q_proj": "x", "k_proj": "x", "v_proj": "x", "gate_proj": "y", "up_proj": "y"}
    if setup.attention != "eager":  # the kernel keeps its output, which is what o_proj sees
        into.pop("o_proj", None)
    inputs = {shared.get(name, name): size for name, size in into.items()}
    return sum(inputs.values()) * setup.width


def _kept_by_attention(setup: Setup, batch: Batch) -> int:
    """Bytes a token: queries, keys, values, and what else its kind of attention keeps."""
    shape, width = setup.shape, setup.width
    seen = (batch.context + batch.tokens) / batch.tokens
    grouped = shape.key_value_heads < shape.heads
    repeated = round(2 * (shape.queries if grouped else shape.keys) * width * seen)
    queries = shape.queries * width
    if setup.attention == "eager":  # softmax in float32, and its cast
        softmax = FLOAT + (width if width < FLOAT else 0)
        return queries + repeated + shape.heads * batch.tokens * softmax
    kept = 2 * queries + FLOAT * shape.heads  # the output, and a sum for each head
    if setup.attention == "sdpa" and batch.masked:  # its kernel takes no groups with a mask
        return kept + repeated + (batch.context + batch.tokens) * width
    return kept + 2 * shape.keys * width


def label_head(setup: Setup, positions: int) -> int:
    """Bytes that log-probabilities of labels take.

    A GPU holds one tile of trl's logits. A CPU holds a tile of ours and of its softmax in float32,
    and for each label its hidden state, in parts and joined, and the gradient at it, twice.
    """
    hidden, vocabulary = positions * setup.shape.hidden, setup.shape.vocabulary
    if setup.device == "gpu":
        tile = min(positions, HEAD_ROWS) * min(vocabulary, HEAD_COLUMNS)
        return hidden * (setup.width + FLOAT) + tile * setup.width
    casts = 2 * setup.width if setup.width < FLOAT else 0
    return hidden * 2 * (setup.width + FLOAT) + max(TILE, vocabulary) * (2 * FLOAT + casts)


def moments_head(setup: Setup, batch: Batch) -> int:
    """Bytes of logits and of the gradient at them, float32, were every position labelled."""
    return 2 * FLOAT * batch.positions * setup.shape.vocabulary


def keys_and_values(setup: Setup, tokens: int) -> int:
    """Bytes of a cache of `tokens`; a layer's is copied as it grows."""
    layer = tokens * 2 * setup.shape.keys * setup.width
    return (setup.shape.layers + 1) * layer


def generation(setup: Setup, *, rows: int, prompt: int, new: int, draws: int) -> Parts:
    """Parts of completing `rows` prompts side by side.

    Args:
        draws: tensors of (rows, vocabulary) float32 that a token is chosen by.
    """
    return {
        "keys and values": keys_and_values(setup, rows * (prompt + new)),
        "activations": _kept_by_layer(setup, Batch(rows, prompt, masked=True)),
        "head": draws * rows * setup.shape.vocabulary * FLOAT,
    }


def sft(recipe: Recipe, setup: Setup, lengths: Lengths) -> Parts:
    """Parts of the largest micro-batch."""
    section = recipe.sft
    batch = Batch(
        section.batch_size,
        setup.virtual_tokens + lengths.sft,
        masked=section.batch_size > 1 and setup.device == "gpu",  # on a CPU padding is last
        dropout=recipe.lora.dropout > 0 and not setup.other,
    )
    return {
        **_trained(setup, section.optimizer),
        **_pass(setup, [batch], batch.positions, checkpointing=section.activation_checkpointing),
    }


def grpo(recipe: Recipe, setup: Setup, lengths: Lengths) -> Parts:
    """Parts of a training pass or of generation, whichever takes more."""
    section = recipe.grpo
    prompt = lengths.prompt
    new = section.max_completion_length
    batches = [Batch(section.batch_size, prompt + new, masked=True)]
    if setup.device == "cpu" and not section.activation_checkpointing:  # a prompt once a group
        groups = -(-section.batch_size // section.group_size)
        suffix = Batch(section.batch_size, new + 1, masked=True, context=prompt)
        batches = [Batch(groups, prompt), suffix]
    generating = generation(
        setup,
        rows=section.batch_size * (section.steps_per_generation or section.accumulation),
        prompt=prompt,
        new=new,
        draws=3 if section.top_p == 1 else 8,
    )
    labels = section.batch_size * new
    saving = section.activation_checkpointing
    training = _pass(setup, batches, labels, checkpointing=saving)
    reference = setup.elements * FLOAT if has_reference(section, recipe) else 0
    larger = training if sum(training.values()) > sum(generating.values()) else generating
    return {**_trained(setup, section.optimizer), "reference": reference, **larger}


def has_reference(section: GrpoConfig, recipe: Recipe) -> bool:
    """Whether GRPO holds another adapter for its KL term."""
    plain = section.kl_reference == "base" and not recipe.lora.residual
    return section.kl_coefficient > 0 and not plain


def moments(recipe: Recipe, setup: Setup, lengths: Lengths) -> Parts:
    """Parts of scoring a batch of `importance.batch_tokens`, or of one longer row."""
    tokens = max(recipe.importance.batch_tokens, lengths.sft)
    rows = tokens // lengths.sft
    batch = Batch(rows, tokens // rows, per_example=True)
    kept, head = activations(setup, batch), moments_head(setup, batch)
    return {
        "adapter": setup.elements * FLOAT,
        "gradients": 2 * setup.elements * FLOAT,  # the sums of g and g²
        "activations": kept,
        "head": head,
        **_holes(setup, HOLES * (kept + head)),
    }


def evaluate(recipe: Recipe, setup: Setup, lengths: Lengths) -> Parts:
    """Parts of greedy answers to the recipe's own test problems."""
    asked = Asked("generate", lengths.prompt, recipe.evaluation.max_new_tokens)
    return benchmark(recipe, setup, asked)


def benchmark(recipe: Recipe, setup: Setup, asked: Asked) -> Parts:
    """Parts of the largest batches of test problems.

    Batches are filled by tokens, up to `evaluation.batch_tokens`, or hold one longer row: keys and
    values are those of a full batch, whatever its rows' lengths, activations those of the longest
    prompts, logits those of the shortest, for which a template counts, and a choice's as many as
    the head may look at. What rows of choices begin with alike goes through the model once, but is
    counted with each, and its keys and values once more.
    """
    longest = asked.prompt + asked.new
    held = max(recipe.evaluation.batch_tokens, longest)
    rows = max(held // longest, held // (TEMPLATE_TOKENS + asked.new))
    prompt = setup.virtual_tokens + asked.prompt
    if asked.kind == "choice":  # a row behind virtual tokens goes by itself, with all its logits
        beside, places = asked.prompt, max(HEAD_PLACES, prompt if setup.virtual_tokens else 0)
        head = places * setup.shape.vocabulary * setup.width
    else:
        beside = rows * setup.virtual_tokens
        head = (8 if asked.drawn else 2) * rows * setup.shape.vocabulary * FLOAT
    row = _kept_by_layer(setup, Batch(1, prompt, masked=True))
    parts = {
        "keys and values": keys_and_values(setup, held + beside),
        "activations": row * held // longest,  # shorter rows fill what whole ones would leave
        "head": head,
    }
    return {
        "adapter": setup.elements * FLOAT,
        **parts,
        **_holes(setup, HOLES * sum(parts.values())),
    }


def vote(_recipe: Recipe, setup: Setup, _lengths: Lengths) -> Parts:
    """Parts of a local teacher's batch; the prompts' common beginning is copied to every row."""
    rows = VOTE_TOKENS // VOTE_QUESTION
    batch = Batch(rows, VOTE_QUESTION, masked=True)
    return {
        "keys and values": keys_and_values(setup, rows * (VOTE_PREFIX + VOTE_QUESTION)),
        "activations": _kept_by_layer(setup, batch),
        "head": rows * VOTE_ENDS * setup.shape.vocabulary * setup.width,
    }


STAGES: Mapping[str, Callable[[Recipe, Setup, Lengths], Parts]] = {
    "sft": sft,
    "grpo": grpo,
    "moments": moments,
    "evaluate": evaluate,
    "vote": vote,
}
"""Stages whose process holds the model."""


def estimate(
    stage: str,
    recipe: Recipe,
    shape: ModelShape,
    *,
    device: Device,
    lengths: Lengths | None = None,
    asked: Asked | None = None,
    name: str = "",
) -> Estimate | None:
    """What a stage's process needs; None if `lora.modules` names others than we know.

    Args:
        stage: one of `STAGES`.
        shape: the model's that it runs: the base's, or a local teacher's.
        lengths: the longest rows; those that the recipe allows if nobody has tokenised any.
        asked: the benchmark that is put, where it isn't the recipe's own test set.
        name: what people call it, if not `stage`.
    """
    setup = setup_of(recipe, shape, device)
    if setup is None:
        return None
    training = stage in ("sft", "grpo")
    sharing = sharers(recipe.runtime) if training else 1
    weights = base_bytes(setup) if sharing == 1 else shared_base_bytes(setup, sharing)
    if asked:
        made = benchmark(recipe, setup, asked)
    else:
        made = STAGES[stage](recipe, setup, lengths or Lengths.allowed(recipe))
    parts = {"base weights": weights, **made}
    if device == "cpu":
        parts["libraries"] = LIBRARIES["training" if training else "other"]
    else:
        parts["libraries"] = CONTEXT
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return Estimate(name or stage, {part: size for part, size in ordered if size})


def setup_of(recipe: Recipe, shape: ModelShape, device: Device) -> Setup | None:
    """A recipe's adapter on a model; None if `lora.modules` names others than we know."""
    other = recipe.peft if recipe.peft.kind != "lora" else None
    scaled = [*IA3_MODULES] if other and other.kind == "ia3" else []
    modules = shape.adapted(scaled if other else recipe.lora.modules)
    if modules is None:
        return None
    width, attention = WIDTH[recipe.model.dtype], recipe.model.attention
    quantized = recipe.model.quantization == "nf4"
    rank = 0 if other else recipe.lora.r
    return Setup(shape, modules, rank, width, attention, device, quantized, other)


def other_elements(shape: ModelShape, section: PeftConfig) -> int:
    """Of an adapter that isn't LoRA, as PEFT makes it."""
    tokens, inside = section.virtual_tokens, section.encoder_hidden_size
    if section.kind == "ia3":
        return shape.layers * (2 * shape.keys + shape.inner)
    if section.kind == "prefix-tuning":
        return tokens * shape.layers * 2 * shape.keys
    embeddings = tokens * shape.hidden
    if section.kind == "prompt-tuning":
        return embeddings
    return embeddings + inside * (2 * shape.hidden + inside + 2) + shape.hidden


def base_bytes(setup: Setup) -> int:
    """Bytes of the frozen weights; nf4 holds the layers' linear ones, not embeddings and head."""
    shape = setup.shape
    linear = shape.layers * sum(into * out for into, out in shape.linears.values())
    if not setup.quantized:
        return shape.parameters * setup.width
    return round(linear * NF4) + (shape.parameters - linear) * setup.width


def shared_base_bytes(setup: Setup, processes: int) -> int:
    """Bytes of a process's part of the frozen weights, and of what it holds whole in turn: two
    layers, one of them on its way, and embeddings and head."""
    layer = sum(into * out for into, out in setup.shape.linears.values())
    ends = setup.shape.parameters - setup.shape.layers * layer
    return base_bytes(setup) // processes + (2 * layer + ends) * setup.width


def optimizer_bytes(optimizer: str) -> int:
    """Bytes of an active element's two moments."""
    return 2 * (1 if optimizer == "adamw_8bit" else FLOAT)


def _trained(setup: Setup, optimizer: str) -> Parts:
    """Parts that a trained adapter takes, all of its elements active."""
    return {
        "adapter": setup.elements * FLOAT,
        "gradients": setup.elements * FLOAT,
        "optimizer": setup.elements * optimizer_bytes(optimizer),
        "masks": -(-setup.elements // 8),
    }


def _pass(setup: Setup, batches: list[Batch], labels: int, *, checkpointing: bool) -> Parts:
    """Parts of a forward and backward pass of trl's trainers."""
    kept = sum(activations(setup, batch, checkpointing=checkpointing) for batch in batches)
    plain = sum(activations(setup, batch) for batch in batches)
    head = label_head(setup, labels)
    made = HOLES_RECOMPUTED * plain if checkpointing else HOLES * kept
    return {"activations": kept, "head": head, **_holes(setup, made + HOLES * head)}


def _holes(setup: Setup, size: float) -> Parts:
    """The part that a CPU's heap takes beside what is asked of it."""
    return {"heap holes": round(size)} if setup.device == "cpu" else {}
