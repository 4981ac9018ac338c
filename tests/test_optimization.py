import math

import pytest
import torch
from torch import nn

from rlhf.errors import TrainingError
from rlhf.optimization import RoleOptimizer, lr_factor
from rlhf.ranks import Ranks


def optimizer(parameter, **overrides):
    settings = {"learning_rate": 0.1, "weight_decay": 0.0, "max_grad_norm": 1e9}
    return RoleOptimizer({"w": parameter}, ranks=Ranks(), **settings | overrides)


def test_schedule_by_hand():
    linear = [lr_factor("linear", step, total=6, warmup=2) for step in range(6)]
    assert linear == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert lr_factor("cosine", 2, total=4, warmup=0) == pytest.approx(0.5)
    assert lr_factor("constant", 99, total=4, warmup=3) == 1.0


def test_steps_equal_adamw_with_the_gradient_clipped():
    ours, theirs = (nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2))
    stepper = optimizer(ours, max_grad_norm=1.0)
    adam = torch.optim.AdamW([theirs], lr=0.05, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    for gradient in ([3.0, 4.0], [0.1, -0.2]):
        ours.grad = torch.tensor(gradient)
        norm = math.hypot(*gradient)
        theirs.grad = torch.tensor(gradient) / max(1.0, norm)
        assert stepper.step(0.5) == pytest.approx(norm)
        adam.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert ours.grad is None


def test_state_comes_back():
    first, second = (nn.Parameter(torch.ones(3)) for _ in range(2))
    a, b = optimizer(first), optimizer(second)
    for _ in range(2):
        first.grad = torch.tensor([1.0, -1.0, 2.0])
        a.step(1.0)
    second.data = first.data.clone()
    b.load_state(a.state())
    for parameter, stepper in ((first, a), (second, b)):
        parameter.grad = torch.tensor([0.5, 0.5, 0.5])
        stepper.step(1.0)
    assert torch.equal(first, second)


def test_frozen_parameters_and_bad_gradients_are_refused():
    with pytest.raises(TrainingError, match="nothing to train"):
        optimizer(nn.Parameter(torch.ones(1), requires_grad=False))
    parameter = nn.Parameter(torch.ones(1))
    stepper = optimizer(parameter)
    parameter.grad = torch.tensor([float("nan")])
    with pytest.raises(TrainingError, match="gradient norm is nan; lower the learning rate"):
        stepper.step(1.0)
