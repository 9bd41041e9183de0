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
    PlainValidator,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from hone.config.check import config_error, cross_problems, field_problems
from hone.config.option_help import option_help, option_name
from hone.config.values import byte_size, column_mapping, name_list, no_truth_value, on_or_off, share_or_count
from hone.types import DEFAULT_MODEL, AdaptationName, ArmName, Keep, MethodName

__all__ = [
    "DEFAULT_MODEL",
    "DEFAULT_PROBES",
    "MOST_SEEDS",
    "SEEDS_HELP",
    "ChatConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "RunConfig",
    "TrainConfig",
]

# 432 questions in all: they take about as long as the other measures of retention together
DEFAULT_PROBES = 24
MOST_SEEDS = 100


def _report_together(
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


_MODEL_CONFIG = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)
_Count = Annotated[int, BeforeValidator(no_truth_value), Field(ge=1)]
_Count0 = Annotated[int, BeforeValidator(no_truth_value), Field(ge=0)]
_Bytes = Annotated[int, BeforeValidator(byte_size), Field(ge=1)]
_Seed = Annotated[int, BeforeValidator(no_truth_value), Field(ge=0, lt=2**32)]
_Seeds = Annotated[int, BeforeValidator(no_truth_value), Field(ge=1, le=MOST_SEEDS)]
_Probes = Annotated[int, BeforeValidator(no_truth_value), Field(ge=0, le=30)]
_Positive = Annotated[float, BeforeValidator(no_truth_value), Field(gt=0)]
_NotNegative = Annotated[float, BeforeValidator(no_truth_value), Field(ge=0)]
_Share = Annotated[float, BeforeValidator(no_truth_value), Field(ge=0, lt=1)]
_ShareOrCount = Annotated[float | int, PlainValidator(share_or_count)]
_Text = Annotated[str, Field(min_length=1)]
_Device = Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")]
_Dtype = Literal["float32", "bfloat16"]
_Names = Annotated[tuple[_Text, ...], BeforeValidator(name_list), Field(min_length=1)]
_Arms = Annotated[tuple[ArmName, ...], BeforeValidator(name_list), Field(min_length=1)]
_Mapping = Annotated[dict[str, str], BeforeValidator(column_mapping)]

# Options that several commands have, with one meaning.
_DEVICE_HELP = "cpu, cuda, cuda:N or mps; the fastest there is unless given."
_DOCUMENTS_HELP = "Folder of documents with facts that answers need: txt, md, html, pdf, jsonl."
_INSTRUCTION_HELP = "What the prompted arm tells the base; made from the training rows unless given."
_ARMS_HELP = (
    "Who answers: base, prompted, few_shot, retrieval, tuned, tuned_retrieval; all that are possible unless given."
)
_MAX_NEW_TOKENS_HELP = "Longest answer in tokens; chosen from the reference answers unless given."
_DTYPE_HELP = "Type of the base's weights; bfloat16 where the device is fast with it unless given."
_KEEP_HELP = "General ability that tuning may cost: little (strict), some (balanced) or any (off)."
_PROBES_HELP = "General questions of each of 18 skills, up to 30, to measure retention by; 0 measures none."
_RETENTION_HELP = "Files of further questions to measure retention by, with commas between."
SEEDS_HELP = "Trainings in all, each with the next seed on the same split; the first one's adapter is registered."
_LM_EVAL_HELP = "Tasks of lm-evaluation-harness to measure retention by, with commas between: names, or YAML files."
_LM_EVAL_LIMIT_HELP = "Ask the first questions of each of these tasks only, this many of them."
_MAPPING_HELP = "Columns of the data, as prompt=COLUMN,completion=COLUMN; found by themselves unless given."


class TrainConfig(BaseModel):
    """Options of ``hone train``."""

    model_config = _MODEL_CONFIG
    _problems = model_validator(mode="wrap")(_report_together)

    data: _Text = Field(description="Training rows: a JSONL, JSON, CSV, TSV or Parquet file, or a hub data set.")
    model: _Text = Field(DEFAULT_MODEL, description="The base: a hub id, a folder, or a .gguf file.")
    output: Path | None = Field(None, description="Folder for the run; a new one in the home folder unless given.")
    mapping: _Mapping | None = Field(None, alias="map", description=_MAPPING_HELP)
    allow_few_rows: bool = Field(False, description="Go on with fewer than 10 usable rows.")
    method: MethodName | None = Field(
        None,
        description="How to train: sft (supervised fine-tuning); on preferences dpo, ipo, orpo, simpo, kto (answers "
        "judged one by one too) or reward (a reward model); with --reward grpo, rloo or ppo (reinforcement). Follows "
        "from the rows unless given.",
    )
    reward: _Text | None = Field(
        None,
        description="grpo, rloo and ppo: what an answer is worth: module:function, file.py:function, a grader "
        "(JSON, or a file of it), or a reward model.",
    )
    watch_reward: _Text | None = Field(
        None, description="A second reward that is measured and never trained on, to see the first one gamed."
    )
    group_size: Annotated[int, BeforeValidator(no_truth_value), Field(ge=2, le=256)] | None = Field(
        None, description="grpo, rloo and ppo: answers to a prompt; 8 unless given."
    )
    rollout_tokens: _Count | None = Field(
        None, description="Longest answer to train on, in tokens; chosen from the reference answers unless given."
    )
    policy_epochs: _Count | None = Field(
        None, description="Optimizer steps over the same answers; 1, of ppo 2, unless given."
    )
    kl_weight: _NotNegative | None = Field(
        None, description="Weight of the divergence from the base; 0.04, of rloo 0.05, of ppo 0.02, unless given."
    )
    clip_range: _Positive = Field(0.2, description="How far from 1 the ratio of new to old probability still counts.")
    loss_normalisation: Literal["grpo", "dr_grpo", "dapo"] | None = Field(
        None,
        description="grpo: divide the loss by each answer's tokens (grpo), the longest (dr_grpo) or all tokens (dapo).",
    )
    scale_advantages: bool = Field(True, description="grpo: divide advantages by the deviation of their group.")
    beta: _Positive | None = Field(
        None,
        description="On preferences: how strongly the model is held to its base (of orpo, the weight of the odds; of "
        "simpo, the scale of the reward); 0.1, of simpo 2, unless given.",
    )
    label_smoothing: Annotated[_Share, Field(lt=0.5)] = Field(
        0.0, description="dpo and simpo: share of the preferences that are taken to be wrong."
    )
    length_normalised: bool | None = Field(
        None, description="dpo and ipo: rewards a token and not an answer; ipo does unless told otherwise."
    )
    target_margin: _NotNegative | None = Field(
        None, description="simpo: by how much the better answer's reward is to lead; half of beta unless given."
    )
    adaptation: AdaptationName = Field(
        "lora",
        description="What is trained: an adapter (lora, rslora, dora, pissa), all weights (full) or some (partial); or "
        "a method of PEFT: c3a, delora, fourierft, ia3, ln_tuning, loha, lokr, miss, oft, randlora, road, shira, vera, "
        "waveft.",
    )
    layers: _Names | None = Field(
        None,
        description="Glob patterns of the layers to adapt, or with partial of the weights to train, as q_proj,"
        "model.layers.2*; all linear layers but the head unless given.",
    )
    add_tokens: _Text | None = Field(
        None,
        description="Words to add as tokens, with commas between, or a file with one a line; trained beside an "
        "adapter.",
    )
    rank: _Count | None = Field(None, description="Rank of the adapter; chosen from model and data unless given.")
    alpha: _Positive | None = Field(
        None, description="The adapter's update is scaled by alpha / rank; chosen with the rank unless given."
    )
    epochs: _Count | None = Field(
        None, description="Passes over the data; chosen from the number of rows unless given."
    )
    max_steps: _Count | None = Field(None, description="Stop after this many optimizer steps, whatever the epochs.")
    batch_size: _Count | None = Field(None, description="Rows per optimizer step; chosen from the data unless given.")
    learning_rate: _Positive | None = Field(
        None, description="Peak learning rate; chosen from model and data unless given."
    )
    learning_rate_ratio: _Positive = Field(
        1.0, description="LoRA+: the adapter's B learns this many times as fast as its A; the paper uses 16."
    )
    max_length: _Count | None = Field(
        None, description="Longest row in tokens; longer ones are cut. Chosen from model and data unless given."
    )
    validation: _ShareOrCount | None = Field(
        None,
        description="Rows kept from training to choose the best checkpoint: a share (0.1), a number (20), or 0 for "
        "none; chosen from the number of rows unless given.",
    )
    general_rows: _Count0 | None = Field(
        None,
        description="sft: rows outside of the domain to train on beside it, so that general ability is kept: general "
        "prompts with the base's own answers; 0 for none, 15% of the rows and at most 64 unless given.",
    )
    general_data: _Text | None = Field(
        None, description="General rows of your own in place of the base's answers, in any format of training rows."
    )
    early_stop: bool = Field(True, description="Stop when the validation loss no longer falls.")
    warmup_share: _Share | None = Field(
        None, description="Share of the steps in which the learning rate rises; 0.1 unless given."
    )
    weight_decay: _NotNegative = Field(0.0, description="AdamW's weight decay.")
    max_gradient_norm: _Positive = Field(1.0, description="Gradients with a larger norm are scaled down to it.")
    seed: _Seed = Field(0, description="Seed of everything random; the same seed gives the same run.")
    split_seed: _Seed | None = Field(
        None,
        description="Seed of what is chosen among the rows: those held out, those to validate with, those with "
        "passages; that of --seed unless given.",
    )
    save_every_steps: _Count | None = Field(
        None, description="Optimizer steps between checkpoints, all kept; unless given, one a pass, the last two kept."
    )
    device: _Device | None = Field(None, description=_DEVICE_HELP)
    dtype: _Dtype | None = Field(None, description=_DTYPE_HELP)
    devices: _Count = Field(1, description="Devices of this machine to train on together: GPUs, or processes on cpu.")
    shard: Annotated[Literal["auto", "on", "off"], BeforeValidator(on_or_off)] = Field(
        "auto", description="Split the base over the devices; auto does where it does not fit on each."
    )
    micro_batch_tokens: _Count | None = Field(
        None,
        description="Tokens computed at once; the batch is accumulated from such parts, which changes memory and "
        "speed, not the result. Chosen from the memory unless given.",
    )
    memory_budget: _Bytes | None = Field(
        None,
        description="Memory for weights, optimizer and activations, as 6GB; what is free on the device unless given.",
    )
    recompute_layers: _Count0 | None = Field(
        None,
        description="Decoder layers, from the first, that compute their activations again in the backward pass: less "
        "memory, more time, the same numbers. As many as the memory asks for unless given.",
    )
    quantize: Literal["nf4", "fp4"] | None = Field(
        None, description="Keep the base's linear layers in 4 bits, under an adapter; needs the package bitsandbytes."
    )
    start_from: _Text | None = Field(
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

    evaluation_data: _Text | None = Field(
        None, alias="eval", description="File of held-out rows; rows of the data are set aside unless given."
    )
    name: _Text | None = Field(None, description="Name of the version; taken from the data's file name unless given.")
    documents: Path | None = Field(None, description=_DOCUMENTS_HELP)
    arms: _Arms | None = Field(None, description=_ARMS_HELP)
    instruction: _Text | None = Field(None, description=_INSTRUCTION_HELP)
    held_out: Annotated[_ShareOrCount, Field(gt=0)] | None = Field(
        None,
        description="Rows set aside for the comparison: a share (0.2) or a number (40); chosen from the number of "
        "rows unless given.",
    )
    metric: _Text | None = Field(None, description="Metric of the comparison; follows from the answers unless given.")
    max_new_tokens: _Count | None = Field(None, description=_MAX_NEW_TOKENS_HELP)
    keep: Annotated[Keep, BeforeValidator(on_or_off)] = Field("balanced", description=_KEEP_HELP)
    probes: _Probes = Field(DEFAULT_PROBES, description=_PROBES_HELP)
    retention: _Names | None = Field(None, description=_RETENTION_HELP)
    seeds: _Seeds = Field(1, description=SEEDS_HELP)
    lm_eval: _Names | None = Field(None, description=_LM_EVAL_HELP)
    lm_eval_limit: _Count | None = Field(None, description=_LM_EVAL_LIMIT_HELP)


class EvaluateConfig(BaseModel):
    """Options of ``hone evaluate``."""

    model_config = _MODEL_CONFIG
    _problems = model_validator(mode="wrap")(_report_together)

    version: _Text = Field(description="What to evaluate: a version (support, support@3), an alias, or a run's folder.")
    data: _Text | None = Field(None, description="File of held-out rows; those of the version's run unless given.")
    arms: _Arms | None = Field(None, description=_ARMS_HELP)
    documents: Path | None = Field(None, description=_DOCUMENTS_HELP)
    instruction: _Text | None = Field(None, description=_INSTRUCTION_HELP)
    against: _Names | None = Field(
        None,
        description="Others that answer too: versions, bases, or endpoints with OpenAI's chat API as URL#MODEL, whose "
        "key is read from HONE_ENDPOINT_KEY.",
    )
    cache: bool = Field(True, description="Keep answers, and take kept ones where nothing has changed.")
    metric: _Text | None = Field(None, description="Metric of the comparison; follows from the answers unless given.")
    seed: _Seed = Field(0, description="Seed of the bootstrap and of anything sampled.")
    max_new_tokens: _Count | None = Field(None, description=_MAX_NEW_TOKENS_HELP)
    keep: Annotated[Keep, BeforeValidator(on_or_off)] = Field("balanced", description=_KEEP_HELP)
    probes: _Probes = Field(DEFAULT_PROBES, description=_PROBES_HELP)
    retention: _Names | None = Field(None, description=_RETENTION_HELP)
    lm_eval: _Names | None = Field(None, description=_LM_EVAL_HELP)
    lm_eval_limit: _Count | None = Field(None, description=_LM_EVAL_LIMIT_HELP)
    limit: _Count | None = Field(None, description="Use the first rows only, this many of them.")
    mapping: _Mapping | None = Field(None, alias="map", description=_MAPPING_HELP)
    device: _Device | None = Field(None, description=_DEVICE_HELP)
    dtype: _Dtype | None = Field(None, description=_DTYPE_HELP)


class ChatConfig(BaseModel):
    """Options of ``hone chat``."""

    model_config = _MODEL_CONFIG
    _problems = model_validator(mode="wrap")(_report_together)

    model: _Text = Field(description="Who answers: a version (support, support@3), an alias, a run's folder or a base.")
    system: str | None = Field(
        None, description="The system message, empty for none; the one that all training rows share unless given."
    )
    temperature: _NotNegative = Field(0.0, description="0 takes the likeliest token; higher values vary more.")
    top_p: Annotated[_Positive, Field(le=1)] = Field(
        1.0, description="Sample from the likeliest tokens that together have this probability."
    )
    seed: _Seed = Field(0, description="Seed of the sampling; the same seed gives the same answer.")
    max_new_tokens: _Count = Field(512, description="Longest answer in tokens.")
    base: bool = Field(False, description="Let the version's base answer: beside the version in chat, else instead.")
    device: _Device | None = Field(None, description=_DEVICE_HELP)
    dtype: _Dtype | None = Field(None, description=_DTYPE_HELP)


class GenerateConfig(ChatConfig):
    """Options of ``hone generate``: those of ``hone chat``, and the one message."""

    prompt: _Text = Field(description="The user's message; - reads it from standard input.")
    best_of: _Count = Field(1, description="Write this many answers, and give the one that --reward scores highest.")
    reward: _Text | None = Field(
        None, description="With --best-of, what scores answers: a reward model's version, alias or run's folder."
    )
