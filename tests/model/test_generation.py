import pytest
import torch
from reference import log_softmax
from tiny_model import make_model, make_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf.config import AdapterConfig
from rlhf.data.chat import ChatFormat
from rlhf.errors import ConfigError
from rlhf.model.base import load_base, resolve_model
from rlhf.model.generation import pick_tokens, sample_completions, uniform_noise
from rlhf.model.roles import Roles

PROMPTS = [[1, 3, 7, 8, 4], [1, 3, 9, 4], [1, 3, 7, 9, 11, 12, 4], [1, 3, 10, 4]]
KEYS = [(0, 1, 0, row) for row in range(4)]


@pytest.fixture
def setting(tiny):
    base = load_base(resolve_model(str(tiny)), dtype="float32", device=torch.device("cpu"))
    # Settings of the model's own must not act.
    base.model.generation_config.update(top_k=1, temperature=0.1, repetition_penalty=5.0)
    roles = Roles(base)
    roles.add("policy", AdapterConfig(r=2), trainable=False)
    return roles, ChatFormat.of(base.tokenizer, base.model)


def sample(setting, prompts=PROMPTS, keys=KEYS, size=12):
    roles, chat = setting
    with roles.use("policy"):
        return sample_completions(
            roles, chat, prompts, max_new_tokens=size, temperature=1.0, keys=keys
        ).ids


def test_greedy_equals_transformers_generate(setting, tiny):
    greedy = sample(setting, keys=None)
    model = make_model()
    for prompt, completion in zip(PROMPTS, greedy, strict=True):
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=2
        )
        assert completion == expected[0, len(prompt) :].tolist()


def test_greedy_is_right_with_learned_positions_and_padding(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    config.initializer_range = 0.5
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    base = load_base(resolve_model(str(tmp_path)), dtype="float32", device=torch.device("cpu"))
    roles = Roles(base)
    with roles.use(None):
        greedy = sample_completions(
            roles,
            ChatFormat.of(base.tokenizer, base.model),
            PROMPTS,
            max_new_tokens=8,
            temperature=1.0,
            keys=None,
        ).ids
    for prompt, completion in zip(PROMPTS, greedy, strict=True):
        expected = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=0,
        )
        assert completion == expected[0, len(prompt) :].tolist()


def test_a_row_is_sampled_alike_alone_and_in_any_batch(setting):
    together = sample(setting)
    assert any(ids[-1] == 2 for ids in together), "no row ends early: the test shows nothing"
    for row in range(4):
        assert (
            sample(setting, PROMPTS[row : row + 1], KEYS[row : row + 1]) == together[row : row + 1]
        )
    assert sample(setting, PROMPTS[::-1], KEYS[::-1]) == together[::-1]


def test_completions_stop_at_the_stop_token_or_the_limit(setting):
    for ids in sample(setting, size=6):
        assert 2 not in ids[:-1]
        assert ids[-1] == 2 or len(ids) == 6


def test_samples_follow_the_full_distribution(setting):
    """First tokens of 4000 draws against the model's own probabilities."""
    count = 4000
    drawn = sample(setting, [PROMPTS[0]] * count, [(7, row) for row in range(count)], size=1)
    found = torch.bincount(torch.tensor([ids[0] for ids in drawn]), minlength=32) / count
    with torch.no_grad():
        expected = make_model()(torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1)
    # Four standard errors of a share.
    assert ((found - expected).abs() < 4 * (expected * (1 - expected) / count).sqrt() + 1e-9).all()


def test_more_than_the_model_has_positions_for_is_refused(setting):
    with pytest.raises(ConfigError, match="7 tokens and 122 new ones don't fit the model's 128"):
        sample(setting, size=122)
    sample(setting, size=121)


def test_noise_depends_on_the_key_alone():
    rows = uniform_noise([(0, 1), (0, 2)], 5)
    assert torch.equal(rows[1:], uniform_noise([(0, 2)], 5))
    assert torch.equal(rows[:, :3], uniform_noise([(0, 1), (0, 2)], 3))
    assert not torch.equal(rows[0], rows[1])


def test_picking_inverts_the_cumulative_distribution():
    # Probabilities 0, .25, 0, .75.
    logits = torch.tensor([[-torch.inf, 0.25, -torch.inf, 0.75]])
    logits = torch.where(logits > 0, logits.log(), logits)
    draws = {0.0: 1, 0.249: 1, 0.251: 3, 1 - 1e-16: 3}
    for uniform, token in draws.items():
        uniform = torch.tensor([uniform], dtype=torch.float64)
        picked, _ = pick_tokens(logits, uniform, temperature=1.0)
        assert picked.tolist() == [token]


def test_picking_from_a_large_vocabulary_is_exact():
    """Against one cumulative sum in float64; only a draw at a boundary may fall to either side."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 1000, generator=rng) * 3
    logits[:, 300:600] = -torch.inf  # a whole block and more has no mass
    uniform = torch.rand(500, generator=rng, dtype=torch.float64)
    tokens, logprobs = pick_tokens(logits, uniform, temperature=0.5)
    exact = (logits.double() / 0.5).softmax(-1)
    after = exact.cumsum(-1).gather(-1, tokens[:, None])[:, 0]
    before = after - exact.gather(-1, tokens[:, None])[:, 0]
    assert ((before - 1e-6 < uniform) & (uniform < after + 1e-6)).all()
    assert (exact.gather(-1, tokens[:, None]) > 0).all()
    expected = exact.gather(-1, tokens[:, None])[:, 0].log().float()
    torch.testing.assert_close(logprobs, expected, rtol=1e-5, atol=1e-5)


def test_the_last_possible_token_is_the_last_choice():
    logits = torch.full((1, 1000), -torch.inf)
    logits[0, [3, 700]] = 0.0
    for uniform, token in {0.0: 3, 0.4999: 3, 0.5001: 700, 1 - 2**-53: 700, 1.0: 700}.items():
        draw = torch.tensor([uniform], dtype=torch.float64)
        assert pick_tokens(logits, draw, temperature=1.0)[0].tolist() == [token]


def test_greedy_takes_the_likeliest_token_and_says_its_logprob():
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    token, logprob = pick_tokens(logits, None, temperature=2.0)
    assert token.tolist() == [1]
    assert logprob.item() == pytest.approx(log_softmax([0.0, 2.0, 1.0], 2.0)[1])
