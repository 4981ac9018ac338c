"""PPO: prompts and rewards in; a policy adapter on the folded base out.

========== =====================================================================
stage      the run around the updates: prompts, checkpoints, budget, result
trainer    the roles, their optimisers and one update
rollout    sample, score and record
rewards    where scores come from
reference  what the KL is taken to
value      where values come from
advantages from a rollout to what its tokens are trained towards
update     losses, gradients and optimiser steps over one rollout
ptx        the demonstration mix
alarms     what a run's figures say has gone wrong
========== =====================================================================
"""

from rlhf.ppo.stage import PPOResult, PPOStage

__all__ = ["PPOResult", "PPOStage"]
