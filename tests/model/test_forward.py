"""The Llama pass against transformers and PEFT: values, gradients, samples, and who gets it."""

import copy
from contextlib import contextmanager

import pytest
import torch
from families import (
    LINEAR_ROPE,
    LLAMA3_ROPE,
    PROMPTS,
    YARN,
    batch_of,
    frozen,
    make_family,
    make_roles,
    randomize,
    singles,
)
from tiny_model import make_tokenizer
from torch import nn

from rlhf.config import AdapterConfig
from rlhf.data.chat import ChatFormat
from rlhf.data.collation import collate
from rlhf.model import kernels
from rlhf.model.forward import TransformersForward
from rlhf.model.generation import sample_completions
from rlhf.model.heads import ScalarHead
from rlhf.model.llama import LlamaForward
from rlhf.model.llama_weights import supports
from rlhf.model.packing import packing_pays
from rlhf.model.roles import Roles
from rlhf.model.scoring import (
    completion_logprobs,
    completion_logprobs_and_values,
    completion_scores,
    completion_values,
)

MODELS = {
    "llama": ("llama", {}),
    "llama, tied, as many key heads": (
        "llama",
        {"num_key_value_heads": 4, "tie_word_embeddings": True},
    ),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, one key head, odd head size": ("llama", {"num_key_value_heads": 1, "head_dim": 12}),
    "llama3 rope": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "linear rope": ("llama", {"rope_parameters": LINEAR_ROPE}),
    "yarn": ("llama", {"rope_parameters": YARN}),
    "mistral": ("mistral", {}),
    "mistral, a window that holds every row": ("mistral", {"sliding_window": 12}),
    "mistral, a window that does not": ("mistral", {"sliding_window": 4}),
    "qwen2": ("qwen2", {}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True}),
}
TEMPERATURE = 0.7


@pytest.fixture(scope="module", params=MODELS)
def roles(request):
    family, settings = MODELS[request.param]
    roles = make_roles(make_family(family, **settings))
    assert isinstance(roles.forward, LlamaForward)
    return roles


@contextmanager
def through_transformers(roles):
    fast, roles.forward = roles.forward, TransformersForward(roles.causal_lm)
    yield
    roles.forward = fast


def make_head():
    head = ScalarHead(32)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
    return head


def run_logprobs(roles, batch, head):
    return completion_logprobs(roles, batch, temperature=TEMPERATURE)


def run_values(roles, batch, head):
    return completion_values(roles, batch, head)


def run_scores(roles, batch, head):
    return completion_scores(roles, singles(batch), head)


def test_one_pass_gives_the_bits_of_two():
    roles = make_roles(make_family("llama"))
    both, _ = outcome(roles, "policy", run_both, batch_of())
    for found, run in zip(both, (run_logprobs, run_values), strict=True):
        assert torch.equal(found, outcome(roles, "policy", run, batch_of())[0])


def run_both(roles, batch, head):
    both = completion_logprobs_and_values(roles, batch, head, temperature=TEMPERATURE)
    return torch.stack(both)


def outcome(roles, role, run, batch):
    """Output and the gradients of a random weighting of it, for adapter and head."""
    head = make_head()
    with roles.use(role):
        output = run(roles, batch, head)
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
        (output * weights).mean().backward()
    named = dict(roles.peft_model.named_parameters()) | dict(head.named_parameters())
    gradients = {}
    for name, parameter in named.items():
        if parameter.grad is not None:
            gradients[name], parameter.grad = parameter.grad, None
    return output.detach(), gradients


@pytest.mark.parametrize("rows", [(0, 1, 2, 3), (1, 3), (0,)], ids=["ragged", "equal", "one"])
@pytest.mark.parametrize("run", [run_scores, run_both])
def test_equal_to_transformers_in_values_and_gradients(roles, run, rows):
    fast, fast_gradients = outcome(roles, "policy", run, batch_of(rows))
    with through_transformers(roles):
        expected, gradients = outcome(roles, "policy", run, batch_of(rows))
    torch.testing.assert_close(fast, expected, rtol=1e-5, atol=1e-5)
    assert fast_gradients.keys() == gradients.keys()
    assert len(gradients) == 2 * 2 * 7 + 2  # A and B of 7 maps in 2 layers, the head's two
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            fast_gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_sampled_completions_are_those_of_transformers(roles):
    chat = ChatFormat.of(make_tokenizer(), roles.causal_lm)

    def sample(keys):
        with roles.use("policy"):
            return sample_completions(
                roles, chat, PROMPTS, max_new_tokens=5, temperature=TEMPERATURE, keys=keys
            )

    keys = [(0, 1, 0, row) for row in range(4)]
    fast = [sample(keys), sample(None)]
    with through_transformers(roles):
        general = [sample(keys), sample(None)]
    for found, expected in zip(fast, general, strict=True):
        assert found.ids == expected.ids
        for row, expected_row in zip(found.logprobs, expected.logprobs, strict=True):
            assert row == pytest.approx(expected_row, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [(0, 1, 2, 3), (1, 3)], ids=["ragged", "equal"])
def test_gradients_change_no_bit_of_the_output(rows, dtype):
    """Or the first ratio of PPO were not 1."""
    roles = make_roles(make_family("qwen3").to(dtype))
    for run in (run_logprobs, run_values, run_scores):
        with roles.use("policy"):
            with_gradients = run(roles, batch_of(rows), make_head())
            with torch.no_grad():
                assert torch.equal(run(roles, batch_of(rows), make_head()), with_gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_fresh_adapter_changes_no_bit(dtype):
    roles = Roles(frozen(make_family("qwen2").to(dtype)))
    roles.add("policy", AdapterConfig(r=4), trainable=True)
    found = []
    for role in ("policy", None):
        with roles.use(role):
            found.append(run_logprobs(roles, batch_of(), None))
    assert torch.equal(*found)


def test_half_precision_stays_near_single():
    single = make_roles(make_family("qwen3"))
    half = make_roles(make_family("qwen3").to(torch.bfloat16))
    assert {p.dtype for p in half.parameters("policy").values()} == {torch.float32}
    for run in (run_logprobs, run_values):
        expected, gradients = outcome(single, "policy", run, batch_of())
        found, half_gradients = outcome(half, "policy", run, batch_of())
        assert (found - expected).norm() < 0.03 * expected.norm()
        for name, gradient in gradients.items():
            assert half_gradients[name].dtype == torch.float32
            difference = (half_gradients[name] - gradient).norm() / gradient.norm()
            assert difference < 0.1, f"{name}: {difference}"


@pytest.mark.parametrize("cache", [torch.float32, torch.bfloat16])
def test_sampling_in_half_precision_stays_near_the_scorer(monkeypatch, cache):
    monkeypatch.setattr("rlhf.model.llama_decoder._cache_dtype", lambda _: cache)
    roles = make_roles(make_family("qwen3").to(torch.bfloat16))
    chat = ChatFormat.of(make_tokenizer(), roles.causal_lm)
    keys = [(0, 1, 0, row) for row in range(4)]
    with roles.use("policy"), torch.no_grad():
        sampled = sample_completions(
            roles, chat, PROMPTS, max_new_tokens=8, temperature=1.0, keys=keys
        )
        batch = collate(PROMPTS, sampled.ids, pad_id=0, device=torch.device("cpu"))
        scored = completion_logprobs(roles, batch, temperature=1.0)
    found = torch.tensor([value for row in sampled.logprobs for value in row])
    assert (found - scored[batch.completion_mask]).abs().mean() < 0.05


def test_packed_weights_sample_the_same(monkeypatch):
    roles = make_roles(make_family("qwen2").to(torch.bfloat16))
    chat = ChatFormat.of(make_tokenizer(), roles.causal_lm)
    keys = [(0, 1, 0, row) for row in range(4)]
    found, asked = [], []

    for products in (0, 1000):

        def pays(weights, tokens, products=products):
            asked.append((len(weights), tokens))
            return packing_pays(weights, products)

        monkeypatch.setattr("rlhf.model.llama_decoder.packing_pays", pays)
        with roles.use("policy"):
            found.append(
                sample_completions(
                    roles, chat, PROMPTS, max_new_tokens=8, temperature=1.0, keys=keys
                )
            )
    layers = roles.causal_lm.config.num_hidden_layers
    assert asked == [(7 * layers + 1, 8)] * 2
    assert found[0] == found[1]


def test_an_adapter_on_some_maps_only(monkeypatch):
    roles = make_roles(make_family("llama"), targets="q_proj,v_proj,down_proj")
    fast, fast_gradients = outcome(roles, "policy", run_logprobs, batch_of())
    with through_transformers(roles):
        expected, gradients = outcome(roles, "policy", run_logprobs, batch_of())
    torch.testing.assert_close(fast, expected, rtol=0, atol=1e-5)
    assert fast_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(fast_gradients[name], gradient, rtol=1e-4, atol=1e-5)


def test_a_frozen_adapter_gets_no_gradient_and_passes_one_to_the_head():
    roles = make_roles(make_family("llama"))
    _, gradients = outcome(roles, "reward", run_scores, batch_of())
    assert gradients.keys() == {"weight", "bias"}


def test_detached_values_give_the_trunk_no_gradient():
    roles, head = make_roles(make_family("llama")), make_head()
    with roles.use("policy"):
        _, values = completion_logprobs_and_values(
            roles, batch_of(), head, temperature=1.0, detach_values=True
        )
        values.sum().backward()
        with torch.no_grad():
            assert torch.equal(values, run_values(roles, batch_of(), head))
    assert head.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in roles.peft_model.parameters())


def test_head_logprobs_are_computed_in_pieces_of_any_size(monkeypatch):
    roles = make_roles(make_family("llama"))
    whole, gradients = outcome(roles, "policy", run_logprobs, batch_of())
    monkeypatch.setattr(kernels, "_CPU_BYTES", (4 * 32 * 4, 4 * 32 * 3))  # four tokens, three
    pieces, piece_gradients = outcome(roles, "policy", run_logprobs, batch_of())
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(piece_gradients[name], gradient, rtol=1e-4, atol=1e-5)


def test_completions_without_tokens_are_nothing():
    roles = make_roles(make_family("llama"))
    batch = collate(PROMPTS, [[], [5, 2], [], [6]], pad_id=0, device=torch.device("cpu"))
    none = collate(PROMPTS, [[], [], [], []], pad_id=0, device=torch.device("cpu"))
    with roles.use("policy"):
        assert run_values(roles, none, make_head()).shape == (4, 0)
    fast, _ = outcome(roles, "policy", run_logprobs, batch)
    with through_transformers(roles):
        expected, _ = outcome(roles, "policy", run_logprobs, batch)
    torch.testing.assert_close(fast, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "gpt_neox"])
def test_other_families_run_through_transformers(family):
    assert isinstance(Roles(frozen(make_family(family))).forward, TransformersForward)


def test_the_general_path_can_be_asked_for():
    roles = make_roles(make_family("llama"), forward="transformers")
    assert isinstance(roles.forward, TransformersForward)


class OddLinear(nn.Linear):
    """Stands for a quantised layer: a linear map that is more than its weight."""


def replace_linear(model):
    old = model.model.layers[1].mlp.up_proj
    odd = OddLinear(old.in_features, old.out_features, bias=False)
    odd.weight = old.weight
    model.model.layers[1].mlp.up_proj = odd


class PackedTensor(torch.Tensor):
    """Stands for a quantised weight in a plain linear map."""


def replace_weight(model):
    linear = model.model.layers[1].mlp.up_proj
    linear.weight = nn.Parameter(linear.weight.data.as_subclass(PackedTensor), requires_grad=False)


def change_activation(model):
    model.config.hidden_act = "gelu"


def mix_dtypes(model):
    model.model.layers[0].mlp.up_proj.bfloat16()


def hook(model):
    model.model.layers[0].register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    "change", [replace_linear, replace_weight, change_activation, mix_dtypes, hook]
)
def test_what_is_not_known_runs_through_transformers(change):
    model = make_family("llama")
    assert supports(model)
    change(model)
    assert not supports(model)


def test_rope_that_depends_on_the_length_runs_through_transformers():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert not supports(make_family("llama", rope_parameters=rope))


def test_an_adapted_head_runs_through_transformers():
    roles = Roles(frozen(make_family("llama")))
    roles.add("policy", AdapterConfig(target_modules="q_proj"), trainable=True)
    assert isinstance(roles.forward, LlamaForward)
    roles.add("value", AdapterConfig(target_modules="q_proj,lm_head"), trainable=True)
    assert isinstance(roles.forward, TransformersForward)


def test_no_weight_is_copied_or_changed():
    model = make_family("llama")
    before = copy.deepcopy(model.state_dict())
    roles = make_roles(model)
    chat = ChatFormat.of(make_tokenizer(), model)
    outcome(roles, "policy", run_logprobs, batch_of())
    with roles.use("policy"):
        sample_completions(roles, chat, PROMPTS, max_new_tokens=4, temperature=1.0, keys=None)
    after = {
        name.replace(".base_layer", ""): value
        for name, value in model.state_dict().items()
        if ".lora_" not in name
    }
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_randomised_adapters_differ():
    roles = make_roles(make_family("llama"))
    randomize(roles, "policy")
    found = []
    for role in ("policy", "value", None):
        with roles.use(role):
            found.append(run_logprobs(roles, batch_of(), None).detach())
    assert not torch.allclose(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
