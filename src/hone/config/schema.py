"""The options of each command that runs a job. A field's description is its help text and its line in the docs.

Every default is written here and nowhere else. None means that the value is chosen from the model and the data; what
was chosen stands in the run's ``config.yaml``. All problems of a set of options come as one :class:`ConfigError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from hone.config.check import config_error, cross_problems, field_problems
from hone.config.option_help import option_help, option_name
from hone.config.option_types import (
    Arms,
    Bytes,
    ColumnMapping,
    Count,
    Count0,
    Device,
    Dtype,
    Names,
    NotNegative,
    Positive,
    Probes,
    Seed,
    Seeds,
    Share,
    ShareOrCount,
    Text,
)
from hone.config.values import on_or_off
from hone.types import DEFAULT_MODEL, AdaptationName, Keep, MethodName

__all__ = [
    "DEFAULT_MODEL",
    "DEFAULT_PROBES",
    "DEVICE_HELP",
    "DTYPE_HELP",
    "OPTION_RULES",
    "SEEDS_HELP",
    "EvaluateConfig",
    "RunConfig",
    "TrainConfig",
    "report_together",
]

# 432 questions in all: they take about as long as the other measures of retention together
DEFAULT_PROBES = 24


def report_together(
    cls: type[BaseModel], values: Any, handler: ModelWrapValidatorHandler[Any], info: ValidationInfo
) -> Any:
    """Validate, and raise one ConfigError for everything that is wrong.

    The context, which ``load.py`` gives, holds what was found before: ``problems``, ``places`` and ``where``; and the
    ``words`` of a command line.
    """
    context = info.context or {}
    told: dict[str, Mapping[str, str]] = {name: context.get(name, {}) for name in ("places", "words")}
    problems: list[str] = list(context.get("problems", ()))
    config = None
    try:
        config = handler(values)
    except ValidationError as error:
        problems += field_problems(error.errors(), options=list(option_help(cls)), **told)
    if isinstance(values, Mapping):
        problems += cross_problems({option_name(cls, key): value for key, value in values.items()}, **told)
    if problems:
        command = context.get("command") or cls.__name__.removesuffix("Config").lower()
        raise config_error(problems, command=command, where=context.get("where"))
    return config


OPTION_RULES = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)
"""What all sets of options share, beside :func:`report_together`."""

# Options that several commands have, with one meaning.
DEVICE_HELP = "cpu, cuda, cuda:N or mps; the fastest there is unless given."
_DOCUMENTS_HELP = "Folder of documents with facts that answers need: txt, md, html, pdf, jsonl."
_INSTRUCTION_HELP = "What the prompted arm tells the base; made from the training rows unless given."
_ARMS_HELP = (
    "Who answers: base, prompted, few_shot, retrieval, tuned, tuned_retrieval; all that are possible unless given."
)
_MAX_NEW_TOKENS_HELP = "Longest answer in tokens; chosen from the reference answers unless given."
DTYPE_HELP = "Type of the base's weights; bfloat16 where the device is fast with it unless given."
_KEEP_HELP = "General ability that tuning may cost: little (strict), some (balanced) or any (off)."
_PROBES_HELP = "General questions of each of 18 skills, up to 30, to measure retention by; 0 measures none."
_RETENTION_HELP = "Files of further questions to measure retention by, with commas between."
SEEDS_HELP = "Trainings in all, each with the next seed on the same split; the first one's adapter is registered."
_LM_EVAL_HELP = "Tasks of lm-evaluation-harness to measure retention by, with commas between: names, or YAML files."
_LM_EVAL_LIMIT_HELP = "Ask the first questions of each of these tasks only, this many of them."
_MAPPING_HELP = "Columns of the data, as prompt=COLUMN,completion=COLUMN; found by themselves unless given."


class TrainConfig(BaseModel):
    """Options of ``hone train``."""

    model_config = OPTION_RULES
    _problems = model_validator(mode="wrap")(report_together)

    data: Text = Field(description="Training rows: a JSONL, JSON, CSV, TSV or Parquet file, or a hub data set.")
    model: Text = Field(
        DEFAULT_MODEL,
        description="The base: a hub id, a folder, a .gguf file; or a version (support@1), to train on top of it.",
    )
    output: Path | None = Field(None, description="Folder for the run; a new one in the home folder unless given.")
    mapping: ColumnMapping | None = Field(None, alias="map", description=_MAPPING_HELP)
    allow_few_rows: bool = Field(False, description="Go on with fewer than 10 usable rows.")
    method: MethodName | None = Field(
        None,
        description="How to train: sft (supervised fine-tuning); on preferences dpo, ipo, orpo, simpo, kto (answers "
        "judged one by one too) or reward (a reward model); with --reward grpo, rloo or ppo (reinforcement), or raft "
        "(rejection sampling: fine-tuning on the best of its own answers); with --teacher distill (on-policy "
        "distillation). Follows from the rows unless given.",
    )
    reward: Text | None = Field(
        None,
        description="grpo, rloo, ppo and raft: what an answer is worth: module:function, file.py:function, a grader "
        "(JSON, or a file of it), or a reward model.",
    )
    teacher: Text | None = Field(
        None,
        description="distill: the model to become like, with the same tokenizer: a base, a version, or an endpoint as "
        "URL#MODEL.",
    )
    watch_reward: Text | None = Field(
        None, description="A second reward that is measured and never trained on, to see the first one gamed."
    )
    group_size: Annotated[Count, Field(le=256)] | None = Field(
        None, description="Answers of its own to a prompt; 8, of distill 4, unless given."
    )
    rollout_tokens: Count | None = Field(
        None, description="Longest answer to train on, in tokens; chosen from the reference answers unless given."
    )
    policy_epochs: Count | None = Field(
        None, description="Optimizer steps over the same answers; 1, of ppo 2, unless given."
    )
    kl_weight: NotNegative | None = Field(
        None,
        description="grpo, rloo and ppo: weight of the divergence from the base; 0.04, of rloo 0.05, of ppo 0.02, "
        "unless given.",
    )
    clip_range: Positive = Field(0.2, description="How far from 1 the ratio of new to old probability still counts.")
    loss_normalisation: Literal["grpo", "dr_grpo", "dapo"] | None = Field(
        None,
        description="grpo: divide the loss by each answer's tokens (grpo), the longest (dr_grpo) or all tokens (dapo).",
    )
    scale_advantages: bool = Field(True, description="grpo: divide advantages by the deviation of their group.")
    beta: Positive | None = Field(
        None,
        description="On preferences: how strongly the model is held to its base (of orpo, the weight of the odds; of "
        "simpo, the scale of the reward); 0.1, of simpo 2, unless given.",
    )
    label_smoothing: Annotated[Share, Field(lt=0.5)] = Field(
        0.0, description="dpo and simpo: share of the preferences that are taken to be wrong."
    )
    length_normalised: bool | None = Field(
        None, description="dpo and ipo: rewards a token and not an answer; ipo does unless told otherwise."
    )
    target_margin: NotNegative | None = Field(
        None, description="simpo: by how much the better answer's reward is to lead; half of beta unless given."
    )
    adaptation: AdaptationName = Field(
        "lora",
        description="What is trained: an adapter (lora, rslora, dora, pissa), all weights (full) or some (partial); or "
        "a method of PEFT: c3a, delora, fourierft, ia3, ln_tuning, loha, lokr, miss, oft, randlora, road, shira, vera, "
        "waveft.",
    )
    layers: Names | None = Field(
        None,
        description="Glob patterns of the layers to adapt, or with partial of the weights to train, as q_proj,"
        "model.layers.2*; all linear layers but the head unless given.",
    )
    add_tokens: Text | None = Field(
        None,
        description="Words to add as tokens, with commas between, or a file with one a line; trained beside an "
        "adapter.",
    )
    rank: Count | None = Field(None, description="Rank of the adapter; chosen from model and data unless given.")
    alpha: Positive | None = Field(
        None, description="The adapter's update is scaled by alpha / rank; chosen with the rank unless given."
    )
    epochs: Count | None = Field(None, description="Passes over the data; chosen from the number of rows unless given.")
    max_steps: Count | None = Field(None, description="Stop after this many optimizer steps, whatever the epochs.")
    batch_size: Count | None = Field(None, description="Rows per optimizer step; chosen from the data unless given.")
    learning_rate: Positive | None = Field(
        None, description="Peak learning rate; chosen from model and data unless given."
    )
    learning_rate_ratio: Positive = Field(
        1.0, description="LoRA+: the adapter's B learns this many times as fast as its A; the paper uses 16."
    )
    max_length: Count | None = Field(
        None, description="Longest row in tokens; longer ones are cut. Chosen from model and data unless given."
    )
    validation: ShareOrCount | None = Field(
        None,
        description="Rows kept from training to choose the best checkpoint: a share (0.1), a number (20), or 0 for "
        "none; chosen from the number of rows unless given.",
    )
    general_rows: Count0 | None = Field(
        None,
        description="sft: rows outside of the domain to train on beside it, so that general ability is kept: general "
        "prompts with the base's own answers; 0 for none, 15% of the rows and at most 64 unless given.",
    )
    general_data: Text | None = Field(
        None, description="General rows of your own in place of the base's answers, in any format of training rows."
    )
    early_stop: bool = Field(True, description="Stop when the validation loss no longer falls.")
    warmup_share: Share | None = Field(
        None, description="Share of the steps in which the learning rate rises; 0.1 unless given."
    )
    weight_decay: NotNegative = Field(0.0, description="AdamW's weight decay.")
    max_gradient_norm: Positive = Field(1.0, description="Gradients with a larger norm are scaled down to it.")
    seed: Seed = Field(0, description="Seed of everything random; the same seed gives the same run.")
    split_seed: Seed | None = Field(
        None,
        description="Seed of what is chosen among the rows: those held out, those to validate with, those with "
        "passages; that of --seed unless given.",
    )
    save_every_steps: Count | None = Field(
        None, description="Optimizer steps between checkpoints, all kept; unless given, one a pass, the last two kept."
    )
    device: Device | None = Field(None, description=DEVICE_HELP)
    dtype: Dtype | None = Field(None, description=DTYPE_HELP)
    devices: Count = Field(1, description="Devices of this machine to train on together: GPUs, or processes on cpu.")
    shard: Annotated[Literal["auto", "on", "off"], BeforeValidator(on_or_off)] = Field(
        "auto", description="Split the base over the devices; auto does where it does not fit on each."
    )
    micro_batch_tokens: Count | None = Field(
        None,
        description="Tokens computed at once; the batch is accumulated from such parts, which changes memory and "
        "speed, not the result. Chosen from the memory unless given.",
    )
    memory_budget: Bytes | None = Field(
        None,
        description="Memory for weights, optimizer and activations, as 6GB; what is free on the device unless given.",
    )
    recompute_layers: Count0 | None = Field(
        None,
        description="Decoder layers, from the first, that compute their activations again in the backward pass: less "
        "memory, more time, the same numbers. As many as the memory asks for unless given.",
    )
    quantize: Literal["nf4", "fp4"] | None = Field(
        None, description="Keep the base's linear layers in 4 bits, under an adapter; needs the package bitsandbytes."
    )
    start_from: Text | None = Field(
        None,
        description="Begin with the adapter of this version (support@3) in place of a new one; `hone models continue` "
        "does it with replay of the old rows.",
    )
    reference_path: bool = Field(
        False, description="Compute with padded rows and the model's own attention: slower, for any architecture."
    )

    @property
    def rows_seed(self) -> int:
        """The seed of what is chosen among the rows."""
        return self.seed if self.split_seed is None else self.split_seed


class RunConfig(TrainConfig):
    """Options of ``hone run``: those of ``hone train``, and the comparison's."""

    evaluation_data: Text | None = Field(
        None, alias="eval", description="File of held-out rows; rows of the data are set aside unless given."
    )
    name: Text | None = Field(None, description="Name of the version; taken from the data's file name unless given.")
    documents: Path | None = Field(None, description=_DOCUMENTS_HELP)
    arms: Arms | None = Field(None, description=_ARMS_HELP)
    instruction: Text | None = Field(None, description=_INSTRUCTION_HELP)
    held_out: Annotated[ShareOrCount, Field(gt=0)] | None = Field(
        None,
        description="Rows set aside for the comparison: a share (0.2) or a number (40); chosen from the number of "
        "rows unless given.",
    )
    metric: Text | None = Field(None, description="Metric of the comparison; follows from the answers unless given.")
    max_new_tokens: Count | None = Field(None, description=_MAX_NEW_TOKENS_HELP)
    keep: Annotated[Keep, BeforeValidator(on_or_off)] = Field("balanced", description=_KEEP_HELP)
    probes: Probes = Field(DEFAULT_PROBES, description=_PROBES_HELP)
    retention: Names | None = Field(None, description=_RETENTION_HELP)
    seeds: Seeds = Field(1, description=SEEDS_HELP)
    lm_eval: Names | None = Field(None, description=_LM_EVAL_HELP)
    lm_eval_limit: Count | None = Field(None, description=_LM_EVAL_LIMIT_HELP)


class EvaluateConfig(BaseModel):
    """Options of ``hone evaluate``."""

    model_config = OPTION_RULES
    _problems = model_validator(mode="wrap")(report_together)

    version: Text = Field(description="What to evaluate: a version (support, support@3), an alias, or a run's folder.")
    data: Text | None = Field(None, description="File of held-out rows; those of the version's run unless given.")
    arms: Arms | None = Field(None, description=_ARMS_HELP)
    documents: Path | None = Field(None, description=_DOCUMENTS_HELP)
    instruction: Text | None = Field(None, description=_INSTRUCTION_HELP)
    against: Names | None = Field(
        None,
        description="Others that answer too: versions, bases, or endpoints with OpenAI's chat API as URL#MODEL, whose "
        "key is read from HONE_ENDPOINT_KEY.",
    )
    cache: bool = Field(True, description="Keep answers, and take kept ones where nothing has changed.")
    metric: Text | None = Field(None, description="Metric of the comparison; follows from the answers unless given.")
    seed: Seed = Field(0, description="Seed of the bootstrap and of anything sampled.")
    max_new_tokens: Count | None = Field(None, description=_MAX_NEW_TOKENS_HELP)
    keep: Annotated[Keep, BeforeValidator(on_or_off)] = Field("balanced", description=_KEEP_HELP)
    probes: Probes = Field(DEFAULT_PROBES, description=_PROBES_HELP)
    retention: Names | None = Field(None, description=_RETENTION_HELP)
    lm_eval: Names | None = Field(None, description=_LM_EVAL_HELP)
    lm_eval_limit: Count | None = Field(None, description=_LM_EVAL_LIMIT_HELP)
    limit: Count | None = Field(None, description="Use the first rows only, this many of them.")
    mapping: ColumnMapping | None = Field(None, alias="map", description=_MAPPING_HELP)
    device: Device | None = Field(None, description=DEVICE_HELP)
    dtype: Dtype | None = Field(None, description=DTYPE_HELP)
