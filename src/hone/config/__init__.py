"""What a run is: its options, where they come from, and what is wrong with them."""

from __future__ import annotations

from hone.config.chat import ChatConfig, GenerateConfig
from hone.config.continuing import CONTINUE_OPTIONS, ContinueConfig
from hone.config.load import dump_resolved, load_config
from hone.config.option_help import option_help
from hone.config.plan import PlanConfig
from hone.config.proof import PROOF_OPTIONS, ProofConfig
from hone.config.rank import RANK_OPTIONS, RankConfig
from hone.config.reward import REWARD_OPTIONS, RewardConfig
from hone.config.schema import (
    DEFAULT_MODEL,
    EvaluateConfig,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "CONTINUE_OPTIONS",
    "DEFAULT_MODEL",
    "PROOF_OPTIONS",
    "RANK_OPTIONS",
    "REWARD_OPTIONS",
    "ChatConfig",
    "ContinueConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "PlanConfig",
    "ProofConfig",
    "RankConfig",
    "RewardConfig",
    "RunConfig",
    "TrainConfig",
    "dump_resolved",
    "load_config",
    "option_help",
]
