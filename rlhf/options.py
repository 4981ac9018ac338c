"""Flags and YAML files in, one frozen config dataclass out.

Every field of the dataclass is a flag (``--kl_coef 0.1``, ``--adapter.r 16``; dashes serve as
underscores) and a key of the file given by ``--config``. Flags win over the file, the file over
the defaults. argparse writes the help, pydantic checks types. YAML is read as version 1.2 means
it: ``1e-5`` is a number, ``no`` is text. Every mistake is a ``ConfigError`` of one line that names
the flag as typed or ``file:line``.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import math
import re
import shutil
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, cast, get_args, get_origin
from typing import get_type_hints as type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from rlhf.errors import ConfigError

Config = TypeVar("Config")

_WIDTH = 96
_LISTED = 4
_NULL = ("none", "null")
_LISTS = {str: "a list of text", float: "a list of numbers", int: "a list of whole numbers"}
_SWITCHES = ("config", "print_config", "help")


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One setting: a field of the config or of one of its groups."""

    name: str
    """As typed, with the group before a dot: ``adapter.r``."""
    type: Any
    help: str
    required: bool
    default: Any = None

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values allowed; empty when the type alone decides."""
        return get_args(self.base_type) if get_origin(self.base_type) is Literal else ()

    @property
    def base_type(self) -> Any:
        """The type of one value: without ``| None`` and ``| tuple[..., ...]``."""
        kinds = [kind for kind in _alternatives(self.type) if get_origin(kind) is not tuple]
        return next((kind for kind in kinds if kind is not type(None)), self.type)

    @property
    def nullable(self) -> bool:
        """Whether null is a value of its own."""
        return type(None) in _alternatives(self.type)

    @property
    def several(self) -> bool:
        """Whether several values can be given."""
        return any(get_origin(kind) is tuple for kind in _alternatives(self.type))

    @property
    def item(self) -> Option:
        """The same setting as one of several values sees it."""
        return dataclasses.replace(self, type=self.base_type)

    @property
    def expected(self) -> str:
        """What to give, for messages."""
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        kinds = [names[self.base_type]]
        if self.several:
            kinds.append(_LISTS[self.base_type])
        if self.nullable:
            kinds.append("null")
        return " or ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1])))


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """A value that the user gave, and where."""

    value: Any
    place: str
    """``--flag``, or ``file:line: key``."""


def parse(
    config_class: type[Config],
    argv: Sequence[str],
    *,
    prog: str,
    description: str | None = None,
) -> Config:
    """Read a config from flags and, with ``--config``, a YAML file.

    ``--help`` and ``--print_config`` write to standard output and raise ``SystemExit(0)``.

    Args:
        config_class: Frozen dataclass with text, numbers, booleans, literals, each perhaps
            optional or several (``str | tuple[str, ...]``), and groups (dataclasses) of the same.
        argv: Arguments without the program's name.
        prog: Name of the program or command, for messages.
        description: Heads the help; default: the class docstring.

    Raises:
        ConfigError: For any mistake in flags, file or values.
    """
    options = {option.name: option for option in list_options(config_class)}
    parser = _Parser(config_class, options, prog=prog, description=description)
    flags = vars(parser.parse_args(_normalise(argv, options, prog)))
    given: dict[str, Given] = {}
    if flags.get("config") is not None:
        given |= read_yaml(flags["config"], config_class)
    given |= {
        name: Given(_from_flag(options[name], text, f"--{name}"), f"--{name}")
        for name, text in flags.items()
        if name in options
    }
    if flags.get("print_config"):
        if not _missing(config_class, given):
            _build(config_class, given, prog)
        sys.stdout.write(to_yaml(config_class, {name: item.value for name, item in given.items()}))
        raise SystemExit(0)
    return _build(config_class, given, prog)


def list_options(config_class: type[Any], prefix: str = "") -> Iterator[Option]:
    """Yield every setting of a config dataclass, groups included, in order of the fields."""
    helps = field_docs(config_class)
    hints = type_hints(config_class)
    for field in dataclasses.fields(config_class):
        inner = _without_none(hints[field.name])
        name = prefix + field.name
        if dataclasses.is_dataclass(inner):
            yield from list_options(cast("type[Any]", inner), f"{name}.")
            continue
        required = field.default is dataclasses.MISSING
        default = None if required else field.default
        yield Option(name, hints[field.name], helps.get(field.name, ""), required, default)


def field_docs(config_class: type[Any]) -> dict[str, str]:
    """Give the text under each field, own and inherited, as one line each."""
    docs: dict[str, str] = {}
    for owner in reversed(config_class.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        body = cast(
            "ast.ClassDef", ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        ).body
        for statement, following in pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs


# -- flags ----------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Writes the help and splits the arguments; a mistake is a ConfigError."""

    def __init__(
        self,
        config_class: type[Any],
        options: Mapping[str, Option],
        *,
        prog: str,
        description: str | None,
    ) -> None:
        width = min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)
        super().__init__(
            prog=prog,
            usage=f"{prog} [--config FILE] [--OPTION VALUE ...]",
            description=description or inspect.getdoc(config_class),
            epilog="Flags win over the file. 'none' unsets an option whose default is none.",
            allow_abbrev=False,
            add_help=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=lambda prog: argparse.HelpFormatter(
                prog, max_help_position=26, width=width
            ),
        )
        self._add_options(config_class, options)
        files = self.add_argument_group("files and help")
        files.add_argument("--config", metavar="FILE", help="YAML file with the same names")
        files.add_argument(
            "--print_config",
            action="store_true",
            help="print all settings as a YAML file, and exit",
        )
        files.add_argument("-h", "--help", action="help", help="show this help, and exit")

    def _add_options(self, config_class: type[Any], options: Mapping[str, Option]) -> None:
        """Add the flags: those that must be given first, then group by group."""
        titles = dict(_groups(config_class))
        groups: dict[str, argparse._ArgumentGroup] = {}
        for option in sorted(options.values(), key=lambda option: not _is_needed(option)):
            name = option.name.rpartition(".")[0]
            title = (
                "required" if _is_needed(option) else f"options of {name}" if name else "options"
            )
            if title not in groups:
                groups[title] = self.add_argument_group(title, titles.get(name))
            groups[title].add_argument(f"--{option.name}", **_argument(option))

    def error(self, message: str) -> NoReturn:
        found = re.fullmatch(r"argument (?:-\w/)?(--\S+): (.*)", message)
        if found is not None:
            raise ConfigError(f"{found[1]}: {found[2]}; see {self.prog} --help")
        raise ConfigError(f"{message}; see {self.prog} --help")


def _groups(config_class: type[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name, what it is) of every group of settings."""
    helps = field_docs(config_class)
    for name, hint in type_hints(config_class).items():
        inner = _without_none(hint)
        if dataclasses.is_dataclass(inner):
            yield prefix + name, helps.get(name, "")
            yield from _groups(cast("type[Any]", inner), f"{prefix}{name}.")


def _is_needed(option: Option) -> bool:
    return option.required and "." not in option.name


def _argument(option: Option) -> dict[str, Any]:
    default = "required" if option.required else f"default: {_shown(option.default)}"
    settings: dict[str, Any] = {"help": f"{option.help} ({default})".replace("%", "%%")}
    if option.base_type is bool:
        return settings | {"nargs": "?", "const": "true", "metavar": "true|false"}
    names = {int: "INT", float: "NUMBER", str: "TEXT"}
    metavar = "|".join(map(str, option.choices)) or names.get(option.base_type, "VALUE")
    if option.several:  # ``_normalise`` repeats the flag before each value
        return settings | {"metavar": f"{metavar} ...", "action": "append"}
    return settings | {"metavar": metavar}


def _normalise(argv: Sequence[str], options: Mapping[str, Option], prog: str) -> list[str]:
    """Write flags as the fields are named, and refuse those that name no field.

    A negative number after a flag is joined to it, since argparse takes ``-1e-5`` for a flag; the
    second and later values of a flag that takes several get a flag of their own.
    """
    known = (*options, *_SWITCHES)
    normal: list[str] = []
    name = ""
    for token in argv:
        if not token.startswith("--") or token == "--":
            number = re.fullmatch(r"-[.\d]\S*", token) is not None
            wants_value = bool(normal) and normal[-1] == f"--{name}"
            more = name in options and options[name].several and not wants_value
            if wants_value and number:
                normal[-1] += f"={token}"
            elif more and (number or not token.startswith("-")):
                normal.append(f"--{name}={token}")
            else:
                normal.append(token)
            continue
        typed, equals, value = token.partition("=")
        name = typed[2:].replace("-", "_")
        if name not in known:
            raise ConfigError(
                f"{typed}: unknown option{_suggestion(name, known, '--')}; see {prog} --help"
            )
        normal.append(f"--{name}{equals}{value}")
    return normal


def _from_flag(option: Option, given: str | list[str], place: str) -> Any:
    """Turn what stands after a flag into a value: one, or a tuple of several."""
    texts = [given] if isinstance(given, str) else given
    if len(texts) == 1:
        return _from_text(option, texts[0], place)
    return tuple(_from_text(option.item, text, place) for text in texts)


def _from_text(option: Option, text: str, place: str) -> Any:
    """Turn one text into a value of the option's type."""
    if option.nullable and text.lower() in _NULL:
        return None
    if option.base_type is str:
        return text
    if option.choices:
        return _checked(option, text, place)
    try:
        value = TypeAdapter(option.base_type).validate_strings(text.strip())
    except ValidationError:
        raise _wrong_type(option, text, place) from None
    return _checked(option, value, place)


def _checked(option: Option, value: Any, place: str) -> Any:
    try:
        value = TypeAdapter(option.type).validate_python(value, strict=True)
    except ValidationError:
        raise _wrong_type(option, value, place) from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{place}: {value!r} is not allowed; give a finite number")
    return value


def _wrong_type(option: Option, value: Any, place: str) -> ConfigError:
    close = get_close_matches(str(value), map(str, option.choices), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    shown = "null" if value is None else repr(value)
    return ConfigError(f"{place}: {shown} is not {option.expected}{hint}")


# -- YAML -----------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema and nothing else."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Loader.add_constructor(
    "tag:yaml.org,2002:float",
    lambda _, node: float(re.sub(r"\.(inf|nan)", r"\1", node.value.lower())),
)


def read_yaml(path: str | Path, config_class: type[Any]) -> dict[str, Given]:
    """Read a YAML file of settings: option name to the value given.

    Raises:
        ConfigError: Naming ``file:line`` and the key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"--config: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8; save it as UTF-8") from None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        return {} if root is None else dict(_settings(root, config_class, str(path), loader))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML ({error.problem})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from None


def _settings(
    node: yaml.Node, config_class: type[Any], path: str, loader: _Loader, prefix: str = ""
) -> Iterator[tuple[str, Given]]:
    """Walk one mapping of the file against the fields of one dataclass."""
    hints = type_hints(config_class)
    options = {option.name: option for option in list_options(config_class, prefix)}
    known = [prefix + field.name for field in dataclasses.fields(config_class)]
    if not isinstance(node, yaml.MappingNode):
        where = f"{path}:{node.start_mark.line + 1}"
        inside = f"{prefix[:-1]}: " if prefix else ""
        raise ConfigError(f"{where}: {inside}expected settings as 'name: value' lines")
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        name = prefix + str(key_node.value if isinstance(key_node, yaml.ScalarNode) else "?")
        place = f"{path}:{line}: {name}"
        if name in seen:
            raise ConfigError(f"{place}: is given twice (first in line {seen[name]}); keep one")
        if name not in known:
            raise ConfigError(f"{path}:{line}: unknown key {name!r}{_suggestion(name, known)}")
        seen[name] = line
        inner = _without_none(hints[name.removeprefix(prefix)])
        if dataclasses.is_dataclass(inner):
            group = cast("type[Any]", inner)
            yield from _settings(value_node, group, path, loader, f"{name}.")
        else:
            yield name, Given(_from_node(options[name], value_node, place, loader), place)


def _from_node(option: Option, node: yaml.Node, place: str, loader: _Loader) -> Any:
    if option.several and isinstance(node, yaml.SequenceNode):
        if not node.value:
            raise ConfigError(f"{place}: [] is not allowed; give {option.expected}")
        values = [_from_node(option.item, item, place, loader) for item in node.value]
        return values[0] if len(values) == 1 else tuple(values)
    value = loader.construct_object(node, deep=True)
    plain = isinstance(node, yaml.ScalarNode) and value is not None
    if plain and (option.base_type is str or option.choices):
        return _checked(option, node.value, place)  # text as written, were it 1e5 or true
    return _checked(option, value, place)


def to_yaml(config_class: type[Any], values: Mapping[str, Any]) -> str:
    """Write a commented YAML file of all settings; ``values`` replace the defaults.

    A required setting without a value stands commented out.
    """
    lines: list[str] = []
    titles = dict(_groups(config_class))
    unused = tuple(f"{name}." for name in _unused_groups(config_class, values))
    open_groups: list[str] = []
    for option in list_options(config_class):
        *groups, name = option.name.split(".")
        off = "# " if option.name.startswith(unused) else ""
        for depth, group in enumerate(groups):
            if open_groups[: depth + 1] != groups[: depth + 1]:
                indent = off + "  " * depth
                title = titles[".".join(groups[: depth + 1])]
                lines += ["", *_comment(title, indent), f"{indent}{group}:"]
        open_groups = groups
        indent = off + "  " * len(groups)
        lines += _comment(option.help, indent)
        if option.required and option.name not in values:
            lines.append(f"{indent}# {name}:  (required)")
        else:
            lines.append(f"{indent}{name}: {_scalar(values.get(option.name, option.default))}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
    )


def _scalar(value: Any) -> str:
    text: str = yaml.safe_dump(value, width=10**6, allow_unicode=True, default_flow_style=True)
    return text.removesuffix("\n").removesuffix("\n...")


# -- building -------------------------------------------------------------------------------------


def _missing(config_class: type[Any], given: Mapping[str, Given]) -> list[str]:
    """List the required settings without a value; those of an unused optional group don't count."""
    unused = tuple(f"{name}." for name in _unused_groups(config_class, given))
    return [
        option.name
        for option in list_options(config_class)
        if option.required and option.name not in given and not option.name.startswith(unused)
    ]


def _unused_groups(
    config_class: type[Any], given: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """Yield the optional groups of which nothing is given: they stay None."""
    for name, hint in type_hints(config_class).items():
        inner = _without_none(hint)
        if not dataclasses.is_dataclass(inner):
            continue
        group = prefix + name
        if inner is not hint and not any(item.startswith(f"{group}.") for item in given):
            yield group
        else:
            yield from _unused_groups(cast("type[Any]", inner), given, f"{group}.")


def _build(config_class: type[Config], given: Mapping[str, Given], prog: str) -> Config:
    missing = _missing(config_class, given)
    if missing:
        listed = ", ".join(f"--{name}" for name in missing[:_LISTED])
        if len(missing) > _LISTED:
            listed += f" and {len(missing) - _LISTED} more"
        raise ConfigError(f"missing: {listed}; give the flag or a --config file, see {prog} --help")
    return _construct(config_class, given, "")


def _construct(config_class: type[Config], given: Mapping[str, Given], prefix: str) -> Config:
    arguments: dict[str, Any] = {}
    hints = type_hints(config_class)
    for field in dataclasses.fields(cast("Any", config_class)):
        name = prefix + field.name
        inner = _without_none(hints[field.name])
        if dataclasses.is_dataclass(inner):
            if any(item.startswith(f"{name}.") for item in given):
                arguments[field.name] = _construct(cast("type[Any]", inner), given, f"{name}.")
        elif name in given:
            arguments[field.name] = given[name].value
    try:
        return config_class(**arguments)
    except ConfigError as error:
        raise ConfigError(_placed(str(error), given, prefix)) from None


def _placed(message: str, given: Mapping[str, Given], prefix: str) -> str:
    """Replace the field name that heads a config's own message by the place it was given."""
    name, colon, rest = message.partition(":")
    parent = prefix[:-1].rpartition(".")[0]
    for full in (prefix + name, f"{parent}.{name}" if parent else name):
        if full in given:
            return f"{given[full].place}{colon}{rest}"
    return message if name.startswith(prefix) else prefix + message


# -- small things ---------------------------------------------------------------------------------


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union; of anything else, itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _without_none(hint: Any) -> Any:
    rest = [item for item in _alternatives(hint) if item is not type(None)]
    return rest[0] if len(rest) == 1 else hint


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return " ".join(map(_shown, value))
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def _suggestion(name: str, known: Sequence[str], mark: str = "'") -> str:
    """Give "; did you mean ...?" for the likeliest of the known names, if any is likely."""
    close = get_close_matches(name, known, n=1)
    close += [option for option in known if option.startswith(name) or name in option.split(".")]
    return f"; did you mean {mark}{close[0]}{mark.strip('-')}?" if close else ""
