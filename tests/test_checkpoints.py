"""Whole folders: every kill, every damage; tensors; fingerprints."""

import contextlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlhf import checkpoints
from rlhf.checkpoints import (
    MANIFEST,
    delete_folder,
    fingerprint_file,
    fingerprint_model,
    fingerprint_tokenizer,
    keep_last,
    load_tensors,
    newest_valid,
    save_tensors,
    sweep,
    verify_folder,
    write_folder,
    write_json,
)
from rlhf.errors import CheckpointError

ROOT = Path(__file__).parent.parent


def fill(folder: Path, content: str = "weights") -> None:
    (folder / "a.bin").write_text(content)
    (folder / "sub").mkdir()
    (folder / "sub" / "b.json").write_text("{}")


def step(parent: Path, number: int, content: str = "weights") -> Path:
    return write_folder(
        parent / f"step-{number}", lambda folder: fill(folder, content), {"step": number}
    )


def leftovers(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.glob(".*"))


def test_a_written_folder_verifies_and_lists_its_files(tmp_path: Path):
    path = step(tmp_path, 5)
    manifest = verify_folder(path)
    assert manifest["identity"] == {"step": 5}
    assert set(manifest["files"]) == {"a.bin", "sub/b.json"}
    assert manifest["files"]["a.bin"]["size"] == 7
    assert leftovers(tmp_path) == []


def test_a_folder_is_replaced_whole(tmp_path: Path):
    step(tmp_path, 5, "old")
    step(tmp_path, 5, "new")
    assert (tmp_path / "step-5" / "a.bin").read_text() == "new"
    assert leftovers(tmp_path) == []


def test_a_fill_that_fails_leaves_what_was_there(tmp_path: Path):
    step(tmp_path, 5, "old")

    def broken(folder: Path) -> None:
        fill(folder, "half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        write_folder(tmp_path / "step-5", broken, {})
    assert (tmp_path / "step-5" / "a.bin").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_full_disk_is_one_line(tmp_path: Path):
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder))

    step(tmp_path, 5)
    with pytest.raises(CheckpointError, match=r"No space left on device \(\d+ MB free\)"):
        write_folder(tmp_path / "step-6", full, {})
    assert newest_valid(tmp_path) == tmp_path / "step-5"
    assert leftovers(tmp_path) == []


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut off":
        path.write_bytes(data[:-2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "one bit":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    else:
        path.write_bytes(data + b" ")


@pytest.mark.parametrize("how", ["missing", "cut off", "empty", "one bit", "longer"])
@pytest.mark.parametrize("name", ["a.bin", "sub/b.json", MANIFEST])
def test_every_damage_is_found_and_the_file_named(tmp_path: Path, name: str, how: str):
    path = step(tmp_path, 5)
    damage(path / name, how)
    if (name, how) == (MANIFEST, "longer"):  # a blank after the JSON says the same
        assert verify_folder(path)
        return
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        verify_folder(path)


def test_every_bit_of_the_manifest_counts(tmp_path: Path):
    path = step(tmp_path, 5)
    data = (path / MANIFEST).read_bytes()
    good = verify_folder(path)
    rng = random.Random(0)
    for _ in range(200):
        place, bit = rng.randrange(len(data)), rng.randrange(8)
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        (path / MANIFEST).write_bytes(changed)
        with contextlib.suppress(CheckpointError):
            assert verify_folder(path) == good  # only where blanks between the values changed


def test_a_folder_of_another_step_is_found(tmp_path: Path):
    step(tmp_path, 5).rename(tmp_path / "step-9")
    with pytest.raises(CheckpointError, match="holds step 5, not 9"):
        verify_folder(tmp_path / "step-9")


def test_the_newest_intact_checkpoint_wins(tmp_path: Path):
    for number in (2, 10, 9):
        step(tmp_path, number)
    os.utime(tmp_path / "step-2", (2e9, 2e9))  # file times say nothing
    assert newest_valid(tmp_path) == tmp_path / "step-10"
    damage(tmp_path / "step-10" / "a.bin", "one bit")
    assert newest_valid(tmp_path) == tmp_path / "step-9"


def test_no_checkpoint_is_none_but_only_broken_ones_are_an_error(tmp_path: Path):
    (tmp_path / "step-x").mkdir()
    assert newest_valid(tmp_path) is None
    damage(step(tmp_path, 1) / "a.bin", "missing")
    with pytest.raises(CheckpointError, match=r"no checkpoint is intact .*step-1/a\.bin"):
        newest_valid(tmp_path)


def test_old_checkpoints_are_dropped(tmp_path: Path):
    for number in (1, 2, 10):
        step(tmp_path, number)
    assert keep_last(tmp_path, 2) == [tmp_path / "step-2", tmp_path / "step-10"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-2"]


KILL = """
import os, pathlib, shutil, sys
sys.path.insert(0, sys.argv[1])
from rlhf import checkpoints
left = int(sys.argv[3])
def deadly(function):
    def call(*arguments, **keywords):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return function(*arguments, **keywords)
    return call
parent = pathlib.Path(sys.argv[2])
os.fsync = deadly(os.fsync)
for name in ("rename", "mkdir"):
    setattr(pathlib.Path, name, deadly(getattr(pathlib.Path, name)))
shutil.rmtree = deadly(shutil.rmtree)
def fill(folder):
    (folder / "a.bin").write_text("new")
checkpoints.write_folder(parent / sys.argv[4], fill, {})
checkpoints.keep_last(parent, 1)
"""


@pytest.mark.parametrize("name", ["step-1", "step-2"])
def test_a_kill_between_any_two_calls_loses_nothing(tmp_path: Path, name: str):
    """The process dies before its n-th fsync, rename, mkdir or rmtree, for every n there is.

    ``step-1`` replaces a folder, ``step-2`` stands beside it and then has it dropped. Forking
    keeps the many deaths cheap.
    """
    import shutil

    survived = False
    for kill_at in range(40):
        parent = tmp_path / str(kill_at)
        write_folder(parent / "step-1", lambda f: (f / "a.bin").write_text("old"), {})
        arguments = ["-c", str(ROOT), str(parent), str(kill_at), name]
        child = os.fork()
        if child == 0:
            sys.argv = arguments
            try:
                exec(compile(KILL, "kill", "exec"), {})
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        sweep(parent)
        newest = newest_valid(parent)
        assert newest is not None
        assert (newest / "a.bin").read_text() in ("old", "new")
        assert leftovers(parent) == []
        survived = os.waitstatus_to_exitcode(status) == 0
        shutil.rmtree(parent)
        if survived:
            assert kill_at >= 8
            break
    assert survived


def test_sweeping_touches_nothing_else(tmp_path: Path):
    step(tmp_path, 1)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".lock").touch()
    (tmp_path / ".tmp-step-2-77").mkdir()
    (tmp_path / ".del-step-0-77").mkdir()
    assert sweep(tmp_path) == [".del-step-0-77", ".tmp-step-2-77"]
    assert leftovers(tmp_path) == [".git", ".lock"]


def test_files_are_synced_before_the_rename_and_the_parent_after(tmp_path: Path, monkeypatch):
    calls: list[tuple[str, str]] = []
    monkeypatch.setattr(checkpoints, "_sync", lambda path: calls.append(("sync", path.name)))
    rename = Path.rename

    def recorded(self: Path, target: Path) -> Path:
        calls.append(("rename", target.name))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", recorded)
    step(tmp_path, 3)
    names = [name if what == "sync" else f"rename to {name}" for what, name in calls]
    folder = names[-3]
    assert folder.startswith(".tmp-step-3-")
    assert names == [
        "a.bin", "b.json", MANIFEST, "sub", folder, "rename to step-3", tmp_path.name,
    ]  # fmt: skip


def test_deleting_leaves_no_half(tmp_path: Path):
    path = step(tmp_path, 1)
    delete_folder(path)
    assert list(tmp_path.iterdir()) == []


def test_json_files_refuse_nan_and_stay_whole(tmp_path: Path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


def test_tensors_come_back_with_their_metadata(tmp_path: Path):
    weight = torch.randn(3, 4)
    tensors = {
        "weight": weight,
        "tied": weight,
        "transposed": weight.t(),
        "row": weight[1],
        "half": weight.bfloat16(),
        "count": torch.tensor(3),
    }
    save_tensors(tmp_path / "x.safetensors", tensors, {"step": 3, "name": "ü"})
    loaded, metadata = load_tensors(tmp_path / "x.safetensors")
    assert metadata == {"step": 3, "name": "ü"}
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_broken_tensor_files_are_named(tmp_path: Path):
    file = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match=r"x\.safetensors: no such file"):
        load_tensors(file)
    for content in (b"", b"\xff" * 20, b"\x80\x04pickle"):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x\.safetensors: not a readable"):
            load_tensors(file)


def model_folder(path: Path, shards: list[dict[str, torch.Tensor]]) -> Path:
    from safetensors.torch import save_file

    path.mkdir()
    if len(shards) == 1:
        save_file(shards[0], path / "model.safetensors")
        return path
    index = {}
    for number, shard in enumerate(shards):
        name = f"model-{number}.safetensors"
        save_file(shard, path / name)
        index |= dict.fromkeys(shard, name)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return path


def test_a_model_is_what_its_weights_are_however_sharded(tmp_path: Path):
    a, b = torch.arange(6.0).reshape(2, 3), torch.ones(4)
    one = fingerprint_model(model_folder(tmp_path / "one", [{"a": a, "b": b}]))
    assert fingerprint_model(model_folder(tmp_path / "two", [{"b": b}, {"a": a}])) == one
    others = {
        "bit": {"a": a, "b": b + 1e-6},
        "name": {"a": a, "c": b},
        "shape": {"a": a.reshape(3, 2), "b": b},
        "dtype": {"a": a, "b": b.view(torch.int32)},
        "less": {"a": a},
    }
    prints = {
        fingerprint_model(model_folder(tmp_path / name, [tensors]))
        for name, tensors in others.items()
    }
    assert len(prints | {one}) == len(others) + 1


def test_pickled_weights_are_identified_without_opening_them(tmp_path: Path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert len(fingerprint_model(tmp_path)) == 64


def test_models_that_are_not_whole_are_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no weights here"):
        fingerprint_model(tmp_path)
    path = model_folder(tmp_path / "m", [{"a": torch.ones(3)}, {"b": torch.ones(3)}])
    shard = path / "model-1.safetensors"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors: .*cut off"):
        fingerprint_model(path)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors: missing"):
        fingerprint_model(path)


def test_a_tokenizer_is_how_it_reads_text(tmp_path: Path):
    fast = {"model": {"vocab": {"a": 0}}, "padding": None, "truncation": None}
    settings = {"eos_token": "</s>", "model_max_length": 5}

    def fingerprint() -> str:
        (tmp_path / "tokenizer.json").write_text(json.dumps(fast))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        return fingerprint_tokenizer(tmp_path)

    first = fingerprint()
    fast["padding"], settings["model_max_length"] = {"length": 3}, 9
    assert fingerprint() == first
    settings["eos_token"] = {"content": "</s>", "special": True}  # type: ignore[assignment]
    assert fingerprint() == first
    settings["chat_template"] = "{{ messages }}"
    templated = fingerprint()
    fast["model"] = {"vocab": {"a": 0, "b": 1}}
    assert len({first, templated, fingerprint()}) == 3
    with pytest.raises(CheckpointError, match="no tokenizer here"):
        fingerprint_tokenizer(tmp_path.parent / "nowhere")


def test_a_file_is_its_bytes_and_a_folder_its_files(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # sha256 of nothing
    assert fingerprint_file(tmp_path / "a") == empty
    before = fingerprint_file(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert fingerprint_file(tmp_path) != before
    with pytest.raises(CheckpointError, match="No such file"):
        fingerprint_file(tmp_path / "missing")


def test_importing_checkpoints_needs_no_torch():
    code = "import sys, rlhf.checkpoints; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
