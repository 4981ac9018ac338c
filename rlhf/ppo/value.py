"""Where PPO's values come from: an adapter of their own, the policy's trunk, or nowhere."""

from __future__ import annotations

from torch import Tensor, nn

from rlhf.config import PPOConfig
from rlhf.data.collation import TokenBatch
from rlhf.model.adapters import adapter_state, load_adapter_state
from rlhf.model.heads import ScalarHead
from rlhf.model.roles import Roles
from rlhf.model.scoring import (
    completion_logprobs,
    completion_logprobs_and_values,
    completion_values,
)
from rlhf.reward import RewardModel

VALUE_ROLE = "value"


class ValueModel:
    """The value head with the trunk that it reads.

    ========  ====================================================  =========================
    kind      trunk                                                 trained by
    ========  ====================================================  =========================
    adapter   base + LoRA "value"                                   its own loss and optimiser
    shared    the policy's, in the same forward pass                one loss with the policy
    none      none: advantages compare completions (``rloo``)       nothing
    ========  ====================================================  =========================
    """

    def __init__(self, roles: Roles, config: PPOConfig) -> None:
        self.roles = roles
        self.kind = "none" if config.advantage == "rloo" else config.value
        self.head = ScalarHead(roles.base.hidden_size).to(roles.base.device)
        if self.kind == "adapter":
            roles.add(VALUE_ROLE, config.adapter, trainable=True, seed=config.seed)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What the value loss trains beside the policy, by name."""
        if self.kind == "none":
            return {}
        own = self.roles.parameters(VALUE_ROLE) if self.kind == "adapter" else {}
        return own | {f"value_head.{name}": p for name, p in self.head.named_parameters()}

    def start_from(self, model: RewardModel, weight: float) -> bool:
        """Become a copy of a reward model, if shapes and scales agree; tell whether they do.

        The head's normalisation and the weight of the reward are folded in, so that the first
        values are this model's part of the score. A head on the policy's trunk starts at 0
        instead: the reward head was trained on the features of another adapter.
        """
        if self.kind != "adapter":
            return True
        peft_model = self.roles.peft_model
        reward = adapter_state(peft_model, model.role)
        shapes = {name: tensor.shape for name, tensor in reward.items()}
        own = {name: t.shape for name, t in adapter_state(peft_model, VALUE_ROLE).items()}
        if shapes != own or self.roles.scale(VALUE_ROLE) != self.roles.scale(model.role):
            return False
        load_adapter_state(peft_model, VALUE_ROLE, reward, where="reward adapter")
        self.head.copy_normalized(model.head, weight)
        return True

    def record(self, batch: TokenBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        """Policy log-probabilities and values of a batch, (B, C) each; opens the scopes itself."""
        roles = self.roles
        if self.kind == "shared":
            with roles.use("policy"):
                return completion_logprobs_and_values(
                    roles, batch, self.head, temperature=temperature
                )
        with roles.use("policy"):
            logprobs = completion_logprobs(roles, batch, temperature=temperature)
        if self.kind == "none":
            return logprobs, logprobs.new_zeros(logprobs.shape)
        with roles.use(VALUE_ROLE):
            return logprobs, completion_values(roles, batch, self.head)
