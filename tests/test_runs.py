"""Run folders: what they record, when they refuse, how they end."""

import contextlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlhf.config import PPOConfig, SFTConfig
from rlhf.errors import CheckpointError, ConfigError
from rlhf.runs import RunFolder, read_run, require_run


def sft_config(**changes: object) -> SFTConfig:
    values = {"model_name_or_path": "base", "output_dir": "out", "train_file": "demos.jsonl"}
    return SFTConfig(**(values | changes))  # type: ignore[arg-type]


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_records_what_it_was(tmp_path: Path):
    folder = tmp_path / "run"
    with RunFolder(folder, "sft", sft_config(seed=7)) as run:
        assert read_run(folder)["status"] == "running"
        run.record(base_fingerprint="abc", data={"train_file": "def"})
        run.log(1, {"loss/train": 2.5}, total=2)
        run.sample({"step": 1, "prompt": "Hi", "completion": "Hallo"})
        run.finish({"adapter": folder / "adapter", "eval_loss": math.nan})
    info = read_run(folder)
    assert (info["stage"], info["status"], info["seed"]) == ("sft", "done", 7)
    assert (info["base_fingerprint"], info["data"]) == ("abc", {"train_file": "def"})
    assert set(info["versions"]) >= {"python", "torch", "transformers", "peft", "trl", "datasets"}
    assert info["seconds"] >= 0
    assert info["peak_memory_mb"] > 1
    assert rows(folder / "metrics.jsonl") == [{"step": 1, "loss/train": 2.5}]
    assert rows(folder / "samples.jsonl")[0]["completion"] == "Hallo"
    result = json.loads((folder / "result.json").read_text())
    assert result == {"adapter": str(folder / "adapter"), "eval_loss": None}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["learning_rate"] == 2e-4
    assert config["adapter"]["r"] == 32


def test_what_is_not_finite_is_logged_as_null(tmp_path: Path):
    with RunFolder(tmp_path / "run", "sft", sft_config()) as run:
        run.log(1, {"nan": math.nan, "inf": math.inf}, total=1)
    assert rows(tmp_path / "run" / "metrics.jsonl") == [{"step": 1, "nan": None, "inf": None}]


def test_the_listener_is_told_of_every_row(tmp_path: Path):
    told = []
    with RunFolder(
        tmp_path / "run", "sft", sft_config(), listener=lambda *row: told.append(row)
    ) as run:
        run.log(3, {"loss": 1.0}, total=9)
    assert told == [("sft", 3, 9, {"loss": 1.0})]


def test_rows_are_on_disk_while_the_run_goes_on(tmp_path: Path):
    with RunFolder(tmp_path / "run", "sft", sft_config()) as run:
        run.log(1, {"loss": 1.0}, total=2)
        assert len(rows(tmp_path / "run" / "metrics.jsonl")) == 1


def test_an_exception_is_written_down_and_goes_on(tmp_path: Path):
    with (
        pytest.raises(ZeroDivisionError),
        RunFolder(tmp_path / "run", "sft", sft_config()) as run,
    ):
        run.log(1, {"loss": 1 / 0}, total=1)
    info = read_run(tmp_path / "run")
    assert (info["status"], info["error"]) == ("failed", "ZeroDivisionError: division by zero")


def test_other_ranks_write_nothing(tmp_path: Path):
    with RunFolder(tmp_path / "run", "sft", sft_config(), is_main=False) as run:
        run.record(a=1)
        run.log(1, {}, total=1)
        run.sample({})
        run.rewind(0)
        run.finish({})
    assert not (tmp_path / "run").exists()


def test_a_second_writer_is_refused_and_told_who_has_it(tmp_path: Path):
    with RunFolder(tmp_path / "run", "sft", sft_config()):
        code = (
            "import sys; from rlhf.runs import RunFolder; from rlhf.errors import RlhfError\n"
            "try: RunFolder(sys.argv[1], 'sft', None)\n"
            "except RlhfError as error: print(error); sys.exit(2)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "run")],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent.parent,
            check=False,
        )
    assert done.returncode == 2, done.stderr
    assert f"in use by pid {os.getpid()} on" in done.stdout
    assert read_run(tmp_path / "run")["status"] == "done"


def test_the_lock_dies_with_its_owner(tmp_path: Path):
    code = (
        "import os, sys; from rlhf.runs import RunFolder\n"
        "from rlhf.config import DemoConfig\n"
        "run = RunFolder(sys.argv[1], 'demo', DemoConfig()); os._exit(9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    assert done.returncode == 9
    assert read_run(tmp_path / "run")["status"] == "running"
    from rlhf.config import DemoConfig

    with RunFolder(tmp_path / "run", "demo", DemoConfig()):
        pass
    assert read_run(tmp_path / "run")["status"] == "done"


def finished(path: Path, stage: str = "sft") -> Path:
    with RunFolder(path, stage, sft_config()) as run:
        run.log(1, {"loss": 1.0}, total=1)
    return path


def failed(path: Path) -> Path:
    with contextlib.suppress(RuntimeError), RunFolder(path, "sft", sft_config()) as run:
        run.log(1, {"loss": 1.0}, total=3)
        run.log(2, {"loss": 1.0}, total=3)
        raise RuntimeError("killed")
    return path


def test_a_finished_run_is_not_written_over(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"holds a finished sft run; give another output_dir"):
        RunFolder(finished(tmp_path / "run"), "sft", sft_config())


def test_another_stages_run_is_not_written_over(tmp_path: Path):
    with pytest.raises(CheckpointError, match="holds a run of the sft stage; give ppo another"):
        RunFolder(finished(tmp_path / "run"), "ppo", sft_config(), resume=True)


def test_a_folder_of_other_files_is_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(CheckpointError, match=r"holds 'thesis.tex' but no run"):
        RunFolder(tmp_path, "sft", sft_config())


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "run").touch()
    with pytest.raises(CheckpointError, match="can't be made"):
        RunFolder(tmp_path / "run", "sft", sft_config())


def test_an_unfinished_run_begins_again(tmp_path: Path):
    with RunFolder(failed(tmp_path / "run"), "sft", sft_config()) as run:
        run.log(1, {"loss": 9.0}, total=1)
    assert rows(tmp_path / "run" / "metrics.jsonl") == [{"step": 1, "loss": 9.0}]
    assert "error" not in read_run(tmp_path / "run")


def test_an_unfinished_run_with_checkpoints_must_be_resumed(tmp_path: Path):
    path = failed(tmp_path / "run")
    (path / "checkpoints" / "step-2").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="go on with --resume"):
        RunFolder(path, "sft", sft_config())


def test_a_resumed_run_goes_on_after_the_step_it_rewinds_to(tmp_path: Path):
    path = failed(tmp_path / "run")
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # cut off by a kill
    with RunFolder(path, "sft", sft_config(), resume=True) as run:
        run.rewind(1)
        run.log(2, {"loss": 5.0}, total=3)
    assert rows(path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 5.0}]
    assert len(read_run(path)["resumed"]) == 1


def test_a_resumed_run_keeps_its_config(tmp_path: Path):
    path = failed(tmp_path / "run")
    changed = sft_config(learning_rate=1.0, max_steps=9)
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.0002, is 1\.0") as caught:
        RunFolder(path, "sft", changed, resume=True)
    assert "max_steps" not in str(caught.value)
    with RunFolder(path, "sft", sft_config(max_steps=9), resume=True):
        pass


def test_a_resumed_run_keeps_its_data(tmp_path: Path):
    path = failed(tmp_path / "run")
    with RunFolder(path, "sft", sft_config(), resume=True) as run:
        run.record(data={"train_file": "abc"})
    changed = r"train_file: demos.jsonl changed since .* \(sha256 abd, was abc\); put it back or"
    with (
        pytest.raises(ConfigError, match=changed),
        RunFolder(path, "sft", sft_config(), resume=True) as run,
    ):
        run.record(data={"train_file": "abd"})
    assert read_run(path)["data"] == {"train_file": "abc"}
    with RunFolder(path, "sft", sft_config(), resume=True) as run:
        run.record(data={"train_file": "abc"})


def test_a_resumed_run_may_hold_lists(tmp_path: Path):
    """YAML gives back a list where the config has a tuple."""
    values = {"model_name_or_path": "base", "output_dir": "out", "train_file": "prompts.jsonl"}
    config = PPOConfig(**values, reward_model=("a", "b"), report_to=("none",))  # type: ignore[arg-type]
    with contextlib.suppress(RuntimeError), RunFolder(tmp_path, "ppo", config):
        raise RuntimeError("killed")
    with RunFolder(tmp_path, "ppo", config, resume=True):
        pass
    changed = PPOConfig(**values, reward_model=("a", "c"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="reward_model was"):
        RunFolder(tmp_path, "ppo", changed, resume=True)


def test_require_run_names_what_is_wrong(tmp_path: Path):
    assert require_run(finished(tmp_path / "a"), "sft", "ppo")["stage"] == "sft"
    with pytest.raises(CheckpointError, match="holds the sft stage; give a run folder of reward"):
        require_run(tmp_path / "a", "reward")
    with pytest.raises(CheckpointError, match="the sft run is failed, not done"):
        require_run(failed(tmp_path / "b"), "sft")
    with pytest.raises(CheckpointError, match="not a run folder"):
        require_run(tmp_path, "sft")
    (tmp_path / "a" / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run\.json: not readable JSON"):
        read_run(tmp_path / "a")


PEAK = """
import os, sys
from rlhf.runs import peak_memory_mb, reset_peak_memory
block = bytearray(60_000_000)
block[::4096] = b"x" * len(block[::4096])
high = peak_memory_mb()
del block
assert high > 60, high
reset_peak_memory()
if sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK):
    assert peak_memory_mb() < high - 30, (peak_memory_mb(), high)
"""


def test_peak_memory_counts_from_the_reset():
    """In a process of its own: what other tests left on the heap decides what is given back."""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", PEAK], cwd=root, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_opening_a_run_imports_no_torch():
    code = "import sys, rlhf.runs, rlhf.checkpoints; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=True)


def test_fields_that_may_change_exist():
    from rlhf.runs import MAY_CHANGE

    assert set(PPOConfig.__dataclass_fields__) >= MAY_CHANGE
