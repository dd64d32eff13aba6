"""A recipe: everything that decides what is computed, and a runtime: everything that doesn't.

Every section but `runtime` is *identity*: a stage's slice of it is part of that stage's action
key. Sections are frozen, complete and refuse unknown fields; bounds stand in the type; under each
field stand its meaning and, where the paper has one, its symbol. `lora_alpha` is LoRA's scale,
`alpha` and `beta` are the paper's fractions of shared elements.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from enum import IntEnum
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MODULE_LETTERS = {
    "Q": "q_proj",
    "K": "k_proj",
    "V": "v_proj",
    "O": "o_proj",
    "G": "gate_proj",
    "U": "up_proj",
    "D": "down_proj",
}


PAPER_REWARDS = ("correctness", "integer", "strict_format", "loose_format", "tag_credit")
OUR_REWARDS = ("free_form", "code", "execution")
"""Our choice: the paper doesn't say what it rewarded beyond GSM8K."""
SOLVED = ("arithmetic", "lab")
"""Data sources that we write ourselves, whose answers have a line a step."""
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")

Sandbox = Literal["isolated", "limits"]
Method = Literal[
    "lora-par",
    "lora",
    "olora",
    "pissa",
    "lora+rl",
    "pissa+rl",
    "random",
    "prompt-tuning",
    "p-tuning",
    "prefix-tuning",
    "ia3",
]


class System(IntEnum):
    """Kahneman's two systems, as the paper uses them."""

    ONE = 1
    TWO = 2


class Section(BaseModel):
    """A part of a recipe: frozen, complete, and closed to unknown fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class ModelConfig(Section):
    """The model that is fine-tuned."""

    base: str = Field(default="meta-llama/Llama-2-7b-hf", min_length=1)
    """Hub id, local directory, `gguf:PATH`, or `gguf:DISTRIBUTION` (the one .gguf of an installed
    package)."""
    revision: str = ""
    """Commit, branch or tag of the hub id; empty takes the commit that `main` names on this
    machine, or on the hub."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the frozen base weights. LoRA weights are always float32."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4` (QLoRA; needs the extra `4bit`) holds the frozen weights of linear modules in 4 bits,
    and computes in `dtype`: in scoring, training, evaluation and local teachers. PiSSA and OLoRA
    factorise the full weights, and their residual is what is quantized."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation, by transformers' names."""
    chat_template: str = ""
    """Jinja template for a model that has none; empty keeps the model's own."""


class DataConfig(Section):
    """What is learned from, and what is tested on."""

    source: str = Field(default="gsm8k", min_length=1)
    """`arithmetic`, `lab`, `gsm8k`, `svamp`, `dolly`, `open-platypus`, `codealpaca`, `hub:DATASET`,
    or a path or fsspec URL of JSONL, JSON, CSV or Parquet (.gz too)."""
    test_source: str = ""
    """Where test problems come from, written like `source`; empty takes the source's own test set,
    or, where it has none, holds `test_examples` back from the source."""
    revision: str = ""
    """Commit, branch or tag of a hub data set; empty takes the newest commit."""
    shape: Literal["auto", "prompt_answer", "alpaca", "messages"] = "auto"
    """How a row tells its prompt and answer; `auto` looks at the field names."""
    columns: dict[Literal["prompt", "answer", "context", "messages", "tests"], str] = Field(
        default_factory=dict
    )
    """Our name -> the file's name, for `prompt`, `answer`, `context`, `messages` and `tests`
    (Python that checks a program, one text or a list; for the rewards `code` and `execution`)."""
    examples: int = Field(default=0, ge=0)
    """Training examples to use, drawn by `seed`; 0 uses all."""
    test_examples: int = Field(default=0, ge=0)
    """Test problems to use, drawn by `seed`; 0 uses all."""
    single_step_share: float = Field(default=0.5, ge=0, le=1)
    """`arithmetic` and `lab` only: share of problems that take a single step."""
    seed: int = Field(default=0, ge=0)
    """Draws the examples, and writes the `arithmetic` and `lab` problems."""


class ScriptConfig(Section):
    """How a scripted teacher errs."""

    error_1: float = Field(default=0.1, ge=0, le=1)
    """Share of System-1 examples that it calls System 2."""
    error_2: float = Field(default=0.1, ge=0, le=1)
    """Share of System-2 examples that it calls System 1."""
    correlation: float = Field(default=0.0, ge=0, le=1)
    """Correlation of its errors with those of another teacher with the same script."""
    without_role_play: float = Field(default=1.0, ge=0)
    """Where `voting.role_play` is false, it errs this many times as often (at most always)."""
    seed: int = Field(default=0, ge=0)
    """Draws its errors, together with its name and the example."""


class TeacherConfig(Section):
    """A model that votes System 1 or System 2 on each example."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Names the teacher in votes, reports and the UI, and is part of its votes' keys: under another
    name it is asked anew, so that one model may vote twice."""
    provider: Literal["local", "litellm", "replay", "scripted"] = "litellm"
    """`litellm`: any provider litellm knows; `local`: a transformers model on this machine;
    `replay`: votes out of a Parquet file; `scripted`: the truth, with errors as `script` says, on
    problems whose truth is known (`arithmetic`, `lab`)."""
    model: str = ""
    """litellm's provider string (`openai/gpt-4o-mini`); for `local`, a model as in `model.base`, or
    empty for the base model itself; for `replay`, a Parquet file with the columns `example_id` and
    `label` (1, 2 or null)."""
    revision: str = ""
    """Commit of a local teacher's hub id."""
    api_base: str = ""
    """Base URL, for your own or another host's server. Its host is part of the votes' identity."""
    api_key_env: str = ""
    """Name of the environment variable that holds the key. Never the key."""
    header_envs: dict[str, str] = Field(default_factory=dict)
    """HTTP header -> name of the environment variable that holds its value."""
    requests_per_minute: float = Field(default=0, ge=0)
    """The provider's limit; 0 knows none. Part of no key, like the next four fields."""
    tokens_per_minute: float = Field(default=0, ge=0)
    """The provider's limit on prompt and completion tokens; 0 knows none."""
    concurrency: int = Field(default=0, ge=0)
    """Requests in flight; 0 takes `runtime.vote_concurrency`."""
    input_usd: float | None = Field(default=None, ge=0)
    """Dollars a million prompt tokens; by default what litellm's table says, if it knows the model
    and there is no `api_base`. 0 for a server of your own."""
    output_usd: float | None = Field(default=None, ge=0)
    """Dollars a million completion tokens."""
    wording: Literal["direct", "examiner", "introspective"] = "direct"
    """Which of our role-play wordings the teacher is asked with."""
    calibration: Literal["none", "content_free", "batch"] = "none"
    """Local teachers: what is taken off their log-odds. `content_free`: the log-odds for an empty
    example; `batch`: the mean log-odds over the data, which leaves both labels occupied."""
    reply: Literal["auto", "schema", "logprobs", "text"] = "auto"
    """litellm teachers: JSON held to a schema, one digit with its log-probabilities, or one line
    of text, read strictly. `auto` takes the schema where litellm knows that the model has it, and
    text else and with an `api_base`."""
    max_tokens: int = Field(default=64, ge=1, le=65536)
    """litellm teachers: longest reply; much more for a model that reasons first."""
    temperature: float | None = Field(default=0.0, ge=0, le=2)
    """litellm teachers: sampling temperature; null leaves it to a provider that takes none."""
    script: ScriptConfig | None = None
    """Of a scripted teacher, who needs one: how it errs."""

    @model_validator(mode="after")
    def _consistent(self) -> TeacherConfig:
        if self.api_base and not _is_plain_url(self.api_base):
            raise ValueError(
                "api_base is no plain URL; give http:// or https:// with host and path, such as "
                "http://127.0.0.1:8000/v1, and anything secret by api_key_env or header_envs"
            )
        if self.provider == "litellm" and not self.model:
            raise ValueError("a litellm teacher needs `model`, such as openai/gpt-4o-mini")
        if self.provider == "replay" and not self.model:
            raise ValueError("a replay teacher needs `model`, a Parquet file of votes")
        if (self.provider == "scripted") != (self.script is not None):
            raise ValueError(
                "provider: scripted and script belong together; give both or neither, such as "
                "script: {error_1: 0.1, error_2: 0.2}"
            )
        if self.provider != "local" and self.calibration != "none":
            raise ValueError(
                "calibration needs the log-probabilities of a local teacher; use calibration: none"
            )
        if self.provider != "litellm" and (self.api_base or self.variables):
            raise ValueError(
                f"a {self.provider} teacher takes no api_base, api_key_env and header_envs"
            )
        if (self.input_usd is None) != (self.output_usd is None):
            raise ValueError("input_usd and output_usd belong together; give both or neither")
        return self

    @model_validator(mode="after")
    def _names_no_secret(self) -> TeacherConfig:
        """Without the value in the message: it may be the key itself."""
        if any(not _VARIABLE.fullmatch(variable) for variable in self.variables):
            raise ValueError(
                "api_key_env and header_envs take names of environment variables (capitals, digits "
                "and _), never a key itself"
            )
        return self

    @property
    def variables(self) -> list[str]:
        """Environment variables that hold its secrets."""
        return sorted({*filter(None, [self.api_key_env]), *self.header_envs.values()})


class VotingConfig(Section):
    """How votes become labels."""

    role_play: bool = True
    """Teachers are asked to be the target model (the paper's way), not to judge for themselves."""
    target: str = ""
    """Name of the model that teachers play; empty takes the base model's own name."""
    panel: list[str] = Field(default_factory=list)
    """Names of the teachers whose votes count; empty takes all but `escalate_to`."""
    aggregate: Literal["majority", "dawid_skene"] = "majority"
    """`majority` (the paper's): one teacher, one vote. `dawid_skene`: votes weigh as their
    teachers' error rates say, which are estimated from all votes."""
    tie: Literal["system1", "system2", "drop", "escalate"] = "system2"
    """Label of an example with as many votes for one system as for the other; `escalate` asks one
    more teacher, and drops the example if that one abstains."""
    escalate_to: str = ""
    """`tie: escalate`: name of the teacher that decides; it votes on nothing else."""
    quorum: int = Field(default=1, ge=1)
    """Votes (abstentions not counted) an example needs; with fewer it is dropped."""
    abstentions: Literal["ignore", "drop"] = "ignore"
    """Whether an example on which a teacher abstains is decided by the others, or dropped."""
    curtailed: bool = False
    """Stop asking about an example once its label is certain, whatever the rest would say. A random
    tenth is voted on by all, for the figures of agreement."""
    labels: Literal["votes", "random"] = "votes"
    """`random` (a control): as many labels of each system as the votes give, dealt at random."""
    seed: int = Field(default=0, ge=0)
    """Of the random labels."""
    again: int = Field(default=0, ge=0)
    """Raise it to ask again for votes that ended at `runtime.vote_deadline_s`; all others stay."""


class LoraConfig(Section):
    """The adapter."""

    r: int = Field(default=8, ge=1)
    """Rank."""
    lora_alpha: int = Field(default=64, ge=1)
    """Scale numerator: the adapter's output is multiplied by lora_alpha / r."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the adapter's input in SFT; scoring and GRPO run without."""
    modules: str | list[str] = "QKVGUD"
    """Letters out of QKVOGUD (QKV, GUD and QKVGUD are the paper's), `all-linear`, or a list of
    module names."""
    init: Literal["gaussian", "pissa", "olora", "default"] = "gaussian"
    """A and B both N(0, init_std²); or PEFT's PiSSA or OLoRA. `default` is LoRA's usual one, A
    uniform and B = 0: every importance would be 0, so it is for stages with `system: full`."""
    init_std: float = Field(default=0.01, gt=0)
    """Standard deviation of the gaussian init."""
    seed: int = Field(default=0, ge=0)
    """Draws the gaussian init and the default one, and what `peft` draws."""

    @property
    def residual(self) -> bool:
        """Whether the adapter stands on a base of its own, without what it took."""
        return self.init in ("pissa", "olora")

    @field_validator("modules")
    @classmethod
    def _modules(cls, value: str | list[str]) -> str | list[str]:
        if isinstance(value, list):
            if not value or any(not name for name in value):
                raise ValueError("a module list needs at least one name")
            return value
        if value == "all-linear":
            return value
        if not value or set(value) - set(MODULE_LETTERS) or len(set(value)) != len(value):
            raise ValueError(
                f"{value!r} is no module pattern; use QKV, GUD, QKVGUD, other letters out of "
                f"{''.join(MODULE_LETTERS)} once each, all-linear, or a list of module names"
            )
        return value


AdapterKind = Literal["lora", "prompt-tuning", "p-tuning", "prefix-tuning", "ia3"]


class PeftConfig(Section):
    """An adapter that isn't LoRA, through PEFT: a baseline. The paper names the kinds and gives no
    setting; these are the ones of PEFT's own guides."""

    kind: AdapterKind = "lora"
    """`lora` is what `lora` describes. The others train whole, by SFT: all elements, no mask. IA3
    scales keys, values and the MLP's inner activations."""
    virtual_tokens: int = Field(default=20, ge=1, le=4096)
    """Of the three that put some before the text, or before its keys and values."""
    encoder_hidden_size: int = Field(default=128, ge=1)
    """P-tuning: width of the MLP that makes the virtual tokens."""
    learning_rate: float = Field(default=0.0, ge=0)
    """A method's, in place of `sft.learning_rate`, which is LoRA's; 0 takes what is usual for the
    kind (`lorapar_core/methods.py`)."""


class ImportanceConfig(Section):
    """What the elements are scored on."""

    examples: int = Field(default=100, ge=1)
    """Examples a system, the first of that system's seeded order."""
    shard_size: int = Field(default=100, ge=1)
    """Examples in one moments artifact; more examples score only new shards."""
    batch_tokens: int = Field(default=768, ge=1)
    """Padded tokens a forward pass holds at most (a longer example goes alone)."""
    seed: int = Field(default=0, ge=0)
    """Orders each system's examples."""


class PartitionConfig(Section):
    """Which elements each system keeps. A change here recomputes nothing before the partition."""

    theta: float = Field(default=0.9, gt=0, le=1)
    """Share of a system's total importance that its kept elements carry (theta)."""
    alpha: float = Field(default=1.0, ge=0, le=1)
    """Fraction of shared elements that System 1 trains, by System-1 importance (alpha)."""
    beta: float = Field(default=1.0, ge=0, le=1)
    """Fraction of shared elements that System 2 trains, by System-2 importance (beta)."""
    choice: Literal["importance", "random"] = "importance"
    """`random`: a control that draws as many elements of each region at random."""
    seed: int = Field(default=0, ge=0)
    """Of the random choice; importance needs none."""


class StageConfig(Section):
    """One training stage of the ordered list."""

    kind: Literal["sft", "grpo"]
    """Supervised fine-tuning, or group-relative policy optimization."""
    system: Literal[1, 2, "all", "full"]
    """Whose active elements train; `all`: every element that either system keeps; `full`: every
    element of the adapter, with no mask (a baseline)."""
    data: Literal["system", 1, 2, "all"] = "system"
    """Train on that system's examples, on those of System 1 or 2, or on all."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the data."""

    @model_validator(mode="after")
    def _names_examples(self) -> StageConfig:
        if self.system == "full" and self.data == "system":
            raise ValueError(
                "system: full trains every element and names no examples; give data: all, 1 or 2"
            )
        return self


def _is_plain_url(text: str) -> bool:
    """Whether it has a scheme, a host and perhaps a path: no password, no query."""
    try:
        url = urlsplit(text)
        named = bool(url.hostname) and "@" not in url.netloc
    except ValueError:
        return False
    return named and url.scheme in ("http", "https") and not url.query and not url.fragment


Optimizer = Literal["adamw", "adamw_8bit"]


class SftConfig(Section):
    """Supervised fine-tuning; the paper's values are the defaults."""

    prompt: Literal["question_eos", "chat"] = "question_eos"
    """How scoring, SFT and its evaluation ask: the question and an end-of-sequence token (the
    paper's), or the model's chat template."""
    max_length: int = Field(default=512, ge=8)
    """Tokens of prompt and answer; longer examples are cut on the right."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Learning-rate schedule, by transformers' names."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of steps that warm up."""
    batch_size: int = Field(default=1, ge=1)
    """Examples a forward pass."""
    accumulation: int = Field(default=32, ge=1)
    """Forward passes an optimizer step."""
    optimizer: Optimizer = "adamw"
    """torch's AdamW, or that of bitsandbytes (the extra `8bit`), which holds its moments in 8
    bits."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled decay, on active elements only."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's beta 1."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """AdamW's beta 2."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Clip of the active elements' gradient norm; 0 doesn't clip."""
    max_steps: int = Field(default=0, ge=0)
    """Stop after so many optimizer steps; 0 goes by epochs."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass, to save memory."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Shuffles, and draws dropout."""


class GrpoConfig(Section):
    """GRPO; the paper's values are the defaults, the rest are those of the trl of its time."""

    prompt: Literal["tags", "as_sft"] = "tags"
    """`tags`: chat template with `system_prompt`, answer in <reasoning>/<answer> tags (the
    paper's); `as_sft`: the SFT prompt, answer after ####."""
    system_prompt: str = (
        "Respond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>"
    )
    """System message of the `tags` prompt."""
    max_prompt_length: int = Field(default=128, ge=8)
    """Tokens of the question part; longer prompts are left out of GRPO."""
    max_completion_length: int = Field(default=256, ge=1)
    """Tokens a completion may have."""
    group_size: int = Field(default=8, ge=2)
    """Completions a prompt."""
    batch_size: int = Field(default=8, ge=1)
    """Completions a forward pass."""
    accumulation: int = Field(default=4, ge=1)
    """Forward passes an optimizer step."""
    steps_per_generation: int = Field(default=0, ge=0)
    """Forward passes whose completions are made at once, by trl's name; 0 takes `accumulation`."""
    num_iterations: int = Field(default=1, ge=1)
    """How often each completion is trained on, by trl's name (mu in the GRPO paper)."""
    learning_rate: float = Field(default=5e-6, gt=0)
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Learning-rate schedule, by transformers' names."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of steps that warm up."""
    optimizer: Optimizer = "adamw"
    """torch's AdamW, or that of bitsandbytes (the extra `8bit`), which holds its moments in 8
    bits."""
    weight_decay: float = Field(default=0.1, ge=0)
    """AdamW's decoupled decay, on active elements only."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's beta 1."""
    adam_beta2: float = Field(default=0.99, ge=0, lt=1)
    """AdamW's beta 2."""
    max_grad_norm: float = Field(default=0.1, ge=0)
    """Clip of the active elements' gradient norm; 0 doesn't clip."""
    max_steps: int = Field(default=0, ge=0)
    """Stop after so many optimizer steps; 0 goes by epochs."""
    kl_coefficient: float = Field(default=0.04, ge=0)
    """Weight of the KL term (GRPO's own beta). The paper doesn't say; 0.04 was trl's default at the
    time."""
    kl_reference: Literal["base", "start", "initial"] = "start"
    """What the KL term pulls to: the base model, the adapter that the stage starts from, or the
    adapter before any stage. The paper doesn't say, and trl has changed its mind."""
    temperature: float = Field(default=0.9, gt=0)
    """Sampling temperature (the paper doesn't say; 0.9 was trl's default at the time)."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What draws completions. vLLM (the extra `vllm`, and a GPU) rounds otherwise and draws from a
    state of its own: the completions are others, and the loss weighs each by how likely our model
    finds it (trl's importance sampling correction). Each generation is on disk before it is used,
    so that a resume replays it."""
    clip_epsilon: float = Field(default=0.2, gt=0)
    """PPO-style clip of the policy ratio."""
    loss_type: Literal["grpo", "bnpo", "dapo", "dr_grpo"] = "grpo"
    """How token losses are averaged, by trl's names."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What divides the advantages: the group's standard deviation, the batch's, or nothing."""
    rewards: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=lambda: {
            "correctness": 2.0,
            "integer": 0.5,
            "strict_format": 0.5,
            "loose_format": 0.5,
            "tag_credit": 0.5,
        }
    )
    """Reward name -> weight. Your own is named by its import path, `package.module:function`
    (completion, reference, format), and known by that path alone: to have changed code computed
    anew, rename it. `free_form`, `code` and `execution` are our choice: the paper doesn't say what
    it used beyond GSM8K."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass, to save memory."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Shuffles, and draws completions."""

    @model_validator(mode="after")
    def _groups(self) -> GrpoConfig:
        name = "steps_per_generation" if self.steps_per_generation else "accumulation"
        completions = self.batch_size * getattr(self, name)
        if completions % self.group_size:
            raise ValueError(
                f"batch_size × {name} is {completions}, which is no multiple of group_size "
                f"{self.group_size}; choose numbers so that whole groups are generated at once"
            )
        return self

    @field_validator("rewards")
    @classmethod
    def _rewards(cls, value: dict[str, float]) -> dict[str, float]:
        known = {*PAPER_REWARDS, *OUR_REWARDS}
        unknown = sorted(n for n in set(value) - known if not _IMPORT_PATH.fullmatch(n))
        if unknown or not any(value.values()):
            raise ValueError(
                f"rewards {unknown or value} can't be used; give at least one positive weight for "
                f"{', '.join(sorted(known))} or a package.module:function"
            )
        return value


Asked = Literal["plain", "chat", "as_sft"]
"""How a benchmark puts its problems to the model."""

MMLU_SUBJECTS = (
    *("abstract_algebra", "anatomy", "astronomy", "business_ethics", "clinical_knowledge"),
    *("college_biology", "college_chemistry", "college_computer_science", "college_mathematics"),
    *("college_medicine", "college_physics", "computer_security", "conceptual_physics"),
    *("econometrics", "electrical_engineering", "elementary_mathematics", "formal_logic"),
    *("global_facts", "high_school_biology", "high_school_chemistry"),
    *("high_school_computer_science", "high_school_european_history", "high_school_geography"),
    *("high_school_government_and_politics", "high_school_macroeconomics"),
    *("high_school_mathematics", "high_school_microeconomics", "high_school_physics"),
    *("high_school_psychology", "high_school_statistics", "high_school_us_history"),
    *("high_school_world_history", "human_aging", "human_sexuality", "international_law"),
    *("jurisprudence", "logical_fallacies", "machine_learning", "management", "marketing"),
    *("medical_genetics", "miscellaneous", "moral_disputes", "moral_scenarios", "nutrition"),
    *("philosophy", "prehistory", "professional_accounting", "professional_law"),
    *("professional_medicine", "professional_psychology", "public_relations"),
    *("security_studies", "sociology", "us_foreign_policy", "virology", "world_religions"),
)


class BenchmarkConfig(Section):
    """A test set that the base and trained adapters are measured on, beside the recipe's own."""

    name: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")
    """What people call it; empty takes the task's name. Part of no key but the report's."""
    task: Literal["gsm8k", "svamp", "mmlu", "humaneval", "file"]
    """A published set, or `file`: your own rows of prompt and answer, of choices and answer, or of
    prompt and tests."""
    source: str = ""
    """Where its rows come from, written like `data.source`; empty takes the set on the hub."""
    shots_source: str = ""
    """Where worked examples come from, written likewise; empty takes the hub set's own split for
    it."""
    revision: str = ""
    """Commit, branch or tag of the hub set; empty takes the newest commit."""
    shots: int = Field(default=0, ge=0, le=64)
    """Worked examples before each problem: MMLU's are the first of the subject, others are drawn
    by `seed`, the same for all problems."""
    examples: int = Field(default=0, ge=0)
    """Problems to use, drawn by `seed`; 0 uses all."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Draws problems, worked examples, and samples."""
    subjects: list[str] = Field(default_factory=list)
    """`mmlu`: which of the 57; empty takes all."""
    prompt: Asked = "plain"
    """`plain`: the set's usual wording as bare text; `chat`: in the model's chat template;
    `as_sft`: as the last training stage asked (the base: as SFT asks)."""
    models: Literal["all", "base", "trained"] = "all"
    """Whether the base, the adapter after each training stage, or both are measured."""
    samples: int = Field(default=1, ge=1, le=1000)
    """Programs a problem, for pass@k; 1 is greedy."""
    k: list[Annotated[int, Field(ge=1)]] = Field(default_factory=lambda: [1], min_length=1)
    """Which pass@k are told; none above `samples`."""
    temperature: float = Field(default=0.8, gt=0)
    """Of several samples."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Of several samples: nucleus sampling."""
    max_new_tokens: int = Field(default=0, ge=0)
    """Longest answer; 0 takes `evaluation.max_new_tokens`."""

    @model_validator(mode="after")
    def _sound(self) -> BenchmarkConfig:
        where = f"benchmark {self.label!r}"
        if self.task == "file" and not self.source:
            raise ValueError(f"{where} has task: file and no source; give the file's path")
        if self.shots and self.source and not self.shots_source:
            raise ValueError(
                f"{where} shows {self.shots} worked examples before each problem of its own "
                "source; say in shots_source where they come from"
            )
        if self.shots_source and not self.shots:
            raise ValueError(f"{where} has a shots_source and shots: 0; set shots, or leave it out")
        if self.task == "humaneval" and self.shots:
            raise ValueError(f"{where} completes a function's head; it takes no shots")
        if self.shots and self.prompt == "as_sft":
            raise ValueError(
                f"{where} asks as_sft, and training showed no worked examples; use shots: 0, or "
                "prompt: plain or chat"
            )
        if self.task == "mmlu" and self.prompt != "plain":
            raise ValueError(
                f"{where} compares how likely the letters are after the plain prompt; use prompt: "
                "plain"
            )
        if self.task == "mmlu" and self.max_new_tokens:
            raise ValueError(f"{where} writes nothing; leave max_new_tokens out")
        if self.task == "humaneval" and self.prompt == "as_sft":
            raise ValueError(f"{where} completes a function's head; use prompt: plain or chat")
        return self

    @model_validator(mode="after")
    def _subjects(self) -> BenchmarkConfig:
        if self.subjects and self.task != "mmlu":
            raise ValueError(
                f"benchmark {self.label!r} has subjects, which only task: mmlu has; leave them out"
            )
        unknown = sorted(set(self.subjects) - set(MMLU_SUBJECTS))
        if unknown:
            near = get_close_matches(unknown[0], MMLU_SUBJECTS, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"MMLU has no subject {unknown[0]!r}{meant}")
        if len(set(self.subjects)) < len(self.subjects):
            raise ValueError(f"benchmark {self.label!r} names a subject twice; name each once")
        return self

    @model_validator(mode="after")
    def _samples(self) -> BenchmarkConfig:
        where, fields = f"benchmark {self.label!r}", type(self).model_fields
        if self.samples > 1 and self.task not in ("humaneval", "file"):
            raise ValueError(
                f"{where} has samples: {self.samples}, for pass@k of programs; task {self.task} "
                "takes 1, greedy"
            )
        drawn = (self.temperature, self.top_p)
        if self.samples == 1 and drawn != (fields["temperature"].default, fields["top_p"].default):
            raise ValueError(
                f"{where} sets temperature or top_p, and samples: 1 is greedy; leave them out, or "
                "set samples"
            )
        if sorted(set(self.k)) != self.k or self.k[-1] > self.samples:
            raise ValueError(
                f"{where} asks for pass@k of k {self.k} from {self.samples} samples a problem; "
                "give rising numbers, none above samples"
            )
        return self

    @property
    def label(self) -> str:
        """What people call it."""
        return self.name or self.task


class EvaluationConfig(Section):
    """Greedy generation on the test problems, and benchmarks."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Prompt and answer tokens that are generated side by side at most."""
    base: bool = True
    """Also evaluate the base model before any training."""
    benchmarks: list[BenchmarkConfig] = Field(default_factory=list)
    """Further test sets; the recipe's own is always measured."""

    @field_validator("benchmarks")
    @classmethod
    def _names(cls, value: list[BenchmarkConfig]) -> list[BenchmarkConfig]:
        names = [benchmark.label for benchmark in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"benchmarks {twice} stand twice; give each a name of its own")
        return value

    @model_validator(mode="after")
    def _somebody_is_asked(self) -> EvaluationConfig:
        idle = [b.label for b in self.benchmarks if b.models == "base" and not self.base]
        if idle:
            raise ValueError(
                f"benchmark {idle[0]!r} has models: base, and evaluation.base is false; set it, or "
                "leave the benchmark out"
            )
        return self


class RuntimeConfig(Section):
    """Where and how it runs. Nothing here is part of any artifact's key."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")
    """`auto` takes a GPU if there is one."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of each heavy process; 0 takes all cores. Recorded: it changes rounding."""
    processes: int = Field(default=1, ge=1)
    """Processes that train a stage together on a machine, one a GPU (data parallel). They share a
    step's forward passes, so those of all nodes together must divide `accumulation`."""
    nodes: int = Field(default=1, ge=1)
    """Machines that train a stage together, each with `processes`. They are alike, have the same
    environment installed, and store, scratch and models under the same paths (a shared file
    system)."""
    node_command: list[str] = Field(default_factory=list)
    """With several nodes: what starts a command once on each, passes stdin on to all and their
    stdout back, such as [srun, --nodes=2, --ntasks-per-node=1]. No shell reads it."""
    main_address: str = Field(default="", pattern=r"^([^\s:]+:\d+)?$")
    """host:port at which all nodes reach node 0; empty takes its name and a free port."""
    sharding: Literal["none", "fsdp"] = "none"
    """Whether each training process holds the whole base, or all of them a part each and get the
    rest layer by layer (FSDP2); for a base that doesn't fit one GPU. Adapters are whole either way.
    Scoring and evaluation need the base on one device still."""
    child: Literal["once", "resident"] = "once"
    """A process for each heavy stage, or one that stays and takes one after another (saves about
    10 s of imports a stage, keeps its memory)."""
    children: int = Field(default=1, ge=1)
    """Heavy processes side by side."""
    checkpoint_s: float = Field(default=300.0, ge=0)
    """Training keeps a checkpoint at the end of an optimizer step once the last is so many seconds
    old; 0 keeps one after every step."""
    resume: Literal["exact", "inexact"] = "exact"
    """Whether training may go on from a checkpoint that was made on another device, with other
    threads or other library versions, and so end with other bytes. The record says so."""
    grace_s: float = Field(default=20.0, ge=0, le=60)
    """Seconds that training gets to end its step and keep a checkpoint when its run is stopped.
    Prefect ends a cancelled run after 30."""
    retries: int = Field(default=2, ge=0)
    """Under Prefect: how often a training task is tried again whose process died."""
    trackers: list[Literal["trackio", "mlflow", "wandb", "tensorboard"]] = Field(
        default_factory=list
    )
    """Experiment trackers that get training's figures too; each has to be installed, and takes its
    address and key from its own environment variables."""
    tensorboard_dir: str = "~/.local/state/lorapar/tensorboard"
    """Where TensorBoard's files go, unless TENSORBOARD_LOGGING_DIR says so."""
    vote_concurrency: int = Field(default=32, ge=1)
    """litellm teachers: requests in flight for each; fewer while the provider says 429."""
    request_timeout_s: float = Field(default=60.0, gt=0)
    """litellm teachers: seconds after which a request is given up and made again."""
    vote_deadline_s: float = Field(default=600.0, gt=0)
    """litellm teachers: seconds of failing after which a vote is an abstention, while its teacher
    answers others."""
    outage_s: float = Field(default=7200.0, gt=0)
    """litellm teachers: seconds to wait for one that answers nothing before the run stops."""
    budget_usd: float | None = Field(default=None, ge=0)
    """The most that this recipe's votes may cost, earlier runs included: reserved before each
    request, so that one run never exceeds it (runs side by side don't see each other's spending).
    At the cap the run stops; raise it to go on. null: no cap."""
    budget_votes: int | None = Field(default=None, ge=0)
    """The most votes that this recipe may buy, earlier runs included. null: no cap."""
    vllm_mode: Literal["colocate", "server"] = "colocate"
    """Where `grpo.engine: vllm` runs: in the training processes, on their GPUs, or as a server of
    its own (`vllm serve`, started by you on other GPUs; trl's documentation has its arguments)."""
    vllm_server: str = Field(default="127.0.0.1:8000", pattern=r"^[^\s:]+:\d+$")
    """host:port of that server."""
    vllm_memory_share: float = Field(default=0.3, gt=0, lt=1)
    """colocate: share of a GPU's memory that vLLM takes, training has the rest."""
    vllm_tensor_parallel: int = Field(default=1, ge=1)
    """colocate: GPUs of one machine that hold one copy of the model for vLLM; `processes` must be a
    multiple."""
    sandbox: Sandbox = "isolated"
    """How rewards run code: `isolated` needs Linux with user namespaces; `limits` does without, and
    lets code that the model wrote change your files and read your processes' environment."""

    @property
    def world(self) -> int:
        """Processes of all nodes that train a stage together."""
        return self.nodes * self.processes


class Recipe(Section):
    """All sections. See each for its fields."""

    name: str = Field(default="recipe", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Names runs and reports; part of no key but the report's."""
    description: str = ""
    """One line for people."""
    method: Method = "lora-par"
    """What is trained with these data and steps: LoRA-PAR, or a baseline. A baseline is plain
    values of the other sections (`lorapar_core/methods.py`), which take the place of the recipe's.
    Without `+rl` it keeps the SFT stages only; `random` has LoRA-PAR's regions at random places."""
    data: DataConfig = DataConfig()
    teachers: list[TeacherConfig] = Field(default_factory=list)
    """Who votes: at least one."""
    voting: VotingConfig = VotingConfig()
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    peft: PeftConfig = PeftConfig()
    importance: ImportanceConfig = ImportanceConfig()
    partition: PartitionConfig = PartitionConfig()
    stages: list[StageConfig] = Field(
        default_factory=lambda: [
            StageConfig(kind="sft", system=1),
            StageConfig(kind="grpo", system=2),
        ]
    )
    """Training stages, in order."""
    sft: SftConfig = SftConfig()
    grpo: GrpoConfig = GrpoConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _teachers(self) -> Recipe:
        if not self.teachers:
            raise ValueError(
                "the recipe has no teachers; give at least one, such as "
                "teachers: [{name: self, provider: local}]"
            )
        names = [teacher.name for teacher in self.teachers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"teacher names {twice} stand twice; give each teacher its own name")
        self._check_voting(names)
        self._check_scripted()
        return self

    def _check_scripted(self) -> None:
        scripted = [teacher.name for teacher in self.teachers if teacher.provider == "scripted"]
        if scripted and self.data.source not in SOLVED:
            raise ValueError(
                f"teachers {scripted} are scripted, and nobody knows the true systems of "
                f"data.source {self.data.source!r}; use {' or '.join(SOLVED)}, or other teachers"
            )

    def _check_voting(self, names: list[str]) -> None:
        voting = self.voting
        for field, named in (("panel", voting.panel), ("escalate_to", [voting.escalate_to])):
            unknown = sorted(set(named) - {*names, ""})
            if unknown:
                raise ValueError(
                    f"voting.{field} names {unknown}, and the teachers are {names}; name some of "
                    "these"
                )
        if (voting.tie == "escalate") != bool(voting.escalate_to):
            raise ValueError(
                "voting.tie: escalate and voting.escalate_to belong together; give both or neither"
            )
        if voting.escalate_to in voting.panel or not self.panel:
            raise ValueError(
                f"voting.escalate_to is {voting.escalate_to!r}, who can't vote and decide ties as "
                "well; name another teacher"
            )
        if voting.quorum > len(self.panel):
            raise ValueError(
                f"voting.quorum is {voting.quorum}, but {len(self.panel)} teachers vote"
            )
        if self.judge and voting.aggregate != "majority":
            raise ValueError(
                "tie: escalate needs aggregate: majority; dawid_skene decides ties by itself"
            )
        if self.judge and self.judge.calibration == "batch":
            raise ValueError(
                f"voting.escalate_to is {voting.escalate_to!r}, whose calibration: batch is a mean "
                "over the ties alone; use content_free or none"
            )
        if voting.curtailed:
            self._check_curtailed()

    def _check_curtailed(self) -> None:
        if self.voting.aggregate != "majority":
            raise ValueError(
                "voting.curtailed needs aggregate: majority; dawid_skene reads every vote"
            )
        batch = [teacher.name for teacher in self.panel if teacher.calibration == "batch"]
        if batch:
            raise ValueError(
                f"voting.curtailed can't be used with calibration: batch (teachers {batch}), whose "
                "offset is a mean over all their votes; use content_free or none"
            )

    @property
    def needs_masks(self) -> bool:
        """Whether elements are scored and chosen: not where every stage trains all of them."""
        return any(stage.system != "full" for stage in self.stages)

    @property
    def needs_labels(self) -> bool:
        """Whether examples are voted on."""
        return self.needs_masks or any(stage.data != "all" for stage in self.stages)

    @property
    def panel(self) -> list[TeacherConfig]:
        """The teachers whose votes count, in the recipe's order."""
        voting = self.voting
        named = set(voting.panel) or {t.name for t in self.teachers} - {voting.escalate_to}
        return [teacher for teacher in self.teachers if teacher.name in named]

    @property
    def judge(self) -> TeacherConfig | None:
        """The teacher that decides ties."""
        found = [t for t in self.teachers if t.name == self.voting.escalate_to]
        return found[0] if found else None

    @property
    def asked(self) -> list[TeacherConfig]:
        """All teachers that may be asked: none where no example needs a label."""
        if not self.needs_labels:
            return []
        return [*self.panel, *([self.judge] if self.judge else [])]
