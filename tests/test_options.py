"""Flags and YAML files into configs: what is taken, what is refused and how it is told."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from rlhf.config import (
    AdapterConfig,
    EvaluationConfig,
    GenerateConfig,
    Numbers,
    PPOConfig,
    RewardConfig,
    SampleConfig,
    SFTConfig,
    Texts,
)
from rlhf.errors import ConfigError
from rlhf.options import field_docs, list_options, parse

REQUIRED = ["--model_name_or_path", "base", "--output_dir", "out", "--train_file", "demos.jsonl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """A group."""

    size: int = 3
    """How large."""
    path: str
    """Where."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"size: {self.size!r} is not allowed; must be more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """Settings with an optional group."""

    rate: float = 0.1
    """How fast."""
    mode: Literal["slow", "quick"] = "slow"
    """How."""
    name: str | None = None
    """What it is called."""
    limit: int | None = None
    """How many, 100 % at most."""
    loud: bool = False
    """Whether it is heard."""
    inner: Inner | None = None
    """The group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Several:
    """Settings that take one value or several."""

    paths: Texts | None = None
    """Where."""
    weights: Numbers | None = None
    """How much."""
    trackers: Texts = "none"
    """Who is told."""
    scales: tuple[float, ...] | float = (1.0, 2.0)
    """How large."""
    rate: float = 0.1
    """How fast."""


def outer(*argv: str) -> Outer:
    return parse(Outer, argv, prog="tool")


def several(*argv: str) -> Several:
    return parse(Several, argv, prog="tool")


def sft(*argv: str) -> SFTConfig:
    return parse(SFTConfig, [*REQUIRED, *argv], prog="rlhf sft")


def yaml_file(folder: Path, text: str) -> str:
    path = folder / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_defaults_are_those_of_the_dataclass():
    assert sft() == SFTConfig(model_name_or_path="base", output_dir="out", train_file="demos.jsonl")


def test_flags_are_typed_by_their_fields():
    config = sft("--learning_rate", "1e-5", "--adapter.r", "16", "--max_steps", "-1")
    assert (config.learning_rate, config.adapter.r, config.max_steps) == (1e-5, 16, -1)


def test_dashes_serve_as_underscores():
    assert sft("--learning-rate=3e-4", "--adapter.lora-alpha", "8").adapter.lora_alpha == 8


def test_negative_numbers_are_values_not_flags():
    assert outer("--rate", "-1e-5").rate == -1e-5


def test_a_boolean_flag_needs_no_value_but_takes_one():
    assert outer("--loud").loud
    assert not outer("--loud", "false").loud


def test_flags_win_over_the_file(tmp_path: Path):
    file = yaml_file(tmp_path, "seed: 3\nadapter:\n  r: 4\n  lora_alpha: 5\n")
    config = sft("--config", file, "--adapter.r", "6")
    assert (config.seed, config.adapter.r, config.adapter.lora_alpha) == (3, 6, 5)


def test_none_unsets_what_the_file_set(tmp_path: Path):
    file = yaml_file(tmp_path, "limit: 3\nname: x\n")
    assert outer("--config", file, "--limit", "none", "--name", "None") == Outer()


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("3", 3.0), ("-2", -2.0)],
)
def test_numbers_in_files_are_numbers(tmp_path: Path, text: str, value: float):
    assert outer("--config", yaml_file(tmp_path, f"rate: {text}\n")).rate == value


@pytest.mark.parametrize("text", ["no", "NA", "1e5", "0x1f", "12:30", "2026-01-01", "true", "007"])
def test_text_in_files_stays_text(tmp_path: Path, text: str):
    assert outer("--config", yaml_file(tmp_path, f"name: {text}\n")).name == text


@pytest.mark.parametrize("text", ["", "~", "null"])
def test_null_in_files_is_none(tmp_path: Path, text: str):
    assert outer("--config", yaml_file(tmp_path, f"limit: {text}\n")).limit is None


def test_an_empty_file_and_a_byte_order_mark_are_fine(tmp_path: Path):
    assert outer("--config", yaml_file(tmp_path, "")) == Outer()
    assert outer("--config", yaml_file(tmp_path, "\ufeffrate: 2\n")).rate == 2


def test_an_optional_group_is_none_until_something_in_it_is_given():
    assert outer().inner is None
    assert outer("--inner.path", "x").inner == Inner(path="x")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--raet", "1"], "--raet: unknown option; did you mean --rate?"),
        (["--lou"], "--lou: unknown option; did you mean --loud?"),  # no prefixes
        (["--size", "3"], "--size: unknown option; did you mean --inner.size?"),
        (["--rate", "fast"], "--rate: 'fast' is not a number"),
        (["--rate", "nan"], "--rate: nan is not allowed; give a finite number"),
        (["--limit", "1.5"], "--limit: '1.5' is not a whole number or null"),
        (["--mode", "quik"], "is not one of slow, quick; did you mean 'quick'?"),
        (["--loud", "maybe"], "--loud: 'maybe' is not true or false"),
        (["--rate"], "--rate: expected one argument"),
        (["stray"], "unrecognized arguments: stray"),
        (["--inner.size", "3"], "missing: --inner.path"),
        (["--inner.path", "x", "--inner.size", "0"], "--inner.size: 0 is not allowed"),
        (["--config", "missing.yaml"], "--config: missing.yaml: No such file"),
    ],
)
def test_mistakes_in_flags_are_named(argv: list[str], message: str):
    with pytest.raises(ConfigError) as caught:
        outer(*argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate: 1\n\nraet: 2\n", ":3: unknown key 'raet'; did you mean 'rate'?"),
        ("rate: 1\nmode: slow\nrate: 2\n", ":3: rate: is given twice (first in line 1)"),
        ("inner:\n  path: x\n  path: y\n", ":3: inner.path: is given twice"),
        ("inner:\n  sise: 1\n", ":2: unknown key 'inner.sise'; did you mean 'inner.size'?"),
        ("inner: 3\n", ":1: inner: expected settings as 'name: value' lines"),
        ("- rate\n", ":1: expected settings"),
        ("# c\nrate: fast\n", ":2: rate: 'fast' is not a number"),
        ("rate: .nan\n", ":1: rate: nan is not allowed"),
        ("rate: [1]\n", ":1: rate: [1] is not a number"),
        ("rate:\n", ":1: rate: null is not a number"),
        ("limit: 1.5\n", ":1: limit: 1.5 is not a whole number or null"),
        ("limit: '3'\n", ":1: limit: '3' is not a whole number or null"),
        ("limit: true\n", ":1: limit: True is not a whole number or null"),
        ("loud: yes\n", ":1: loud: 'yes' is not true or false"),
        ("mode: quik\n", ":1: mode: 'quik' is not one of slow, quick; did you mean 'quick'?"),
        ("name: [a]\n", ":1: name: ['a'] is not text or null"),
        ("rate: 1\n\tmode: slow\n", ":2: not valid YAML"),
        ("rate: 1\n---\nrate: 2\n", ":2: not valid YAML"),
        ("name: !!python/object:os.system x\n", ":1: not valid YAML"),
        ("inner:\n  path: x\n  size: 0\n", ":3: inner.size: 0 is not allowed"),
    ],
)
def test_mistakes_in_files_are_named_with_their_line(tmp_path: Path, text: str, message: str):
    file = yaml_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        outer("--config", file)
    assert f"{file}{message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_check_of_the_config_names_the_place_of_the_value(tmp_path: Path):
    file = yaml_file(tmp_path, "seed: 1\nadapter:\n  r: 0\n")
    with pytest.raises(ConfigError, match=r"my\.yaml:3: adapter\.r: 0 is not allowed"):
        sft("--config", file)
    with pytest.raises(ConfigError, match=r"^--adapter\.r: 0 is not allowed"):
        sft("--adapter.r", "0")


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path):
    (tmp_path / "my.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        outer("--config", str(tmp_path / "my.yaml"))


def test_missing_required_fields_name_their_flags():
    with pytest.raises(ConfigError, match="--model_name_or_path, --output_dir, --train_file"):
        parse(PPOConfig, [], prog="rlhf ppo")


def printed(capsys: pytest.CaptureFixture[str], config_class: type, *argv: str) -> str:
    with pytest.raises(SystemExit) as leave:
        parse(config_class, [*argv, "--print_config"], prog="tool")
    assert leave.value.code == 0
    return capsys.readouterr().out


def test_a_printed_config_reads_back_as_the_same(tmp_path: Path, capsys):
    argv = ["--learning_rate", "1e-7", "--seed", "5", "--adapter.target_modules", "1e5"]
    file = yaml_file(tmp_path, printed(capsys, SFTConfig, *REQUIRED, *argv))
    assert parse(SFTConfig, ["--config", file], prog="tool") == sft(*argv)


def test_a_printed_config_without_the_required_fields_is_a_template(tmp_path: Path, capsys):
    text = printed(capsys, SFTConfig)
    assert "# train_file:  (required)" in text
    assert parse(SFTConfig, ["--config", yaml_file(tmp_path, text), *REQUIRED], prog="x") == sft()


def test_a_printed_optional_group_is_commented_out(tmp_path: Path, capsys):
    text = printed(capsys, Outer)
    assert "# inner:\n" in text
    assert outer("--config", yaml_file(tmp_path, text)) == Outer()


def test_print_config_still_checks_what_is_given():
    with pytest.raises(ConfigError, match="--seed: -1 is not allowed"):
        parse(SFTConfig, [*REQUIRED, "--seed", "-1", "--print_config"], prog="tool")


def test_every_field_is_explained_in_help_and_printed_config(capsys):
    text = " ".join(printed(capsys, PPOConfig).replace("#", "").split())
    with pytest.raises(SystemExit) as leave:
        parse(PPOConfig, ["--help"], prog="rlhf ppo")
    assert leave.value.code == 0
    shown = capsys.readouterr().out
    for option in list_options(PPOConfig):
        assert option.help, f"{option.name} has no text under its field"
        assert option.help in text
        assert f"--{option.name} " in shown
        assert option.help in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 100
    assert "100 % at most" in " ".join(printed_help(capsys).split())


def printed_help(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        outer("--help")
    return capsys.readouterr().out


# -- one value or several -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--paths", "a"], Several(paths="a")),
        (["--paths", "a", "b c"], Several(paths=("a", "b c"))),
        (["--paths=a", "b"], Several(paths=("a", "b"))),
        (["--paths", "a", "--paths", "b"], Several(paths=("a", "b"))),
        (["--paths", "a", "b", "--rate", "2"], Several(paths=("a", "b"), rate=2)),
        (["--paths", "none"], Several()),
        (["--weights", "none"], Several()),
        (["--paths", "a", "none"], Several(paths=("a", "none"))),  # a folder of that name
        (["--trackers", "none"], Several(trackers="none")),
        (["--weights", "1"], Several(weights=1.0)),
        (["--weights", "-1e-5", "2", "-.5"], Several(weights=(-1e-5, 2.0, -0.5))),
        (["--scales", "3", "4", "5"], Several(scales=(3.0, 4.0, 5.0))),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_flag_takes_several_values_where_the_field_does(argv: list[str], expected: Several):
    found = several(*argv)
    assert found == expected
    assert type(found.paths) is type(expected.paths)
    assert type(found.weights) is type(expected.weights)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("paths: a\n", Several(paths="a")),
        ("paths: [a, b c]\n", Several(paths=("a", "b c"))),
        ("paths:\n- a\n- b\n", Several(paths=("a", "b"))),
        ("paths: [a]\n", Several(paths="a")),
        ("paths: [1e5, no, 007]\n", Several(paths=("1e5", "no", "007"))),
        ("paths:\n", Several()),
        ("weights: 2\n", Several(weights=2.0)),
        ("weights: [1, 1e-5, -.5]\n", Several(weights=(1.0, 1e-5, -0.5))),
    ],
)
def test_a_file_gives_one_value_or_a_list(tmp_path: Path, text: str, expected: Several):
    found = several("--config", yaml_file(tmp_path, text))
    assert found == expected
    assert not isinstance(found.paths, list)
    if isinstance(found.weights, tuple):
        assert {type(weight) for weight in found.weights} == {float}


def test_a_flag_replaces_the_files_list(tmp_path: Path):
    file = yaml_file(tmp_path, "paths: [a, b]\nweights: [1, 2]\n")
    assert several("--config", file, "--paths", "c", "--weights", "none") == Several(paths="c")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--paths"], "--paths: expected one argument"),
        (["--paths", "--rate", "1"], "--paths: expected one argument"),
        (["--weights", "x"], "--weights: 'x' is not a number, a list of numbers or null"),
        (["--weights", "1", "x"], "--weights: 'x' is not a number"),
        (["--weights", "1", "none"], "--weights: 'none' is not a number"),
        (["--weights", "1", "nan"], "--weights: nan is not allowed; give a finite number"),
        (["--rate", "1", "2"], "unrecognized arguments: 2"),
        (["--paths", "a", "--rate", "1", "b"], "unrecognized arguments: b"),
        (["--paths", "a", "-x"], "unrecognized arguments: -x"),
    ],
)
def test_mistakes_in_several_values_are_named(argv: list[str], message: str):
    with pytest.raises(ConfigError) as caught:
        several(*argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate: 1\npaths: []\n", ":2: paths: [] is not allowed; give text, a list of text or null"),
        ("paths: {a: b}\n", ":1: paths: {'a': 'b'} is not text, a list of text or null"),
        ("paths: [a, [b]]\n", ":1: paths: ['b'] is not text"),
        ("paths: [a, ~]\n", ":1: paths: null is not text"),
        ("trackers:\n", ":1: trackers: null is not text or a list of text"),
        ("weights: [1, x]\n", ":1: weights: 'x' is not a number"),
        ("weights: [1, '2']\n", ":1: weights: '2' is not a number"),
        ("weights: [1, true]\n", ":1: weights: True is not a number"),
        ("weights: [1, .inf]\n", ":1: weights: inf is not allowed"),
        ("weights: a b\n", ":1: weights: 'a b' is not a number, a list of numbers or null"),
        ("rate: [1, 2]\n", ":1: rate: [1, 2] is not a number"),
    ],
)
def test_mistakes_in_lists_are_named_with_their_line(tmp_path: Path, text: str, message: str):
    file = yaml_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        several("--config", file)
    assert f"{file}{message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_values_are_printed_and_read_back(tmp_path: Path, capsys):
    argv = ["--paths", "a, b", "no", "1e5", "x: y", "--weights", "1e-7", "2"]
    text = printed(capsys, Several, *argv)
    assert "scales: [1.0, 2.0]\n" in text
    assert several("--config", yaml_file(tmp_path, text)) == several(*argv)
    assert several("--config", yaml_file(tmp_path, printed(capsys, Several))) == Several()


def test_a_runs_own_config_file_reads_back(tmp_path: Path):
    config = several("--paths", "a", "b", "--weights", "1e-7", "2")
    text = yaml.safe_dump(asdict(config), sort_keys=False)  # as rlhf.runs writes it
    assert several("--config", yaml_file(tmp_path, text)) == config


def test_help_shows_where_several_values_are_taken(capsys):
    with pytest.raises(SystemExit):
        several("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "--paths TEXT ... Where. (default: none)" in shown
    assert "--weights NUMBER ... How much. (default: none)" in shown
    assert "--scales NUMBER ... How large. (default: 1.0 2.0)" in shown
    assert "--rate NUMBER How fast." in shown


def test_field_docs_are_inherited_and_overridden():
    @dataclass
    class Parent:
        a: int = 1
        """First
        line."""
        b: int = field(default=2)
        """Of the parent."""

    @dataclass
    class Child(Parent):
        b: int = 3
        """Of the child."""

    assert field_docs(Child) == {"a": "First line.", "b": "Of the child."}
    assert "r" in field_docs(AdapterConfig)


@pytest.mark.parametrize(
    "config_class",
    [SFTConfig, RewardConfig, PPOConfig, SampleConfig, GenerateConfig, EvaluationConfig],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_config_made_in_python_refuses_what_is_not_finite(config_class, value):
    options = {option.name: option for option in list_options(config_class)}
    given = {name: "x" for name, option in options.items() if option.required}
    if config_class is PPOConfig:
        given["reward_model"] = "x"
    numbers = [n for n, o in options.items() if o.base_type is float and "." not in n]
    assert "temperature" in numbers or "learning_rate" in numbers
    for name in numbers:
        with pytest.raises(ConfigError, match=rf"^{name}: {value} is not allowed"):
            config_class(**given | {name: value})


def test_each_of_several_numbers_must_be_finite():
    required = {"model_name_or_path": "b", "output_dir": "o", "train_file": "t"}
    with pytest.raises(ConfigError, match=r"^reward_weights: nan is not allowed; give a finite"):
        PPOConfig(**required, reward_model=("a", "b"), reward_weights=(1.0, float("nan")))
