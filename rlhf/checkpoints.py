"""Folders that are whole or not there: written aside, synced, sealed by a manifest, renamed.

A reader accepts a folder only when its MANIFEST.json verifies (size and sha256 of every file), so
a run that is killed at any moment leaves the earlier checkpoint in force. Tensors are safetensors,
everything else is JSON; nothing here unpickles. Fingerprints say what a file or model *is*,
whatever it is called and however it is sharded.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "MANIFEST.json"
FORMAT_VERSION = 1

_CHUNK_BYTES = 4 * 2**20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LEFTOVER = re.compile(r"\.(tmp|del|old)-(?P<name>.+)-\d+")


# -- whole folders --------------------------------------------------------------------------------


def write_folder(
    path: str | Path, fill: Callable[[Path], None], identity: Mapping[str, Any]
) -> Path:
    """Write a folder so that readers see all of it or nothing.

    ``fill`` writes the files into an empty folder beside ``path``; they are synced, listed in the
    manifest and renamed to ``path``. A folder that is already there is replaced, and comes back by
    ``sweep`` if the process dies between the two renames. Concurrent writers of one ``path`` are
    kept apart by the lock of the run folder, not here.

    Args:
        path: Where the folder shall stand.
        fill: Called once with the empty folder to write into.
        identity: What the content belongs to (step, base fingerprint, ...); JSON values. A
            ``step`` entry must agree with a folder name ``step-N``.

    Returns:
        ``path``.

    Raises:
        CheckpointError: If the disk is full; what stood at ``path`` before still stands.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".tmp-{path.name}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        fill(temporary)
        _seal(temporary, identity)
        _replace(temporary, path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno not in _NO_ROOM:
            raise
        free = shutil.disk_usage(path.parent).free / 1e6
        raise CheckpointError(
            f"{path}: not written: {error.strerror} ({free:.0f} MB free); free some space, "
            "earlier checkpoints are untouched"
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return path


def verify_folder(path: str | Path) -> dict[str, Any]:
    """Check every file of a folder against its manifest.

    Files that the manifest does not list are ignored; nobody should load them.

    Returns:
        The manifest: ``format``, ``identity`` and ``files`` (name to ``size`` and ``sha256``).

    Raises:
        CheckpointError: Naming the file that is missing, cut off, changed or of another step.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    for name, entry in manifest["files"].items():
        _verify_file(path / name, entry)
    step = manifest["identity"].get("step")
    named = _step_of(path)
    if step is not None and named is not None and step != named:
        raise CheckpointError(f"{path}: holds step {step}, not {named}; it was copied or renamed")
    return manifest


def newest_valid(parent: str | Path, prefix: str = "step-") -> Path | None:
    """Find the newest folder ``<prefix>N`` that verifies, skipping broken ones.

    "Newest" is the largest N; file times are never asked.

    Returns:
        The folder, or None where there is none at all.

    Raises:
        CheckpointError: If there are some and every one is broken.
    """
    broken: list[str] = []
    for path in reversed(_numbered(Path(parent), prefix)):
        try:
            verify_folder(path)
        except CheckpointError as error:
            broken.append(str(error))
        else:
            return path
    if broken:
        raise CheckpointError(
            f"{parent}: no checkpoint is intact ({'; '.join(broken)}); restore one or start anew"
        )
    return None


def keep_last(parent: str | Path, count: int, prefix: str = "step-") -> list[Path]:
    """Delete all but the newest ``count`` folders ``<prefix>N``; give back what is left."""
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    folders = _numbered(Path(parent), prefix)
    for path in folders[:-count]:
        delete_folder(path)
    return folders[-count:]


def delete_folder(path: str | Path) -> None:
    """Delete a folder in such a way that no reader ever sees half of it."""
    path = Path(path)
    doomed = path.parent / f".del-{path.name}-{os.getpid()}"
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def sweep(parent: str | Path) -> list[str]:
    """Remove what killed writers left in ``parent``; call it under the run's lock.

    A folder that was moved aside for its successor returns to its place if the successor never
    came.

    Returns:
        The names removed or restored.
    """
    parent = Path(parent)
    found = []
    for path in sorted(parent.glob(".*")):
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or not path.is_dir():
            continue
        found.append(path.name)
        home = parent / match["name"]
        if match[1] == "old" and not home.exists():
            path.rename(home)
        else:
            shutil.rmtree(path)
    return found


def write_text(path: str | Path, text: str) -> None:
    """Write a text file that readers see whole: aside, synced, renamed."""
    path = Path(path)
    temporary = path.parent / f".tmp-{path.name}-{os.getpid()}"
    try:
        temporary.write_text(text, encoding="utf-8")
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_json(path: str | Path, value: object) -> None:
    """Write a JSON file that readers see whole; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


# -- tensors --------------------------------------------------------------------------------------


def save_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write tensors as safetensors, with JSON metadata in the file's header.

    Tensors may live on any device and may share memory; each is stored whole.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    seen: set[int] = set()
    for name, tensor in whole.items():
        storage = tensor.untyped_storage().data_ptr()
        if storage in seen:
            whole[name] = tensor.clone()
        seen.add(storage)
    header = {"json": json.dumps(dict(metadata or {}), ensure_ascii=False)}
    try:
        save_file(whole, str(path), metadata=header)
    except SafetensorError as error:  # it hides the errno in its text
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote: tensors on the CPU, and the metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("json", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


# -- fingerprints ---------------------------------------------------------------------------------


def fingerprint_file(path: str | Path) -> str:
    """Give the sha256 of a file's bytes; of a folder, of its files' names and bytes."""
    path = Path(path)
    if path.is_dir():
        digest = hashlib.sha256()
        for inner in _files(path):
            _feed(digest, inner.relative_to(path).as_posix(), fingerprint_file(inner))
        return digest.hexdigest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error


def fingerprint_model(path: str | Path) -> str:
    """Give the identity of a transformers checkpoint: its weights, however they are sharded.

    It is the sha256 over (name, dtype, shape, bytes) of every tensor in order of name, read in
    small pieces, so memory stays bounded. Configuration and tokenizer do not enter. A checkpoint
    in pickle files is identified by the bytes of those files, without opening them.

    Raises:
        CheckpointError: If the folder holds no weights or a shard is missing or broken.
    """
    path = Path(path)
    shards = _shards(path)
    digest = hashlib.sha256()
    if not shards:
        pickles = sorted(path.glob("pytorch_model*.bin"))
        if not pickles:
            raise CheckpointError(f"{path}: no weights here (model.safetensors is missing)")
        for pickle in pickles:
            _feed(digest, pickle.name, fingerprint_file(pickle))
        return digest.hexdigest()
    tensors: dict[str, tuple[Path, int, int, str]] = {}
    for shard in shards:
        tensors.update(_safetensors_index(shard))
    for name in sorted(tensors):
        shard, start, size, kind = tensors[name]
        _feed(digest, name, kind)
        with shard.open("rb") as file:
            for chunk in _chunks(file, start, size):
                digest.update(chunk)
    return digest.hexdigest()


def fingerprint_tokenizer(path: str | Path) -> str:
    """Give the identity of a checkpoint's tokenizer: what turns text into ids and back.

    Vocabulary, merges, normalisation, added and special tokens and the chat template enter; how
    the files are laid out, and settings such as padding and truncation, do not.

    Raises:
        CheckpointError: If the folder holds no tokenizer.
    """
    path = Path(path)
    parts = dict(_tokenizer_parts(path))
    if not any(name in parts for name in ("tokenizer.json", *_VOCABULARIES)) and not any(
        name.endswith(".model") for name in parts
    ):
        raise CheckpointError(f"{path}: no tokenizer here (tokenizer.json is missing)")
    digest = hashlib.sha256()
    for name in sorted(parts):
        _feed(digest, name, parts[name])
    return digest.hexdigest()


# -- inside ---------------------------------------------------------------------------------------


def _seal(folder: Path, identity: Mapping[str, Any]) -> None:
    """Sync every file, write the manifest last, sync the folders."""
    files = {}
    for file in _files(folder):
        _sync(file)
        files[file.relative_to(folder).as_posix()] = {
            "size": file.stat().st_size,
            "sha256": fingerprint_file(file),
        }
    body = {"format": FORMAT_VERSION, "identity": dict(identity), "files": files}
    manifest = folder / MANIFEST
    manifest.write_text(
        json.dumps(body | {"sha256": _checksum(body)}, indent=2, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
    _sync(manifest)
    for inner in folder.rglob("*"):
        if inner.is_dir():
            _sync(inner)
    _sync(folder)


def _replace(temporary: Path, path: Path) -> None:
    old = path.parent / f".old-{path.name}-{os.getpid()}"
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
        body = {key: manifest[key] for key in ("format", "identity", "files")}
        intact = manifest["sha256"] == _checksum(body)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; the folder is not a whole checkpoint") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{file}: not readable; the folder is damaged") from None
    if not intact:
        raise CheckpointError(f"{file}: was changed after it was written")
    if body["format"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{file}: format {body['format']!r}, but this version reads {FORMAT_VERSION}; "
            "use the version that wrote it"
        )
    return body


def _verify_file(file: Path, entry: Mapping[str, Any]) -> None:
    try:
        size = file.stat().st_size
    except OSError:
        raise CheckpointError(f"{file}: missing, though the manifest lists it") from None
    if size != entry["size"]:
        raise CheckpointError(f"{file}: {size} bytes, but the manifest says {entry['size']}")
    if fingerprint_file(file) != entry["sha256"]:
        raise CheckpointError(f"{file}: its content is not what was written (sha256 differs)")


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _numbered(parent: Path, prefix: str) -> list[Path]:
    """List the folders ``<prefix>N`` in order of N."""
    folders = [
        path
        for path in parent.glob(f"{prefix}*")
        if path.is_dir() and path.name[len(prefix) :].isdecimal()
    ]
    return sorted(folders, key=lambda path: int(path.name[len(prefix) :]))


def _step_of(path: Path) -> int | None:
    match = re.fullmatch(r"step-(\d+)", path.name)
    return int(match[1]) if match else None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _feed(digest: hashlib._Hash, *parts: str) -> None:
    """Add parts with their lengths, so that no two lists of parts give the same bytes."""
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)


def _shards(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            raise CheckpointError(f"{index}: not a readable index of shards") from None
        return [path / name for name in sorted(names)]
    single = path / "model.safetensors"
    return [single] if single.is_file() else sorted(path.glob("*.safetensors"))


def _safetensors_index(shard: Path) -> Iterator[tuple[str, tuple[Path, int, int, str]]]:
    """Yield (tensor name, (shard, first byte, bytes, "dtype[shape]")) from a file's header."""
    try:
        with shard.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > shard.stat().st_size:
                raise ValueError("header longer than the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            kind = f"{entry['dtype']}{entry['shape']}"
            if 8 + length + end > shard.stat().st_size:
                raise ValueError("the file is cut off")
            yield name, (shard, 8 + length + start, end - start, kind)
    except FileNotFoundError:
        raise CheckpointError(f"{shard}: missing, though the index lists it") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{shard}: not a readable safetensors file ({error})") from None


def _chunks(file: Any, start: int, size: int) -> Iterator[bytes]:
    file.seek(start)
    while size > 0:
        chunk = file.read(min(size, _CHUNK_BYTES))
        if not chunk:
            raise CheckpointError(f"{file.name}: the file is cut off")
        size -= len(chunk)
        yield chunk


_VOCABULARIES = ("vocab.json", "vocab.txt", "merges.txt")
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


def _tokenizer_parts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (part, canonical text) for everything that decides how text becomes ids."""
    fast = _json_object(path / "tokenizer.json")
    if fast:
        fast.pop("truncation", None)
        fast.pop("padding", None)
        yield "tokenizer.json", json.dumps(fast, sort_keys=True)
    else:
        for file in sorted([*path.glob("*.model"), *(path / name for name in _VOCABULARIES)]):
            if file.is_file():
                yield file.name, fingerprint_file(file)
    settings = _json_object(path / "special_tokens_map.json")
    settings |= _json_object(path / "tokenizer_config.json")
    for name in _SPECIAL:
        token = settings.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if content is not None:
            yield name, str(content)
    template = settings.get("chat_template")
    with contextlib.suppress(FileNotFoundError):
        template = (path / "chat_template.jinja").read_text(encoding="utf-8")
    if template is not None:
        yield "chat_template", json.dumps(template, sort_keys=True)


def _json_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise CheckpointError(f"{file}: not readable JSON") from None
    return value if isinstance(value, dict) else {}
