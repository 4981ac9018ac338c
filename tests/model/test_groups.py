"""Completions of one prompt, scored with the prompt computed once, against each on its own."""

import pytest
import torch
from families import CPU, make_family, make_roles

from rlhf.data.collation import GroupBatch
from rlhf.model.heads import ScalarHead
from rlhf.model.scoring import completion_scores

WAYS = ["auto", "transformers"]
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma3", "gpt2", "gpt_neox"]
PROMPTS = [[1, 3, 7, 8, 4], [1, 3, 9, 4], [1, 3, 7, 9, 11, 12, 4]]
COMPLETIONS = [
    [[10, 11, 2], [6, 7, 8, 9, 2], [15, 2], [2]],
    [[5, 6, 9, 12, 2]],
    [[9, 9, 2], [9, 8, 7, 6, 5, 4, 3, 2]],
]


@pytest.fixture(scope="module", params=[(f, way) for f in FAMILIES for way in WAYS], ids=str)
def roles(request):
    family, forward = request.param
    return make_roles(make_family(family), forward=forward)


def scores_and_gradients(roles, parts):
    """Scores of several batches and the gradients of one random weighting of them all."""
    head = ScalarHead(32)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
    weights = iter(torch.randn(7, generator=torch.Generator().manual_seed(3)))
    with roles.use("policy"):
        found = [completion_scores(roles, GroupBatch(*part, 0, CPU), head) for part in parts]
        scores = torch.cat(found)
        sum(weight * score for weight, score in zip(weights, scores, strict=True)).backward()
    named = roles.parameters("policy") | {"head": head.weight}
    gradients = {name: p.grad for name, p in named.items()}
    for parameter in named.values():
        parameter.grad = None
    return scores.detach(), gradients


ALONE = [
    ([prompt], [[ids]]) for prompt, own in zip(PROMPTS, COMPLETIONS, strict=True) for ids in own
]


def test_a_shared_prompt_gives_the_scores_and_gradients_of_separate_rows(roles):
    expected, expected_gradients = scores_and_gradients(roles, ALONE)
    together = [(PROMPTS, COMPLETIONS)]
    one_by_one = [([p], [own]) for p, own in zip(PROMPTS, COMPLETIONS, strict=True)]
    for parts in (together, one_by_one):
        scores, gradients = scores_and_gradients(roles, parts)
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_another_completion_of_the_prompt_changes_no_score(roles):
    head, prompt, first = ScalarHead(32), PROMPTS[0], COMPLETIONS[0][0]
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
    scores = []
    for other in ([15, 2], [4, 4, 4, 4, 4, 4, 4, 4, 2]):
        with roles.use("policy"):
            group = GroupBatch([prompt], [[other, first]], 0, CPU)
            scores.append(float(completion_scores(roles, group, head)[1]))
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)
