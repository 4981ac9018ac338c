"""The pages under docs/ name only what exists, and all of it: metrics, alarms, options, files."""

import ast
import dataclasses
import importlib
import json
import re
import runpy
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from tiny_model import make_tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification

from rlhf.config import AdapterConfig, PPOConfig, RewardConfig, ScoreConfig, StageConfig
from rlhf.ppo import PPOStage
from rlhf.records import Ranking
from rlhf.reward import RewardStage
from rlhf.reward.gate import find_faults

ROOT = Path(__file__).parent.parent
PPO, FROM_TRL = ROOT / "docs" / "ppo.md", ROOT / "docs" / "from-trl.md"
REWARD = ROOT / "docs" / "reward.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FIELDS = {field.name: field for field in dataclasses.fields(PPOConfig)}
REWARD_FIELDS = {field.name: field for field in dataclasses.fields(RewardConfig)}
ADAPTER_FIELDS = {f"adapter.{field.name}": field for field in dataclasses.fields(AdapterConfig)}

TRL_OWN = """
    batch_size cliprange cliprange_value dataset_num_proc ds3_gather_for_generation gamma kl_coef
    kl_estimator lam local_batch_size local_mini_batch_size local_rollout_forward_batch_size
    micro_batch_size mini_batch_size missing_eos_penalty model_adapter_name num_mini_batches
    num_ppo_epochs num_sample_generations num_total_batches ref_adapter_name response_length
    reward_model_path sft_model_path stop_token stop_token_id temperature total_episodes vf_coef
    whiten_rewards world_size
"""
"""Fields that TRL 1.12's PPOConfig adds to transformers' TrainingArguments, read from its wheel."""

TRL_TRAINING_ARGUMENTS = """
    adam_beta1 adam_beta2 adam_epsilon bf16 deepspeed eval_steps eval_strategy fp16 fsdp
    gradient_accumulation_steps gradient_checkpointing learning_rate logging_steps
    lr_scheduler_type max_grad_norm max_steps num_train_epochs optim output_dir
    per_device_eval_batch_size per_device_train_batch_size push_to_hub report_to
    resume_from_checkpoint save_steps save_total_limit seed use_cpu warmup_steps weight_decay
"""
"""Fields of TrainingArguments (transformers 5.23) that bear on a PPO run."""

TRL_METRICS = """
    eps episode lr loss/policy_avg loss/value_avg objective/entropy objective/kl
    objective/non_score_reward objective/rlhf_reward objective/scores policy/approxkl_avg
    policy/clipfrac_avg policy/entropy_avg val/clipfrac_avg val/num_eos_tokens val/ratio
    val/ratio_var
"""
"""What TRL 1.12's PPO logs."""


# -- reading the pages ----------------------------------------------------------------------------


@cache
def tables(page: Path) -> dict[str, list[dict[str, str]]]:
    """Rows of every table by the heading it stands under."""
    found: dict[str, list[dict[str, str]]] = {}
    heading, columns = "", None
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("|"):
            columns = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if columns is None:
            columns = cells
        elif not set(line) <= set("|-: "):
            assert len(cells) == len(columns), f"{page.name}: {line}"
            found.setdefault(heading, []).append(dict(zip(columns, cells, strict=True)))
    return found


def code(text: str) -> list[str]:
    """What stands in backticks, blocks left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def first_code(cell: str) -> str:
    return code(cell)[0]


def is_default(shown: str, default: Any) -> bool:
    """Tell whether a table cell shows a default."""
    if default is dataclasses.MISSING:
        return shown == "required"
    if isinstance(default, bool) or default is None:
        return shown == str(default).lower()
    return float(shown) == default if isinstance(default, int | float) else shown == default


# -- metrics --------------------------------------------------------------------------------------

REWARDS = """
def good(prompts, completions):
    return [float(text.split().count("good")) for text in completions]


def length(prompts, completions):
    return [float(len(text)) for text in completions]
"""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def metrics(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[set[str]]:
    """Keys of metrics.jsonl of runs that have every option that adds one."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "rewards.py").write_text(REWARDS)
    adapter = AdapterConfig(r=2, lora_alpha=4)
    ranked = {"completions": ["good", "bad"], "ranks": [1, 2]}
    rankings = write_rows(folder / "rankings.jsonl", [{"prompt": p} | ranked for p in "abcdefgh"])
    for seed in (0, 1):
        RewardStage(
            RewardConfig(
                model_name_or_path=str(tiny),
                rankings=rankings,
                output_dir=str(folder / f"reward{seed}"),
                adapter=adapter,
                seed=seed,
            )
        ).run()
    demonstrations = [{"prompt": p, "completion": "good"} for p in "abcd"]
    common = PPOConfig(
        model_name_or_path=str(tiny),
        output_dir=str(folder / "plain"),
        train_file=write_rows(folder / "prompts.jsonl", [{"prompt": p} for p in "abcd"]),
        reward_function=f"{folder / 'rewards.py'}:good",
        adapter=adapter,
        max_steps=2,
        rollout_batch_size=4,
        num_mini_batches=2,
        max_new_tokens=4,
    )
    length = f"{folder / 'rewards.py'}:length"
    runs = [
        common,
        dataclasses.replace(
            common,
            output_dir=str(folder / "shared"),
            reward_function=(str(common.reward_function), length),
            value="shared",
            kl_in="loss",
            ptx_file=write_rows(folder / "demonstrations.jsonl", demonstrations),
            ptx_coef=0.1,
            kl_target=1.0,
        ),
        dataclasses.replace(
            common,
            output_dir=str(folder / "rloo"),
            reward_model=(str(folder / "reward0"), str(folder / "reward1")),
            accept_reward_model=True,
            reward_ensemble="mean_minus_std",
            advantage="rloo",
            num_generations=2,
            value_warmup_steps=0,
        ),
    ]
    for config in runs:
        PPOStage(config).run()
    return [
        set(json.loads(line)) - {"step"}
        for config in runs
        for line in (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    ]


def glossary() -> dict[str, re.Pattern[str]]:
    """Pattern of every key in the glossary."""
    keys = [first_code(row["key"]) for row in tables(PPO)["Metrics"]]
    assert len(keys) == len(set(keys))
    return {key: re.compile(re.escape(key).replace("<name>", ".+")) for key in keys}


def test_every_logged_metric_is_in_the_glossary(metrics: list[set[str]]):
    unknown = {
        key
        for key in set().union(*metrics)
        if not any(pattern.fullmatch(key) for pattern in glossary().values())
    }
    assert not unknown


def test_every_glossary_row_is_logged(metrics: list[set[str]]):
    logged = set().union(*metrics)
    missing = {
        key
        for key, pattern in glossary().items()
        if not any(pattern.fullmatch(name) for name in logged)
    }
    assert not missing


def test_pages_name_no_metric_outside_the_glossary():
    families = {key.partition("/")[0] for key in glossary()}
    theirs = {first_code(row["TRL 1.12"]) for row in tables(FROM_TRL)["Metrics"]}
    for page in (PPO, FROM_TRL):
        for word in code(page.read_text(encoding="utf-8")):
            if re.fullmatch(r"[a-z]+/[\w<>]+", word) and word.partition("/")[0] in families:
                known = any(pattern.fullmatch(word) for pattern in glossary().values())
                assert known or word in theirs, f"{page.name}: {word}"


# -- alarms ---------------------------------------------------------------------------------------


def raised_alarms() -> set[str]:
    """Names given to ``Alarm``, and names in brackets at the end of a text in the sources."""
    found = set()
    for path in (ROOT / "rlhf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r" \[([a-z]+(?:_[a-z]+)+)\]$", node.value))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Alarm":
                found.add(str(ast.literal_eval(node.args[0])))
    return found


def test_the_alarms_table_holds_every_alarm():
    listed = [first_code(row["alarm"]) for row in tables(PPO)["Alarms"]]
    assert sorted(listed) == sorted(raised_alarms())


# -- options and code -----------------------------------------------------------------------------


def choices() -> set[str]:
    """Values of the options that have a list of them."""
    hints = get_type_hints(PPOConfig)
    return {value for hint in hints.values() for value in get_args(hint) if isinstance(value, str)}


def test_every_option_named_in_the_ppo_page_exists():
    alarms = {first_code(row["alarm"]) for row in tables(PPO)["Alarms"]}
    for word in code(PPO.read_text(encoding="utf-8")):
        name, _, value = word.partition("=")
        if re.fullmatch(r"[a-z_]+(\.r|\.lora_\w+)?", name) and name not in alarms:
            assert name in FIELDS or name in ADAPTER_FIELDS or name in {"step", "ppo2"}, word
            assert not value or value in choices() | {"base", "pretrained"}, word


@pytest.mark.parametrize("heading", ["Options", "Learning rates for LoRA"])
def test_defaults_in_the_ppo_page_are_the_defaults(heading: str):
    for row in tables(PPO)[heading]:
        name = first_code(row["option"])
        default = (FIELDS | ADAPTER_FIELDS)[name].default
        assert is_default(row["default"], default), f"{name} is {default}"


@pytest.mark.parametrize("page", [PPO, REWARD], ids=lambda page: page.name)
def test_every_module_and_function_named_exists(page: Path):
    text = page.read_text(encoding="utf-8").replace("`module:name`", "")
    named = re.findall(r"`([a-z_.]+):([A-Za-z_.]+)`", text)
    assert len(named) > 20
    for module, path in named:
        found = importlib.import_module(f"rlhf.{module}")
        for name in path.split("."):
            assert hasattr(found, name), f"{module}:{path}"
            found = getattr(found, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in headings}, target


# -- reward ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reward_runs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs that have every option that adds a metric or a key of the card."""
    folder = tmp_path_factory.mktemp("rewards")
    ranked = {"completions": ["good", "bad", "a"], "ranks": [1, 2, 2], "annotator": "ann"}
    demonstration = {"prompt": "a", "completion": "good"}
    common = RewardConfig(
        model_name_or_path=str(tiny),
        rankings=write_rows(folder / "rankings.jsonl", [{"prompt": p} | ranked for p in "abcdefg"]),
        demonstrations=write_rows(folder / "demonstrations.jsonl", [demonstration]),
        output_dir=str(folder / "davidson"),
        loss="davidson",
        adapter=AdapterConfig(r=2, lora_alpha=4),
        eval_fraction=0.5,
    )
    configs = [
        common,
        dataclasses.replace(common, output_dir=str(folder / "rao_kupper"), loss="rao_kupper"),
        dataclasses.replace(
            common,
            output_dir=str(folder / "errors"),
            loss="bradley_terry",
            learn_annotator_errors=True,
        ),
        dataclasses.replace(common, output_dir=str(folder / "ensemble"), ensemble_size=2),
    ]
    for config in configs:
        RewardStage(config).run()
    return [Path(config.output_dir) for config in configs]


def cards(runs: list[Path]) -> list[dict[str, Any]]:
    return [json.loads((run / "reward_card.json").read_text(encoding="utf-8")) for run in runs]


def names_in(value: object) -> set[str]:
    """Keys of a JSON value, however deep."""
    if isinstance(value, dict):
        return set(value).union(*map(names_in, value.values()))
    return set().union(*map(names_in, value)) if isinstance(value, list) else set()


def test_the_reward_glossary_has_what_reward_runs_log(reward_runs: list[Path]):
    logged = {
        key
        for run in reward_runs[:3]
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        for key in set(json.loads(line)) - {"step"}
    }
    listed = [first_code(row["key"]) for row in tables(REWARD)["Metrics"]]
    assert sorted(listed) == sorted({re.sub(r"(?<=error/).+", "<name>", key) for key in logged})


def test_the_card_table_has_every_key_of_a_card(reward_runs: list[Path]):
    listed = [key for row in tables(REWARD)["The card"] for key in code(row["key"])]
    assert sorted(listed) == sorted(set().union(*cards(reward_runs)))


def test_the_gate_table_has_every_check():
    accuracy = {"value": 0.4, "low": 0.3, "high": 0.5}
    weak = {
        "pair_accuracy": accuracy,
        "best_length_rule": {"rule": "longer wins", "value": 0.6},
        "probes": {"empty": {"margin": {"value": -1.0}}},
    }
    found = {finding.check for card in ({}, weak) for finding in find_faults(card)}
    listed = [first_code(row["check"]) for row in tables(REWARD)["The gate"]]
    assert sorted(listed) == sorted(found | {"card"})


def test_the_reward_options_are_all_listed_with_their_defaults():
    common = {field.name: field.default for field in dataclasses.fields(StageConfig)}
    own = [name for name, f in REWARD_FIELDS.items() if common.get(name, f) != f.default]
    rows = tables(REWARD)["Options"]
    assert sorted(first_code(row["option"]) for row in rows) == sorted(set(own) - {"adapter"})
    for row in rows:
        default = REWARD_FIELDS[first_code(row["option"])].default
        assert is_default(row["default"], default), f"{row['option']} is {default}"


def test_every_name_in_the_reward_page_exists(reward_runs: list[Path]):
    hints = get_type_hints(RewardConfig).values()
    values = {value for hint in hints for value in get_args(hint) if isinstance(value, str)}
    disagreements = (reward_runs[-1] / "disagreement.jsonl").read_text(encoding="utf-8")
    known = FIELDS.keys() | REWARD_FIELDS.keys() | names_in(cards(reward_runs))
    known |= {
        field.name for config in (ScoreConfig, Ranking) for field in dataclasses.fields(config)
    }
    known |= names_in([json.loads(line) for line in disagreements.splitlines()])
    known |= {first_code(row["key"]) for row in tables(REWARD)["Metrics"]}
    known |= {first_code(row["check"]) for row in tables(REWARD)["The gate"]}
    known |= {"step", "score", "raw_score", "raw_scores", "skip", "cannot_judge", "weight"}
    known |= {"completion", "chosen", "rejected", "messages"}
    # A learning curve needs more prompts than these runs have.
    known |= {"points", "accuracy", "slope_per_doubling", "slope_error", "rankings_for_one_point"}
    for word in code(REWARD.read_text(encoding="utf-8")):
        name, _, value = word.partition("=")
        if re.fullmatch(r"[a-z_]+(/[a-z_<>]+)?", name):
            assert name in known, word
            assert not value or value in values, word


# -- from TRL -------------------------------------------------------------------------------------


def mapped() -> list[dict[str, str]]:
    return [row for row in tables(FROM_TRL)["PPOConfig, field by field"] if "here" in row]


def test_every_field_of_trl_is_mapped_once():
    listed = [first_code(row["TRL 1.12"]) for row in mapped()]
    assert sorted(listed) == sorted(TRL_OWN.split() + TRL_TRAINING_ARGUMENTS.split())


def test_what_trl_is_mapped_to_exists_with_its_default():
    for row in mapped():
        if row["here"] == "-":
            assert row["note"], f"{row['TRL 1.12']}: say why"
            continue
        name = first_code(row["here"])
        assert is_default(row["default"], FIELDS[name].default), f"{name}: {FIELDS[name].default}"


def test_options_named_in_the_trl_page_exist():
    known = (
        FIELDS.keys() | ADAPTER_FIELDS.keys() | {*TRL_OWN.split(), *TRL_TRAINING_ARGUMENTS.split()}
    )
    arguments = {"model", "ref_model", "value_model", "processing_class", "train_dataset"}
    others = {"callbacks", "listener", "peft_config", "step", *TRL_METRICS.split()}
    for word in code(FROM_TRL.read_text(encoding="utf-8")):
        name = word.partition("=")[0]
        if re.fullmatch(r"[a-z_]+(\.r|\.lora_\w+)?", name):
            assert name in known | arguments | others, word


def test_every_metric_of_trl_is_mapped_once():
    listed = [first_code(row["TRL 1.12"]) for row in tables(FROM_TRL)["Metrics"]]
    assert sorted(listed) == sorted(TRL_METRICS.split())


def test_the_ported_script_runs(tiny: Path, tmp_path: Path):
    classifier = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            pad_token_id=0,
            num_labels=1,
        )
    )
    classifier.save_pretrained(tmp_path / "classifier")
    make_tokenizer().save_pretrained(tmp_path / "classifier")
    short = [{"prompt": f"{letter} hello", "completion": "world"} for letter in "abcd"]
    long = {"prompt": "a " * 600, "completion": "world"}
    arguments = {
        "output_dir": tmp_path / "run",
        "train_file": write_rows(tmp_path / "tldr.jsonl", [*short, long]),
        "sft_model_path": tiny,
        "reward_model_path": tmp_path / "classifier",
        "total_episodes": 64,
    }
    main = runpy.run_path(str(ROOT / "docs" / "ppo_tldr.py"))["main"]
    result = main([f"--{name}={value}" for name, value in arguments.items()])
    assert result.updates == 1
    assert (result.adapter / "adapter_model.safetensors").is_file()
