from rlhf.config import PPOConfig
from rlhf.ppo.rollout import SeededPasses, minibatch_plan


def config(**overrides):
    settings = {
        "model_name_or_path": "m",
        "output_dir": "o",
        "train_file": "t",
        "reward_function": "f.py:f",
        "rollout_batch_size": 12,
        "num_mini_batches": 3,
        "per_device_train_batch_size": 2,
    }
    return PPOConfig(**settings | overrides)


LENGTHS = [9, 3, 7, 1, 8, 2, 6, 4, 5, 12, 11, 10]


def test_a_plan_uses_every_row_once_in_minibatches_sorted_by_length():
    plan = minibatch_plan(LENGTHS, config(), update=0, epoch=0)
    assert sorted(row for minibatch in plan for rows in minibatch for row in rows) == list(
        range(12)
    )
    assert [[len(rows) for rows in minibatch] for minibatch in plan] == [[2, 2]] * 3
    for minibatch in plan:
        lengths = [LENGTHS[row] for rows in minibatch for row in rows]
        assert lengths == sorted(lengths)


def test_plans_differ_by_update_and_epoch_and_repeat_by_seed():
    first = minibatch_plan(LENGTHS, config(), update=0, epoch=0)
    assert first == minibatch_plan(LENGTHS, config(), update=0, epoch=0)
    assert first != minibatch_plan(LENGTHS, config(), update=0, epoch=1)
    assert first != minibatch_plan(LENGTHS, config(), update=1, epoch=0)
    assert first != minibatch_plan(LENGTHS, config(seed=1), update=0, epoch=0)


def test_the_minibatch_does_not_depend_on_the_micro_batch_size():
    def rows(size):
        plan = minibatch_plan(LENGTHS, config(per_device_train_batch_size=size), update=0, epoch=0)
        return [{row for rows in minibatch for row in rows} for minibatch in plan]

    assert rows(1) == rows(2) == rows(100)


def test_every_pass_over_the_prompts_uses_each_once():
    order = SeededPasses(5, seed=3)
    drawn = [row for update in range(5) for row in order.rows(update, 3)]
    for start in (0, 5, 10):
        assert sorted(drawn[start : start + 5]) == [0, 1, 2, 3, 4]
    assert drawn[:5] != drawn[5:10]
    # A resumed run asks from the middle.
    assert SeededPasses(5, seed=3).rows(3, 3) == drawn[9:12]
