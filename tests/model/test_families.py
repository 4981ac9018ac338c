"""What must hold for any decoder-only family: padding, sampling, the reference, one step."""

import copy

import pytest
import torch
from families import COMPLETIONS, PROMPTS, batch_of, frozen, make_family, make_roles, singles
from tiny_model import make_tokenizer

from rlhf.config import AdapterConfig
from rlhf.data.chat import ChatFormat
from rlhf.data.collation import collate
from rlhf.model.generation import sample_completions
from rlhf.model.heads import ScalarHead
from rlhf.model.llama import LlamaForward
from rlhf.model.roles import Roles
from rlhf.model.scoring import completion_logprobs, completion_scores, completion_values

FAMILIES = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True}),
    "gemma3": ("gemma3", {"tie_word_embeddings": False}),
    "gemma3, tied": ("gemma3", {"tie_word_embeddings": True}),
    "gpt2": ("gpt2", {"tie_word_embeddings": False}),
    "gpt2, tied": ("gpt2", {"tie_word_embeddings": True}),
    "gpt_neox": ("gpt_neox", {"tie_word_embeddings": False}),
    "gpt_neox, tied": ("gpt_neox", {"tie_word_embeddings": True}),
}
TEMPERATURE = 0.8


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module", params=["auto", "transformers"])
def roles(request, family):
    name, settings = family
    roles = make_roles(make_family(name, **settings), forward=request.param)
    fast = request.param == "auto" and name in ("llama", "qwen3")
    assert isinstance(roles.forward, LlamaForward) is fast
    return roles


def make_head():
    head = ScalarHead(32)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
    return head


@torch.no_grad()
def analyse(roles, batch):
    """Log-probabilities, values and scores of the policy's adapter."""
    head = make_head()
    with roles.use("policy"):
        return (
            completion_logprobs(roles, batch, temperature=TEMPERATURE),
            completion_values(roles, batch, head),
            completion_scores(roles, singles(batch), head),
        )


def test_neither_padding_nor_the_batch_changes_a_row(roles):
    together = analyse(roles, batch_of())
    for row, completion in enumerate(COMPLETIONS):
        size = len(completion)
        alone = analyse(roles, batch_of([row]))
        for found, expected in zip(together[:2], alone[:2], strict=True):
            torch.testing.assert_close(found[row, :size], expected[0], rtol=1e-5, atol=1e-5)
            assert (found[row, size:] == 0).all()
        torch.testing.assert_close(together[2][row], alone[2][0], rtol=1e-5, atol=1e-5)


def test_what_the_padding_holds_changes_nothing(roles):
    batches = [
        collate(PROMPTS, COMPLETIONS, pad_id=pad_id, device=torch.device("cpu"))
        for pad_id in (0, 2, 9)
    ]
    first, *others = [analyse(roles, batch) for batch in batches]
    for other in others:
        for found, expected in zip(other, first, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("greedy", [True, False])
def test_samples_follow_the_scored_distribution(roles, greedy):
    """The sampler's log-probabilities are those of the teacher-forced pass; rows end apart."""
    chat = ChatFormat.of(make_tokenizer(), roles.causal_lm)
    keys = None if greedy else [(0, 1, 0, row) for row in range(4)]
    with roles.use("policy"), torch.no_grad():
        sampled = sample_completions(
            roles, chat, PROMPTS, max_new_tokens=12, temperature=TEMPERATURE, keys=keys
        )
        batch = collate(PROMPTS, sampled.ids, pad_id=0, device=torch.device("cpu"))
        scored = completion_logprobs(roles, batch, temperature=TEMPERATURE)
    for row, logprobs in enumerate(sampled.logprobs):
        expected = scored[row, : len(logprobs)]
        torch.testing.assert_close(torch.tensor(logprobs), expected, rtol=1e-5, atol=1e-5)


def test_adapters_off_is_the_pristine_model_bit_for_bit(family):
    name, settings = family
    model = make_family(name, **settings)
    pristine = copy.deepcopy(model)
    roles = make_roles(model, forward="transformers")
    ids = torch.tensor(PROMPTS[:1])
    with torch.no_grad():
        expected = pristine(ids).logits
        with roles.use(None):
            assert torch.equal(roles.causal_lm(ids).logits, expected)
        with roles.use("policy"):
            assert not torch.equal(roles.causal_lm(ids).logits, expected)


def test_one_step_changes_the_policy_only(family):
    name, settings = family
    roles = make_roles(make_family(name, **settings))
    optimizer = torch.optim.SGD(
        [p for p in roles.peft_model.parameters() if p.requires_grad], lr=0.1
    )
    before = copy.deepcopy(roles.peft_model.state_dict())
    with roles.use("policy"):
        completion_logprobs(roles, batch_of(), temperature=1.0).sum().backward()
    optimizer.step()
    changed = {
        key
        for key, value in roles.peft_model.state_dict().items()
        if not torch.equal(value, before[key])
    }
    policy = {key for key in before if ".lora_" in key and ".policy." in key}
    assert changed == policy


def test_a_fresh_policy_is_the_reference(family):
    name, settings = family
    roles = Roles(frozen(make_family(name, **settings)))
    roles.add("policy", AdapterConfig(r=4), trainable=True)
    found = []
    for role in ("policy", None):
        with roles.use(role), torch.no_grad():
            found.append(completion_logprobs(roles, batch_of(), temperature=1.0))
    assert torch.equal(*found)
