"""Passwords: argon2id hashes; checking costs the same whether or not the person is known."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata

import argon2

from rlhf.errors import ConfigError

MIN_LENGTH = 10
MAX_LENGTH = 256
MEMORY_KIB = 32 * 1024
PASSES = 3
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


class Passwords:
    """Hashes and checks; blocks for about a tenth of a second, so not for the event loop."""

    def __init__(self, *, memory_kib: int = MEMORY_KIB, passes: int = PASSES) -> None:
        self._hasher = argon2.PasswordHasher(
            time_cost=passes, memory_cost=memory_kib, parallelism=1
        )
        self._nobody = self._hasher.hash(secrets.token_hex(16))

    def hash(self, password: str) -> str:
        """Give what is stored of a password."""
        return self._hasher.hash(_bytes(password))

    def check(self, password: str, stored: str | None) -> bool:
        """Say whether a password is right; None, for a person without one, takes as long."""
        try:
            self._hasher.verify(stored or self._nobody, _bytes(password))
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
        return stored is not None and len(password) <= MAX_LENGTH


def require_good(password: str, name: str) -> None:
    """Refuse a password that can be guessed.

    Raises:
        ConfigError: With what to do instead.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise ConfigError(f"the password must have {MIN_LENGTH} to {MAX_LENGTH} characters")
    if len(set(password)) < 5 or password.casefold() == name.casefold():
        raise ConfigError("the password is too easy to guess; --generate makes a good one")


def generate() -> str:
    """Make a random password that can be read out: four groups of five, 100 bits."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(4))


def device_mark(name_key: str, stored: str) -> str:
    """Give what a browser keeps of a login, so that guesses elsewhere don't lock it out.

    It can't be made without the stored hash, and a new password makes it void.
    """
    return hmac.new(stored.encode(), f"device\0{name_key}".encode(), hashlib.sha256).hexdigest()


def _bytes(password: str) -> bytes:
    """Spell a password the same on every keyboard."""
    return unicodedata.normalize("NFKC", password[: MAX_LENGTH + 1]).encode("utf-8", "replace")
