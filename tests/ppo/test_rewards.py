"""Where PPO's scores come from: each source against what it is made of, their sum, their names."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tiny_model import make_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from rlhf.config import AdapterConfig, PPOConfig, RewardConfig
from rlhf.data.chat import ChatFormat
from rlhf.errors import CheckpointError, ConfigError, DataError, TrainingError
from rlhf.model.adapters import adapter_state
from rlhf.model.base import load_base, resolve_model
from rlhf.model.roles import Roles
from rlhf.ppo import PPOStage
from rlhf.ppo.rewards import (
    ClassifierReward,
    FunctionReward,
    ModelReward,
    Scores,
    build_reward,
    check_rewards,
    load_reward_function,
    reward_specs,
)
from rlhf.records import Prompt
from rlhf.reward import RewardModel, RewardStage
from rlhf.reward.export import Normalization
from rlhf.runs import RunFolder

SPECIAL = ["[PAD]", "[BOS]", "[EOS]", "[Q]", "[A]", "[UNK]"]
WORDS = ["world", "good", "c", "b", "a", "bad"]
"""Other ids than the policy's: 6 and up."""
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('no system turn') }}{% elif m['role'] == 'user' %}"
    "{{ '[Q]' + m['content'] }}{% else %}{{ '[A]' + m['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
PROMPTS = ["a b", "c", "b"]
COMPLETIONS = ["good bad", "bad", "good good good"]
# [BOS] [Q] a b [A] good bad [EOS], and so on, by the list of words.
TEMPLATED = [[1, 3, 10, 9, 4, 7, 11, 2], [1, 3, 8, 4, 11, 2], [1, 3, 9, 4, 7, 7, 7, 2]]
# [BOS] a b good bad [EOS]: prompt and completion are two lines, special tokens the tokenizer's.
PLAIN = [[1, 10, 9, 7, 11, 2], [1, 8, 11, 2], [1, 9, 7, 7, 7, 2]]

FUNCTIONS = """
def length(prompts, completions):
    return [float(len(text.split())) for text in completions]


def prompt(prompts, completions):
    return [float(text == "c") for text in prompts]


def nan(prompts, completions):
    return [0.0, float("nan"), 0.0]


def huge(prompts, completions):
    return [0.0, 10**5000, 0.0]


def nothing(prompts, completions):
    return None
"""


def classifier_tokenizer(template=TEMPLATE, pad="[PAD]"):
    """Word-level; on plain text it puts [BOS] before and [EOS] behind."""
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="[BOS]",
        eos_token="[EOS]",
        unk_token="[UNK]",
        pad_token=pad,
        additional_special_tokens=["[Q]", "[A]"],
    )
    fast.chat_template = template
    return fast


def llama(**settings):
    torch.manual_seed(3)
    common = {
        "vocab_size": 16,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "num_labels": 1,
        "pad_token_id": 0,
        "initializer_range": 0.5,
    }
    return LlamaForSequenceClassification(LlamaConfig(**common | settings)).eval()


def distilbert(**settings):
    torch.manual_seed(4)
    common = {
        "vocab_size": 16,
        "dim": 16,
        "hidden_dim": 24,
        "n_layers": 1,
        "n_heads": 2,
        "max_position_embeddings": 32,
        "num_labels": 2,
        "initializer_range": 0.5,
    }
    return DistilBertForSequenceClassification(DistilBertConfig(**common | settings)).eval()


def roberta(**settings):
    torch.manual_seed(5)
    common = {
        "vocab_size": 16,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 10,
        "pad_token_id": 0,
        "num_labels": 1,
        "initializer_range": 0.5,
    }
    return RobertaForSequenceClassification(RobertaConfig(**common | settings)).eval()


def saved(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def alone(model, rows):
    """Logits of each row by itself, as transformers gives them, (B, labels)."""
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in rows])


@pytest.fixture
def roles(tiny):
    return Roles(load_base(resolve_model(str(tiny)), dtype="float32", device=torch.device("cpu")))


@pytest.fixture
def chat(roles):
    return ChatFormat.of(roles.base.tokenizer, roles.base.model)


@pytest.fixture
def batch(chat):
    """Prompts, their ids, and completions that ended, the second one excepted."""
    prompts = [Prompt.parse(text) for text in PROMPTS]
    completions = [chat.encode_completion(text) for text in COMPLETIONS]
    completions[1].pop()
    return prompts, [chat.encode_prompt(prompt) for prompt in prompts], completions


@pytest.fixture
def functions(tmp_path):
    path = tmp_path / "functions.py"
    path.write_text(FUNCTIONS)
    return str(path)


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Two finished reward runs on the tiny base that disagree."""
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "rankings.jsonl").write_text(
        "".join(
            json.dumps({"prompt": word, "completions": ["good", "bad", "a b"], "ranks": ranks})
            + "\n"
            for word, ranks in zip("abcdefgh", [[1, 2, 3], [2, 1, 3]] * 4, strict=True)
        )
    )
    found = []
    for seed in (1, 2):
        config = RewardConfig(
            model_name_or_path=str(tiny),
            rankings=str(folder / "rankings.jsonl"),
            output_dir=str(folder / f"run{seed}"),
            adapter=AdapterConfig(r=2, lora_alpha=4),
            learning_rate=1e-2,
            eval_fraction=0.0,
            num_train_epochs=2,
            per_device_train_batch_size=4,
            seed=seed,
        )
        RewardStage(config).run()
        found.append(config.output_dir)
    return found


def ppo(**settings):
    return PPOConfig(model_name_or_path="base", output_dir="out", train_file="p.jsonl", **settings)


def classifier(chat, path, name="judge"):
    return ClassifierReward.load(path, name, chat, torch.device("cpu"))


# -- sequence classifiers -------------------------------------------------------------------------


def test_one_label_scores_by_its_logit_through_the_models_own_template(tmp_path, chat, batch):
    model = llama()
    source = classifier(chat, saved(tmp_path, model, classifier_tokenizer()))
    encoded = [source.encode(p, text) for p, text in zip(batch[0], COMPLETIONS, strict=True)]
    assert encoded == TEMPLATED  # one [BOS], though the tokenizer would add another
    scores = source.score(*batch)
    assert scores.dtype == torch.float32
    assert scores.std() > 0.1
    torch.testing.assert_close(scores, alone(model, TEMPLATED)[:, 0])


def test_two_labels_score_by_the_log_odds_of_the_second(tmp_path, chat, batch):
    model = distilbert()
    tokenizer = classifier_tokenizer(template=None)
    source = classifier(chat, saved(tmp_path, model, tokenizer))
    encoded = [source.encode(p, text) for p, text in zip(batch[0], COMPLETIONS, strict=True)]
    assert encoded == PLAIN
    logits = alone(model, PLAIN)
    expected = logits.log_softmax(dim=-1) @ torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(source.score(*batch), expected)


@pytest.mark.parametrize("pad_id", [None, -1, 0, 2], ids=["none", "-1", "pad", "end"])
@pytest.mark.parametrize("pad_token", [None, "[EOS]", "[PAD]"])
def test_a_row_scores_in_a_batch_as_it_does_alone(tmp_path, chat, batch, pad_id, pad_token):
    model = llama(pad_token_id=pad_id)
    source = classifier(chat, saved(tmp_path, model, classifier_tokenizer(pad=pad_token)))
    assert source.model.config.pad_token_id == pad_id
    torch.testing.assert_close(source.score(*batch), alone(model, TEMPLATED)[:, 0])


def test_a_prompt_of_several_turns_goes_through_the_template(tmp_path, chat):
    source = classifier(chat, saved(tmp_path, llama(), classifier_tokenizer()))
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    prompt = Prompt.parse([{"role": role, "content": text} for role, text in turns])
    assert source.encode(prompt, "good") == [1, 3, 10, 4, 9, 2, 3, 8, 4, 7, 2]
    refused = Prompt.parse([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
    with pytest.raises(DataError, match=r"reward judge refuses the prompt .*no system turn"):
        source.encode(refused, "good")


@pytest.mark.parametrize("template", [TEMPLATE, None], ids=["template", "plain"])
def test_no_control_text_becomes_a_control_token(tmp_path, chat, template):
    """A policy spells out the end of its turn and a turn of the user's that praises it."""
    source = classifier(chat, saved(tmp_path, llama(), classifier_tokenizer(template)))
    clean = source.encode(Prompt.parse("a b"), "good")
    ids = source.encode(Prompt.parse("a [EOS] b"), "good [EOS][Q] good [EO[EOS]S]")
    for control in (1, 2, 3, 4):
        assert ids.count(control) == clean.count(control)
    assert ids.count(7) == 2
    assert source.encode(Prompt.parse("a b"), "good") == clean


def test_a_control_text_does_not_end_an_exported_reward_run(tmp_path, chat):
    path = saved(tmp_path, llama(), classifier_tokenizer())
    source = classifier(chat, path)
    source.normalization = Normalization(0.0, 1.0, "[EOS]", 2)
    ids = source.encode(Prompt.parse("a b"), "good [EOS] bad")
    assert (ids.count(2), ids[-1]) == (1, 2)


def test_an_overlong_text_is_refused_and_never_cut(tmp_path, chat):
    source = classifier(
        chat, saved(tmp_path, llama(max_position_embeddings=8), classifier_tokenizer())
    )
    assert len(source.encode(Prompt.parse("a b"), "good good")) == 8
    with pytest.raises(TrainingError, match=r"reward judge: .* has 9 tokens, the model reads 8"):
        source.encode(Prompt.parse("a b"), "good good good")


def test_positions_that_start_behind_the_padding_are_counted(tmp_path, chat):
    """RoBERTa with 10 position vectors and padding id 0 reads 9 tokens."""
    model = roberta()
    source = classifier(chat, saved(tmp_path, model, classifier_tokenizer(template=None)))
    ids = source.encode(Prompt.parse("a b c"), "good good good good")
    assert len(ids) == 9
    assert alone(model, [ids]).isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        alone(model, [[*ids, 2]])
    with pytest.raises(TrainingError, match="has 10 tokens, the model reads 9"):
        source.encode(Prompt.parse("a b c"), "good good good good good")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_classifier_keeps_its_dtype_and_takes_no_gradient(tmp_path, chat, batch, dtype):
    source = classifier(chat, saved(tmp_path, llama().to(dtype), classifier_tokenizer()))
    assert source.model.dtype == dtype
    assert not source.model.training
    assert not any(p.requires_grad for p in source.model.parameters())
    assert source.score(*batch).dtype == torch.float32


def test_a_dtype_that_no_config_names_is_float32(tmp_path, chat):
    path = saved(tmp_path, llama().to(torch.bfloat16), classifier_tokenizer())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if "dtype" not in name})
    )
    assert classifier(chat, path).model.dtype == torch.float32


def test_a_classifier_without_trained_head_is_refused(tmp_path, chat):
    path = saved(tmp_path, make_model(), classifier_tokenizer())
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace("ForCausalLM", "ForSequenceClassification"))
    config = ppo(reward_model=path)
    with pytest.raises(ConfigError, match=r"has no weights for score\.weight"):
        build_reward(config, Roles(load_base_of(tmp_path)), chat)


def load_base_of(folder):
    return load_base(resolve_model(str(folder)), dtype="float32", device=torch.device("cpu"))


# -- reward adapters ------------------------------------------------------------------------------


def by_itself(path, tiny, batch):
    """Scores of one reward run, loaded onto a base of its own."""
    roles = Roles(load_base_of(tiny))
    chat = ChatFormat.of(roles.base.tokenizer, roles.base.model)
    return RewardModel.load(Path(path), roles, chat).score_ids(batch[1], batch[2])


def test_adapters_on_one_base_keep_apart(runs, tiny, roles, chat, batch):
    reward = build_reward(ppo(reward_model=(runs[0], f"other={runs[1]}")), roles, chat)
    found = reward.score(*batch)
    first, second = (by_itself(path, tiny, batch) for path in runs)
    assert (first - second).abs().min() > 1e-3
    torch.testing.assert_close(found.by_source["run1"], first)
    torch.testing.assert_close(found.by_source["other"], second)
    torch.testing.assert_close(found.total, first + second)
    assert found.disagreement is None
    assert reward.notes == {}  # their cards normalise them
    assert reward.first_model is not None
    assert reward.first_model.role == "reward"
    state = adapter_state(roles.peft_model, "reward")
    assert state.keys() == adapter_state(roles.peft_model, "reward_2").keys()
    fresh = Roles(load_base_of(tiny))
    RewardModel.load(Path(runs[0]), fresh, chat)
    expected = adapter_state(fresh.peft_model, "reward")
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("how", ["mean", "min", "mean_minus_std"])
def test_an_ensemble_is_one_source(runs, tiny, roles, chat, batch, functions, how):
    config = ppo(
        reward_model=tuple(runs),
        reward_function=f"{functions}:length",
        reward_ensemble=how,
        reward_ensemble_coef=2.0,
    )
    found = build_reward(config, roles, chat).score(*batch)
    first, second = (by_itself(path, tiny, batch) for path in runs)
    # Of two numbers the mean lies half way, and both lie half their distance from it.
    mean, spread = (first + second) / 2, (first - second).abs() / 2
    expected = {
        "mean": mean,
        "min": torch.minimum(first, second),
        "mean_minus_std": mean - 2 * spread,
    }[how]
    assert list(found.by_source) == ["ensemble", "length"]
    torch.testing.assert_close(found.by_source["ensemble"], expected)
    torch.testing.assert_close(found.disagreement, spread)
    torch.testing.assert_close(found.total, expected + torch.tensor([2.0, 1.0, 3.0]))


def test_a_reward_adapter_needs_a_position_for_the_end_token(runs, tiny, tmp_path, write_rows):
    """The prompt has 4 tokens and the model 128 positions: 123 new tokens, then the end token."""
    config = PPOConfig(
        model_name_or_path=str(tiny),
        output_dir=str(tmp_path / "run"),
        train_file=write_rows("prompts.jsonl", [{"prompt": "a"}]),
        reward_model=runs[0],
        accept_reward_model=True,
        max_new_tokens=124,
    )
    message = r"a prompt of 4 tokens and 124 new ones, with the end token .* 128 positions"
    with pytest.raises(ConfigError, match=message):
        PPOStage(config).run()


def test_an_adapter_of_another_base_is_refused(runs, tmp_path, chat):
    saved(tmp_path, make_model(seed=9), chat.tokenizer)
    with pytest.raises(CheckpointError, match="trained on another base"):
        build_reward(ppo(reward_model=runs[0]), Roles(load_base_of(tmp_path)), chat)


# -- all together ---------------------------------------------------------------------------------


def test_sources_are_weighed_in_the_order_given(
    runs, tiny, tmp_path, roles, chat, batch, functions
):
    model = llama()
    path = saved(tmp_path / "judge", model, classifier_tokenizer())
    config = ppo(
        reward_model=(path, runs[1]),
        reward_function=(f"{functions}:prompt", f"long={functions}:length"),
        reward_weights=(0.5, 2.0, -1.0, 10.0),
        accept_reward_model=True,
    )
    reward = build_reward(config, roles, chat, check_rewards(config))
    found = reward.score(*batch)
    expected = {
        "judge": alone(model, TEMPLATED)[:, 0],
        "run2": by_itself(runs[1], tiny, batch),
        "prompt": torch.tensor([0.0, 1.0, 0.0]),
        "long": torch.tensor([2.0, 1.0, 3.0]),
    }
    assert list(found.by_source) == list(expected)
    for name, scores in expected.items():
        torch.testing.assert_close(found.by_source[name], scores)
        assert found.by_source[name].dtype == torch.float32
    total = (
        0.5 * expected["judge"]
        + 2.0 * expected["run2"]
        + torch.tensor([20.0, -1.0 + 10.0, 30.0])  # by hand
    )
    torch.testing.assert_close(found.total, total)
    assert set(reward.notes) == {"judge", "prompt", "long"}
    assert "no reward card" in reward.notes["judge"]


def test_without_an_adapter_there_is_no_model_to_start_values_from(roles, chat, functions):
    assert build_reward(ppo(reward_function=f"{functions}:length"), roles, chat).first_model is None


def test_functions_at_hand_are_not_imported(roles, chat, batch):
    config = ppo(reward_function="nowhere:mine")
    functions = check_rewards(config, [lambda prompts, completions: [1, 2, 3]])
    reward = build_reward(config, roles, chat, functions)
    assert reward.score(*batch).total.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ConfigError, match="reward_function: names 1 functions for 2"):
        check_rewards(config, functions * 2)


def test_a_score_that_is_not_finite_names_source_and_text(roles, chat, batch, functions, tmp_path):
    function = FunctionReward(load_reward_function(f"{functions}:nan"), "nan", chat)
    with pytest.raises(TrainingError, match="reward_function nan gave nan for 'bad'"):
        function.score(*batch)
    model = llama()
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = torch.inf  # "good": the first row and the third
    source = classifier(chat, saved(tmp_path / "judge", model, classifier_tokenizer()))
    with pytest.raises(TrainingError, match="reward judge gave nan for 'good bad'"):
        source.score(*batch)
    roles.add("reward", AdapterConfig(r=2), trainable=False)
    broken = RewardModel(roles, chat)
    broken.head.bias.fill_(-torch.inf)
    with pytest.raises(TrainingError, match="reward mine gave -inf for 'good bad'"):
        ModelReward(broken, "mine").score(*batch)


@pytest.mark.parametrize("score", [torch.finfo(torch.float32).min, -1e30])
def test_a_score_that_no_figure_can_hold_is_refused(chat, batch, score):
    function = FunctionReward(lambda prompts, completions: [0.0, score, 0.0], "low", chat)
    message = r"low gave -\S+e\+3\d for 'bad'; scores lie within \+-1e\+12, and score_clip cuts"
    with pytest.raises(TrainingError, match=message):
        function.score(*batch)
    kept = FunctionReward(lambda prompts, completions: [0.0, -1e12, 0.0], "low", chat).score(*batch)
    assert kept.std().isfinite()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "nothing gave 'None', not one number per completion"),
        ("huge", "huge gave a whole number too large for a score"),
    ],
)
def test_a_function_that_gives_no_scores_is_named(chat, batch, functions, name, message):
    function = FunctionReward(load_reward_function(f"{functions}:{name}"), name, chat)
    with pytest.raises(TrainingError, match=message):
        function.score(*batch)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", r"broken can't be loaded: .*\(broken.py, line 1\)"),
        ("from os import nothing\n", "broken can't be loaded: cannot import name 'nothing'"),
    ],
)
def test_a_module_that_does_not_load_is_named(tmp_path, monkeypatch, text, message):
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=f"reward_function: {message}"):
        load_reward_function("broken:f")


@pytest.mark.parametrize("spec", [".foo:bar", "..:x"])
def test_a_relative_module_is_refused(spec):
    with pytest.raises(ConfigError, match=r"is not file\.py:name or package\.module:name"):
        load_reward_function(spec)


def test_parts_are_joined_in_order():
    parts = [
        Scores(torch.tensor([1.0]), {"a": torch.tensor([2.0])}, torch.tensor([0.1])),
        Scores(torch.tensor([3.0, 4.0]), {"a": torch.tensor([5.0, 6.0])}, torch.tensor([0.2, 0.3])),
    ]
    joined = Scores.join(parts)
    assert joined.total.tolist() == [1.0, 3.0, 4.0]
    assert joined.by_source["a"].tolist() == [2.0, 5.0, 6.0]
    assert joined.disagreement is not None
    torch.testing.assert_close(joined.disagreement, torch.tensor([0.1, 0.2, 0.3]))
    assert Scores.join([dataclasses.replace(part, disagreement=None) for part in parts]) is not None


# -- names and checks -----------------------------------------------------------------------------


def test_names_come_from_paths_and_are_made_different():
    config = ppo(
        reward_model=("runs/reward", "old/reward/", "reward_2=lab/judge", "lab/judge"),
        reward_function=("f.py:judge", "pack.module:good"),
    )
    assert [spec.name for spec in reward_specs(config)] == [
        "reward",
        "reward_3",  # reward_2 is a name of the user's
        "reward_2",
        "judge",
        "judge_2",
        "good",
    ]
    assert [spec.path for spec in reward_specs(config)][2:5] == [
        "lab/judge",
        "lab/judge",
        "f.py:judge",
    ]


def test_a_path_may_hold_an_equals_sign():
    assert reward_specs(ppo(reward_model="./lr=1"))[0].path == "./lr=1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_model": ("a=x", "a=y")}, "reward_model: the name 'a' is taken"),
        (
            {"reward_model": "a=x", "reward_function": "a=f.py:f"},
            "reward_function: the name 'a' is taken",
        ),
        (
            {"reward_model": ("x", "ensemble=y"), "reward_ensemble": "min"},
            "reward_model: the name 'ensemble' is taken",
        ),
        (
            {"reward_model": ("x", "y"), "reward_ensemble": "min"},
            "reward_ensemble: needs two run folders of the reward stage or more, not 0",
        ),
    ],
)
def test_names_and_ensembles_that_do_not_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        reward_specs(ppo(**settings))


def test_functions_of_several_files_are_all_kept(tmp_path):
    found = []
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / "score.py"
        path.write_text(
            "import sys\n"
            f"VALUE = {number}\n"
            "def f(prompts, completions):\n"
            "    return [sys.modules[__name__].VALUE for _ in completions]\n"
        )
        found.append(load_reward_function(f"{path}:f"))
    assert [function([], ["x"]) for function in found] == [[1], [2]]


def finished(folder, stage):
    with RunFolder(folder, stage, ppo(reward_function="f")):
        pass


def make_bad_models(folder):
    (folder / "empty").mkdir()
    (folder / "odd").mkdir()
    (folder / "odd" / "config.json").write_text('{"model_type": "of_nobody"}')
    finished(folder / "sft", "sft")
    with (
        pytest.raises(ZeroDivisionError),
        RunFolder(folder / "broken", "reward", ppo(reward_function="f")),
    ):
        _ = 1 / 0
    make_model().save_pretrained(folder / "causal")
    llama(num_labels=3).save_pretrained(folder / "three")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "is no folder here and no model that the hub gives"),
        ("empty", r"holds neither a run \(run.json\) nor a model \(config.json\); give a finished"),
        ("odd", "odd can't be read: "),
        ("sft", "holds the sft stage; give a run folder of reward"),
        ("broken", "the reward run is failed, not done; finish it first"),
        ("causal", "is LlamaForCausalLM, which gives no score; give a finished run folder"),
        ("three", "has 3 labels; give a model with one"),
    ],
)
def test_a_model_that_gives_no_score_is_refused_in_one_line(tmp_path, monkeypatch, name, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    make_bad_models(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        check_rewards(ppo(reward_model=str(tmp_path / name)))
    assert str(caught.value).startswith("reward_model: ")
    assert "\n" not in str(caught.value)


def test_what_can_be_used_passes_the_check(runs, tmp_path, functions):
    path = saved(tmp_path / "judge", llama(), classifier_tokenizer())
    config = ppo(
        reward_model=(runs[0], path),
        reward_function=f"{functions}:length",
        accept_reward_model=True,
    )
    (function,) = check_rewards(config)
    assert function([], ["a b"]) == [2.0]
