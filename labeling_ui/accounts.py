"""Account commands of the command line: who may log in, and what the pages offer them."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from labeling_ui.passwords import Passwords, generate, require_good
from rlhf.errors import ConfigError, StoreError
from rlhf.store import Account, RankingStore, Settings
from rlhf.store.people import ROLES

_LONGEST_GUIDELINES = 200_000
Action = Callable[[RankingStore, argparse.Namespace], str]
Option = tuple[Sequence[str], dict[str, Any]]

_NAME: Option = (("name",), {"metavar": "NAME", "help": "the person's name, as at login"})
_ROLE: Option = (
    ("--role",),
    {
        "choices": ROLES,
        "required": True,
        "help": "annotators rank; reviewers also decide where people disagree; admins also see "
        "the figures and everybody's names, pause people and export",
    },
)
_STDIN: Option = (
    ("--password-stdin",),
    {"action": "store_true", "help": "read the password from one line of standard input"},
)
_GENERATE: Option = (
    ("--generate",),
    {"action": "store_true", "help": "make a random password and print it once"},
)


@dataclass(frozen=True, slots=True)
class Command:
    """A command over a store: what it takes and does; the text it gives is printed."""

    run: Action
    about: str
    options: tuple[Option, ...] = ()


def add_user(store: RankingStore, options: argparse.Namespace) -> str:
    """Make an account."""
    if store.people.account(options.name) is not None:
        raise StoreError(f"{options.name!r} has an account already; see set-password and set-role")
    password = _read_password(options)
    account = store.people.add(options.name, options.role, Passwords().hash(password))
    return f"{account.name} may log in as {account.role}\n{_told(password, options)}"


def set_password(store: RankingStore, options: argparse.Namespace) -> str:
    """Change a password."""
    account = _account(store, options)
    password = _read_password(options)
    store.people.set_password_hash(account.name, Passwords().hash(password))
    return f"{account.name} has a new password and is logged out\n{_told(password, options)}"


def set_role(store: RankingStore, options: argparse.Namespace) -> str:
    """Change a role."""
    account = _account(store, options)
    if account.role == "admin" != options.role and _is_last_admin(store, account):
        raise StoreError(f"{account.name!r} is the only admin; make another one first")
    store.people.set_role(account.name, options.role)
    return f"{account.name} is {options.role}\n"


def pause_user(store: RankingStore, options: argparse.Namespace) -> str:
    """Give a person no more tasks."""
    return _set_state(store, options, "paused", "gets no more tasks")


def resume_user(store: RankingStore, options: argparse.Namespace) -> str:
    """Let a paused or disabled person go on."""
    return _set_state(store, options, "active", "may log in and gets tasks")


def disable_user(store: RankingStore, options: argparse.Namespace) -> str:
    """Log a person out and let nobody in under that name."""
    return _set_state(store, options, "disabled", "can't log in any more")


def erase_user(store: RankingStore, options: argparse.Namespace) -> str:
    """Forget who a person was."""
    if not options.yes:
        if not sys.stdin.isatty():
            raise ConfigError("erase-user can't be undone; confirm it with --yes")
        sys.stderr.write("This can't be undone. Type the name again to erase it: ")
        if sys.stdin.readline().strip() != options.name.strip():
            raise ConfigError("the names differ; nothing was erased")
    pseudonym = store.people.erase(options.name)
    return f"the name is gone; its rankings stay under {pseudonym}\n"


def list_users(store: RankingStore, _options: argparse.Namespace) -> str:
    """List the accounts."""
    accounts = store.people.accounts()
    if not accounts:
        return "no accounts: the page is for one person on this machine\n"
    rows = [("name", "role", "state", "pseudonym")]
    rows += [(one.name, one.role, one.state, one.pseudonym) for one in accounts]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"


def set_guidelines(store: RankingStore, options: argparse.Namespace) -> str:
    """Read the guidelines that annotators see from a Markdown file."""
    try:
        text = Path(options.file).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{options.file}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{options.file}: is not UTF-8; save it as UTF-8") from None
    if len(text) > _LONGEST_GUIDELINES:
        raise ConfigError(f"{options.file}: longer than {_LONGEST_GUIDELINES} characters")
    settings = store.change_settings(guidelines=text)
    return f"guidelines version {settings.guidelines_version}\n"


def change_settings(store: RankingStore, options: argparse.Namespace) -> str:
    """Change settings, or only show them."""
    changes = dict(map(_parse_setting, options.changes))
    settings = store.change_settings(**changes) if changes else store.settings()
    shown = asdict(settings)
    shown["guidelines"] = f"{len(settings.guidelines)} characters"
    width = max(map(len, shown))
    return "".join(f"{name:<{width}}  {json.dumps(value)}\n" for name, value in shown.items())


COMMANDS = {
    "add-user": Command(add_user, "make an account", (_NAME, _ROLE, _STDIN, _GENERATE)),
    "set-password": Command(set_password, "change a password", (_NAME, _STDIN, _GENERATE)),
    "set-role": Command(set_role, "change what a person may do", (_NAME, _ROLE)),
    "pause-user": Command(pause_user, "give a person no more tasks", (_NAME,)),
    "resume-user": Command(resume_user, "let a paused or disabled person go on", (_NAME,)),
    "disable-user": Command(disable_user, "log a person out for good", (_NAME,)),
    "erase-user": Command(
        erase_user,
        "forget a person's name; what they ranked stays, under a pseudonym",
        (_NAME, (("--yes",), {"action": "store_true", "help": "don't ask"})),
    ),
    "list-users": Command(list_users, "list the accounts"),
    "guidelines": Command(
        set_guidelines,
        "show annotators these guidelines",
        ((("file",), {"metavar": "FILE", "help": "Markdown, UTF-8"}),),
    ),
    "settings": Command(
        change_settings,
        "show or change how tasks are handed out",
        (
            (
                ("changes",),
                {
                    "nargs": "*",
                    "metavar": "NAME=VALUE",
                    "help": "numbers, true or false, or labels with commas between them",
                },
            ),
        ),
    ),
}


def _account(store: RankingStore, options: argparse.Namespace) -> Account:
    account = store.people.account(options.name)
    if account is None:
        raise StoreError(f"{options.name!r} has no account; list-users names those that are there")
    return account


def _set_state(store: RankingStore, options: argparse.Namespace, state: str, means: str) -> str:
    account = _account(store, options)
    if state == "disabled" and _is_last_admin(store, account):
        raise StoreError(f"{account.name!r} is the only admin; make another one first")
    store.people.set_state(account.name, state)
    return f"{account.name} {means}\n"


def _is_last_admin(store: RankingStore, account: Account) -> bool:
    admins = [
        one.annotator_id
        for one in store.people.accounts()
        if one.role == "admin" and one.state != "disabled"
    ]
    return admins == [account.annotator_id]


def _read_password(options: argparse.Namespace) -> str:
    """Get a new password by the way asked for.

    Raises:
        ConfigError: If there is none, or it is too easy to guess.
    """
    if options.generate:
        return generate()
    if options.password_stdin:
        password = _read_line()
    elif sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            raise ConfigError("the passwords differ; nothing was changed")
    else:
        raise ConfigError("no terminal to ask for a password; use --password-stdin or --generate")
    require_good(password, options.name)
    return password


def _read_line() -> str:
    """Read a line of standard input as UTF-8, whatever the locale would make of it."""
    try:
        return sys.stdin.buffer.readline().decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError("--password-stdin: is not UTF-8; send it as UTF-8") from None


def _told(password: str, options: argparse.Namespace) -> str:
    return f"password: {password}\n" if options.generate else ""


def _parse_setting(change: str) -> tuple[str, Any]:
    """Read ``name=value``; the store checks whether the value makes sense.

    Raises:
        ConfigError: If there is no such setting, or it is not a value of its kind.
    """
    name, separator, text = change.partition("=")
    kinds = {field.name: type(field.default) for field in fields(Settings)}
    for other in ("guidelines", "guidelines_version"):
        kinds.pop(other)
    if not separator or name not in kinds:
        raise ConfigError(f"{change[:80]!r} is not NAME=VALUE of {', '.join(kinds)}")
    if kinds[name] is tuple:
        return name, tuple(label.strip() for label in text.split(",") if label.strip())
    try:
        value = json.loads(text)
    except ValueError:
        raise ConfigError(f"{name}: {text[:80]!r} is no number, true or false") from None
    wanted = (int, float) if kinds[name] is float else (kinds[name],)
    if type(value) not in wanted:
        raise ConfigError(f"{name}: {text[:80]!r} is not of its kind ({kinds[name].__name__})")
    return name, value
