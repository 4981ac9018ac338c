import json

import pytest
import torch
from families import singles
from tiny_model import make_model, make_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf.config import AdapterConfig
from rlhf.data.chat import ChatFormat
from rlhf.data.collation import collate
from rlhf.errors import CheckpointError, ConfigError
from rlhf.model.adapters import attach_saved, concatenate, fold, read_delta, save_adapter
from rlhf.model.base import check_base, load_base, resolve_model, write_link
from rlhf.model.heads import ScalarHead
from rlhf.model.roles import Roles
from rlhf.model.scoring import completion_logprobs, completion_scores, completion_values

CPU = torch.device("cpu")
ADAPTER = AdapterConfig(r=4, lora_alpha=8)
PROMPTS = [[1, 3, 7, 8, 4], [1, 3, 9, 4], [1, 3, 7, 9, 11, 12, 4]]
COMPLETIONS = [[10, 11, 2], [6, 7, 8, 9, 2], [15, 2]]


@pytest.fixture
def base(tiny):
    return load_base(resolve_model(str(tiny)), dtype="float32", device=CPU)


def randomize(roles, *names):
    """Give adapters an effect (a fresh one's B is 0)."""
    rng = torch.Generator().manual_seed(5)
    for name in names:
        for parameter in roles.parameters(name).values():
            parameter.data = torch.randn(parameter.shape, generator=rng) * 0.1


@pytest.fixture
def roles(base):
    roles = Roles(base)
    roles.add("policy", ADAPTER, trainable=True)
    roles.add("value", ADAPTER, trainable=True)
    roles.add("reward", ADAPTER, trainable=False)
    randomize(roles, "policy", "value", "reward")
    return roles


def batch_of(rows=(0, 1, 2)):
    return collate([PROMPTS[r] for r in rows], [COMPLETIONS[r] for r in rows], pad_id=0, device=CPU)


def test_adapters_off_is_the_pristine_base_bit_for_bit(tiny, roles):
    ids = torch.tensor([PROMPTS[0]])
    pristine = load_base(resolve_model(str(tiny)), dtype="float32", device=CPU).model
    with torch.no_grad():
        with roles.use("policy"):
            adapted = roles.causal_lm(ids).logits
        with roles.use(None):
            reference = roles.causal_lm(ids).logits
        assert torch.equal(reference, pristine(ids).logits)
        assert not torch.equal(reference, adapted)


def test_a_fresh_policy_is_the_reference(base):
    roles = Roles(base)
    roles.add("policy", ADAPTER, trainable=True)
    found = []
    for role in ("policy", None):
        with torch.no_grad(), roles.use(role):
            found.append(completion_logprobs(roles, batch_of(), temperature=1.0))
    assert torch.equal(*found)


def test_a_fresh_adapter_depends_on_its_seed_alone(tiny):
    found = []
    for noise, seed in ((1, 7), (2, 7), (2, 8)):
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        roles = Roles(load_base(resolve_model(str(tiny)), dtype="float32", device=CPU))
        roles.add("policy", ADAPTER, trainable=True, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(torch.cat([p.detach().flatten() for p in roles.parameters("policy").values()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_only_the_asked_roles_train(roles):
    trainable = {name for name, p in roles.peft_model.named_parameters() if p.requires_grad}
    assert trainable == {*roles.parameters("policy"), *roles.parameters("value")}
    with roles.use("reward"):
        pass
    with roles.use(None):
        pass
    after = {name for name, p in roles.peft_model.named_parameters() if p.requires_grad}
    assert after == trainable


def test_each_role_gets_its_own_gradients_and_the_base_none(roles):
    head = ScalarHead(32)
    torch.nn.init.ones_(head.weight)
    with roles.use("policy"):
        completion_logprobs(roles, batch_of(), temperature=1.0).sum().backward()
    with roles.use("value"):
        completion_values(roles, batch_of(), head).sum().backward()
    for name, parameter in roles.peft_model.named_parameters():
        trained = ".policy." in name or ".value." in name
        assert (parameter.grad is not None and bool(parameter.grad.abs().max() > 0)) is trained


def test_backward_in_another_scope_is_refused(roles):
    with roles.use("policy"):
        loss = completion_logprobs(roles, batch_of(), temperature=1.0).sum()
    with pytest.raises(RuntimeError, match="keep forward and backward"):
        loss.backward()
    with roles.use("value"), pytest.raises(RuntimeError, match="'policy' ran in the scope of 'val"):
        loss.backward()


def test_scopes_do_not_nest(roles):
    with (
        roles.use("policy"),
        pytest.raises(RuntimeError, match="inside the scope"),
        roles.use(None),
    ):
        pass


def test_logprobs_do_not_depend_on_padding_or_batch(roles):
    with torch.no_grad(), roles.use("policy"):
        together = completion_logprobs(roles, batch_of(), temperature=0.8)
        for row in range(3):
            alone = completion_logprobs(roles, batch_of([row]), temperature=0.8)
            size = len(COMPLETIONS[row])
            torch.testing.assert_close(together[row, :size], alone[0], rtol=0, atol=1e-5)
            assert (together[row, size:] == 0).all()


def test_logprobs_are_those_of_the_whole_forward(roles):
    ids = torch.tensor([PROMPTS[0] + COMPLETIONS[0]])
    with torch.no_grad(), roles.use("policy"):
        found = completion_logprobs(roles, batch_of([0]), temperature=1.0)
        full = roles.causal_lm(ids).logits.log_softmax(-1)
    # Position t predicts token t + 1; the completion starts at token 5.
    expected = [full[0, 4 + i, token] for i, token in enumerate(COMPLETIONS[0])]
    torch.testing.assert_close(found[0], torch.stack(expected), rtol=0, atol=1e-5)


def test_scores_are_read_at_the_end_token_in_any_batch(roles):
    head = ScalarHead(32)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), roles.use("reward"):
        together = completion_scores(roles, singles(batch_of()), head)
        for row in range(3):
            ids = torch.tensor([PROMPTS[row] + COMPLETIONS[row]])
            hidden = roles.causal_lm.base_model(ids).last_hidden_state[0, -1]
            torch.testing.assert_close(together[row], hidden @ head.weight, rtol=0, atol=1e-5)


def test_values_are_those_of_the_state_before_each_token(roles):
    head = ScalarHead(32)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), roles.use("value"):
        found = completion_values(roles, batch_of(), head)
        for row in range(3):
            ids = torch.tensor([PROMPTS[row] + COMPLETIONS[row]])
            hidden = roles.causal_lm.base_model(ids).last_hidden_state[0]
            start = len(PROMPTS[row]) - 1
            expected = hidden[start : start + len(COMPLETIONS[row])] @ head.weight
            size = len(expected)
            torch.testing.assert_close(found[row, :size], expected, rtol=1e-5, atol=1e-5)


def test_saved_adapter_comes_back_bit_for_bit(roles, tmp_path, tiny):
    save_adapter(roles.peft_model, "policy", tmp_path, base_path=roles.base.path)
    fresh = Roles(load_base(resolve_model(str(tiny)), dtype="float32", device=CPU))
    fresh.add("reward", ADAPTER, trainable=False)
    fresh.add("policy", tmp_path, trainable=False)
    found = []
    for one in (roles, fresh):
        with torch.no_grad(), one.use("policy"):
            found.append(completion_logprobs(one, batch_of(), temperature=1.0))
    assert torch.equal(*found)


def test_adapter_of_another_base_is_refused_by_name(roles, tmp_path):
    save_adapter(roles.peft_model, "policy", tmp_path, base_path=roles.base.path)
    write_link(tmp_path, roles.base)
    check_base(tmp_path, roles.base)
    link = json.loads((tmp_path / "base.json").read_text())
    (tmp_path / "base.json").write_text(json.dumps(link | {"base_fingerprint": "0" * 64}))
    with pytest.raises(CheckpointError, match="trained on another base"):
        check_base(tmp_path, roles.base)


def test_folding_and_concatenating_add_up(roles, tmp_path):
    """Base with both adapters' updates, made three ways, in float32."""
    for name in ("policy", "value"):
        (tmp_path / name).mkdir()
        save_adapter(roles.peft_model, name, tmp_path / name, base_path=roles.base.path)
    deltas = [read_delta(tmp_path / name) for name in ("policy", "value")]
    ids = torch.tensor([PROMPTS[2]])
    folded = make_model()
    fold(folded, deltas[0])
    fold(folded, deltas[1])
    (tmp_path / "sum").mkdir()
    concatenate(deltas, tmp_path / "sum", base_path=roles.base.path)
    exported = make_model()
    attach_saved(exported, tmp_path / "sum")
    by_hand = make_model()
    for name in ("policy", "value"):
        parameters = roles.parameters(name)
        for key, a in parameters.items():
            if ".lora_A." in key:
                b = parameters[key.replace(".lora_A.", ".lora_B.")]
                module = key.removeprefix("base_model.model.").split(".lora_A.")[0]
                by_hand.get_submodule(module).weight.data += (8 / 4) * (b @ a).detach()
    with torch.no_grad():
        expected = by_hand(ids).logits
        torch.testing.assert_close(folded(ids).logits, expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(exported(ids).logits, expected, rtol=0, atol=1e-4)
        assert (make_model()(ids).logits - expected).abs().max() > 0.1


@pytest.fixture
def gpt2(tmp_path):
    """A tiny GPT-2: learned positions, transposed weights."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    config.initializer_range = 0.5
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return load_base(resolve_model(str(tmp_path / "model")), dtype="float32", device=CPU)


def test_left_padding_does_not_shift_learned_positions(gpt2):
    roles = Roles(gpt2)
    with torch.no_grad(), roles.use(None):
        together = completion_logprobs(roles, batch_of(), temperature=1.0)
        for row in range(3):
            alone = completion_logprobs(roles, batch_of([row]), temperature=1.0)
            size = len(COMPLETIONS[row])
            torch.testing.assert_close(together[row, :size], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("targets", ["all-linear", "c_attn", "c_proj"])
def test_folding_is_right_where_weights_are_stored_transposed(gpt2, tmp_path, targets):
    """GPT-2's Conv1D holds (in, out), and its square c_proj hides a missing transpose."""
    roles = Roles(gpt2)
    roles.add("policy", AdapterConfig(r=4, target_modules=targets), trainable=True)
    randomize(roles, "policy")
    (tmp_path / "adapter").mkdir()
    save_adapter(roles.peft_model, "policy", tmp_path / "adapter", base_path=gpt2.path)
    folded = GPT2LMHeadModel.from_pretrained(gpt2.path)
    fold(folded, read_delta(tmp_path / "adapter"))
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad(), roles.use("policy"):
        expected = roles.causal_lm(ids).logits
        torch.testing.assert_close(folded.eval()(ids).logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("targets", ["query", "q_proj,embed_tokens", "lm_head", ""])
def test_targets_that_cannot_be_folded_are_refused(base, targets):
    base.model.config.tie_word_embeddings = True
    base.model.lm_head.weight = base.model.model.embed_tokens.weight
    with pytest.raises(ConfigError, match="target_modules"):
        Roles(base).add("policy", AdapterConfig(target_modules=targets), trainable=True)


def test_head_normalisation_survives_saving_and_copying(tmp_path):
    head = ScalarHead(4)
    head.weight.data = torch.tensor([1.0, 2.0, 0.0, 0.0])
    head.normalize(mean=3.0, std=2.0)
    hidden = torch.tensor([[1.0, 3.0, 9.0, 9.0]])
    assert head(hidden).item() == 2.0  # (1 + 6 - 3) / 2
    head.save(tmp_path / "head.safetensors")
    again, copy = ScalarHead(4), ScalarHead(4)
    again.load(tmp_path / "head.safetensors")
    copy.copy_normalized(head)
    assert again(hidden).item() == copy(hidden).item() == 2.0
    assert copy.mean == 0
    assert copy.std == 1


def test_chat_format_reads_the_template(base):
    from rlhf.records import Message, Prompt

    chat = ChatFormat.of(base.tokenizer, base.model)
    assert (chat.end_id, chat.pad_id) == (2, 0)
    ids = chat.encode_prompt(Prompt.parse("a b"))
    assert ids == [1, 3, 6, 7, 4]  # <s> <user> a b <asst>, one BOS
    assert chat.encode_completion("good") == [26, 2]
    assert chat.decode_completion([26, 27, 2]) == "good bad"
    turns = Prompt((Message("user", "a"), Message("assistant", "b"), Message("user", "c")))
    assert chat.encode_prompt(turns) == [1, 3, 6, 4, 7, 2, 3, 8, 4]


def test_control_tokens_in_text_are_refused(base):
    from rlhf.errors import DataError
    from rlhf.records import Prompt

    chat = ChatFormat.of(base.tokenizer, base.model)
    with pytest.raises(DataError, match="control token '</s>'"):
        chat.encode_prompt(Prompt.parse("a </s> b"))
    with pytest.raises(DataError, match="control token '<user>'"):
        chat.encode_completion("a <user>")
