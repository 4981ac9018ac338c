"""A reward run as a sequence classifier: plain transformers gives the reward model's scores."""

import json
import re

import pytest
import torch
from tiny_model import make_tokenizer
from tokenizers import Tokenizer, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    CodeGenConfig,
    CodeGenForCausalLM,
    PreTrainedTokenizerFast,
)

from rlhf.cli import main
from rlhf.errors import CheckpointError, ConfigError, TrainingError
from rlhf.ppo.classifier import ClassifierReward
from rlhf.records import Prompt
from rlhf.reward import export
from rlhf.reward.export import export_classifier, read_normalization

PAIRS = [
    ("a b c", "good"),
    ("hello", ""),
    ("d e f g h i", "good bad world a b c d"),
    ("k", "bad bad"),
]
CPU = torch.device("cpu")


def tokenizer_with(pad="<pad>", template=True, extra=()):
    """The tiny tokenizer; with another pad token it has none that is named for padding."""
    tiny = make_tokenizer()
    text = tiny.backend_tokenizer.to_str()
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(
            text if pad == "<pad>" else text.replace("<pad>", "<nil>")
        ),
        pad_token=pad,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<asst>", *extra],
        chat_template=tiny.chat_template if template else None,
        padding_side="left",
    )


def raw_of(model):
    """What the head gave: the normalisation undone."""
    scores = model.score_texts([(Prompt.parse(prompt), text) for prompt, text in PAIRS])
    return scores * model.head.std + model.head.mean


def read_as_users_do(folder, *, batched):
    """Raw logits of PAIRS through transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    end_id = json.loads((folder / "normalization.json").read_text())["end_token_id"]
    rows = []
    for prompt, completion in PAIRS:
        ids = tokenizer.encode(prompt)
        if tokenizer.chat_template is not None:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            ids = tokenizer.encode(text, add_special_tokens=False)
        rows.append([*ids, *tokenizer.encode(completion, add_special_tokens=False), end_id])
    with torch.no_grad():
        if not batched:
            return torch.cat([model(input_ids=torch.tensor([row])).logits[:, 0] for row in rows])
        padded = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        assert padded["input_ids"].shape[1] > min(map(len, rows))
        return model(**padded).logits[:, 0]


def check(run, base, folder, load_models):
    (model,) = load_models(base, run)
    expected = raw_of(model)
    assert expected.std() > 0.1
    for batched in (False, True):
        found = read_as_users_do(folder, batched=batched)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_transformers_alone_gives_the_raw_scores(
    family, tied, make_base, make_run, load_models, tmp_path
):
    base = make_base(family, tokenizer_with(), tie_word_embeddings=tied)
    run = make_run(base)
    done = export_classifier(run, tmp_path / "out")
    assert done.max_difference <= 1e-4
    assert (done.pad_token, done.pad_token_id) == ("<pad>", 0)
    check(run, base, tmp_path / "out", load_models)


def test_the_folder_says_how_to_read_it(make_base, make_run, load_models, tmp_path):
    run = make_run(base := make_base())
    done = export_classifier(run, tmp_path / "out")
    constants = json.loads((tmp_path / "out" / "normalization.json").read_text())
    assert constants == {
        "mean": pytest.approx(0.7),
        "std": pytest.approx(1.9),
        "end_token": "</s>",
        "end_token_id": 2,
        "formula": "score = (raw - mean) / std",
    }
    assert read_normalization(tmp_path / "out") == done.normalization
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    assert report["max_difference"] == done.max_difference
    assert report["dtype"] == "float32"
    snippet = re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.S)
    assert snippet is not None
    names = {"folder": str(tmp_path / "out"), "prompt": "a b c", "completion": "good bad"}
    exec(snippet[1], names)
    (model,) = load_models(base, run)
    assert names["score"] == pytest.approx(
        float(model.score_texts([(Prompt.parse("a b c"), "good bad")])), abs=1e-4
    )


@pytest.mark.parametrize("template", [True, False], ids=["chat", "plain"])
@pytest.mark.parametrize("pad", ["</s>", "<unk>", None])
def test_a_pad_token_that_text_holds_is_replaced(
    pad, template, make_base, make_run, load_models, tmp_path
):
    """32 rows of the embedding for 30 tokens: the new one has a row already."""
    base = make_base(tokenizer=tokenizer_with(pad, template))
    done = export_classifier(make_run(base), tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert (done.pad_token, done.pad_token_id) == ("<|pad|>", 30)
    assert model.config.pad_token_id == 30
    assert model.get_input_embeddings().num_embeddings == 32
    check(tmp_path / "reward", base, tmp_path / "out", load_models)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_full_embedding_grows_by_one_row(
    family, tied, make_base, make_run, load_models, tmp_path
):
    settings = {"vocab_size": 30, "pad_token_id": 2, "tie_word_embeddings": tied}
    base = make_base(family, tokenizer_with("</s>"), **settings)
    done = export_classifier(make_run(base), tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert done.pad_token_id == 30
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == 31
    check(tmp_path / "reward", base, tmp_path / "out", load_models)


@pytest.mark.parametrize(
    ("extra", "pad"),
    [(("<tool>", "<reserved_0>"), "<reserved_0>"), (("<reserved_0>", "<img_pad>"), "<img_pad>")],
)
def test_a_spare_special_token_pads_before_a_new_one(
    extra, pad, make_base, make_run, load_models, tmp_path
):
    base = make_base(tokenizer=tokenizer_with("</s>", extra=extra))
    done = export_classifier(make_run(base), tmp_path / "out")
    assert (done.pad_token, done.pad_token_id) == (pad, 31)
    check(tmp_path / "reward", base, tmp_path / "out", load_models)


def test_a_pad_token_that_may_end_a_completion_is_replaced(
    make_base, make_run, load_models, tmp_path
):
    """As in Qwen: the generation config names two end tokens, and the second one pads."""
    base = make_base()
    file = base / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": [2, 0]}))
    done = export_classifier(make_run(base), tmp_path / "out")
    assert done.pad_token == "<|pad|>"
    check(tmp_path / "reward", base, tmp_path / "out", load_models)


def test_an_adapter_of_the_output_head_is_left_out(make_base, make_run, load_models, tmp_path):
    base = make_base(tie_word_embeddings=False)
    run = make_run(base, targets="q_proj,down_proj,lm_head")
    export_classifier(run, tmp_path / "out")
    check(run, base, tmp_path / "out", load_models)


def test_bfloat16_is_written_and_its_difference_recorded(make_base, make_run, tmp_path):
    done = export_classifier(make_run(make_base()), tmp_path / "out", dtype="bfloat16")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    assert 0 < done.max_difference < 0.5
    assert done.dtype == "bfloat16"


@pytest.mark.parametrize("kind", ["adapter", "pad"])
def test_an_export_that_differs_is_deleted(kind, make_base, make_run, tmp_path, monkeypatch):
    run = make_run(make_base())
    if kind == "adapter":
        monkeypatch.setattr(export, "fold", lambda model, delta: None)
    else:
        monkeypatch.setattr(export, "_choose_pad", lambda tokenizer, stop_ids, size: 2)
    with pytest.raises(TrainingError, match=r"raw scores differ .* by .*allowed 0\.0001"):
        export_classifier(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "reward"]


def test_what_cannot_be_exported_is_refused(make_base, make_run, tmp_path):
    run = make_run(make_base())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"output_dir: .*full holds files; give a new or empty"):
        export_classifier(run, tmp_path / "full")
    with pytest.raises(ConfigError, match=r"reward_model: .*base: not a run folder"):
        export_classifier(tmp_path / "base", tmp_path / "out")
    (run / "run.json").write_text(
        (run / "run.json").read_text().replace('"status": "done"', '"status": "running"')
    )
    with pytest.raises(ConfigError, match="the reward run is running, not done"):
        export_classifier(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_base_without_a_sequence_classifier_is_refused(make_run, tmp_path):
    config = CodeGenConfig(
        vocab_size=32, n_positions=64, n_embd=16, n_layer=1, n_head=4, rotary_dim=4
    )
    config.bos_token_id, config.eos_token_id = 1, 2
    CodeGenForCausalLM(config).save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    run = make_run(tmp_path / "base")
    with pytest.raises(ConfigError, match=r"no sequence classifier for codegen .* rlhf score"):
        export_classifier(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_ends_with_its_figures(make_base, make_run, tmp_path, capsys):
    run = make_run(make_base())
    given = ["--reward_model", str(run), "--output_dir", str(tmp_path / "out")]
    assert main(["export-reward", *given]) == 0
    shown = capsys.readouterr().out
    assert "largest difference of a raw score" in shown
    assert "</s>" in shown
    assert main(["export-reward", *given]) == 2
    assert "holds files; give a new or empty folder" in capsys.readouterr().err


# -- as a reward of PPO ---------------------------------------------------------------------------


def chatml_like():
    """A template that writes something behind the end token, as ChatML's line break."""
    tokenizer = tokenizer_with()
    tokenizer.chat_template = tokenizer.chat_template.replace("'</s>'", "'</s>' + ' t'")
    return tokenizer


def closing(template=False):
    """A tokenizer that puts <s> before and </s> behind plain text."""
    tokenizer = tokenizer_with(template=template)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [tokenizer_with(), chatml_like(), tokenizer_with("</s>", template=False), closing()],
    ids=["chat", "text behind the end", "plain", "plain, closed by the tokenizer"],
)
def test_ppo_scores_an_export_as_the_run_it_came_from(
    tokenizer, make_base, make_run, load_models, tmp_path
):
    run = make_run(base := make_base(tokenizer=tokenizer))
    export_classifier(run, tmp_path / "out")
    (model,) = load_models(base, run)
    source = ClassifierReward.load(str(tmp_path / "out"), "judge", model.chat, CPU)
    assert source.note is None
    prompts = [Prompt.parse(prompt) for prompt, _ in PAIRS]
    prompt_ids = [model.chat.encode_prompt(prompt) for prompt in prompts]
    ids = [model.chat.encode_completion(text) for _, text in PAIRS]
    ids[0] = ids[0][:-1]  # cut off
    expected = model.score_ids(prompt_ids, ids)
    found = source.score(prompts, prompt_ids, ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_broken_constants_are_refused_and_none_are_not_needed(
    make_base, make_run, load_models, tmp_path
):
    run = make_run(base := make_base())
    export_classifier(run, tmp_path / "out")
    (model,) = load_models(base, run)
    file = tmp_path / "out" / "normalization.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps(fields | {"std": 0.0}))
    with pytest.raises(CheckpointError, match=r"mean 0\.69.* and std 0\.0 can't normalise"):
        read_normalization(tmp_path / "out")
    file.write_text("{}")
    with pytest.raises(ConfigError, match=r"reward_model: .*normalization\.json: not a readable"):
        ClassifierReward.load(str(tmp_path / "out"), "judge", model.chat, CPU)
    file.unlink()
    source = ClassifierReward.load(str(tmp_path / "out"), "judge", model.chat, CPU)
    assert source.normalization is None
    assert source.note is not None


def test_an_ensemble_is_refused_and_a_member_named(make_base, make_run, tmp_path):
    base = make_base()
    run = make_run(base, "several")
    for number in (1, 2):
        make_run(base, f"several/member_{number}")
    with pytest.raises(ConfigError, match="holds 2 reward models; export one of them"):
        export_classifier(run, tmp_path / "exported")
