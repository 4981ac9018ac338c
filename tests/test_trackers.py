"""report_to: trackers get every row, the config once, and are closed however a run ends."""

import contextlib
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate import PartialState, tracking
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlhf.config import PPOConfig, SFTConfig, StageConfig
from rlhf.errors import ConfigError
from rlhf.runs import RunFolder, read_run

ROOT = Path(__file__).parent.parent

ROWS = [
    (1, {"score/mean": 0.25, "kl/reference": 0.0, "completion/length": 7}),
    (2, {"score/mean": math.nan, "kl/reference": math.inf, "completion/length": 8}),
    (3, {"score/mean": -1.5, "kl/reference": 2.75, "value/loss": 1e-7}),
]


def config(report_to: str | tuple[str, ...], **changes: Any) -> StageConfig:
    values = {"model_name_or_path": "base", "output_dir": "out", "train_file": "demos.jsonl"}
    return SFTConfig(report_to=report_to, **(values | changes))


class Recording(tracking.GeneralTracker):
    """A tracker in memory; ``broken`` names the method that raises."""

    name = "recording"
    requires_logging_directory = False
    broken = ""
    made: list["Recording"]

    def __init__(self, run_name: str, **settings: Any) -> None:
        super().__init__()
        self.run_name = run_name
        self.configs: list[dict[str, Any]] = []
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.calls: list[str] = []
        self.made.append(self)

    @property
    def tracker(self) -> list[Any]:
        return self.rows

    def call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.broken:
            raise OSError("no network\nat all")

    def start(self) -> None:
        self.call("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.call("store")
        self.configs.append(values)

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        self.call("log")
        self.rows.append((step, values))

    def finish(self) -> None:
        self.call("finish")


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> type[Recording]:
    """A tracker class known to accelerate under the name "recording"."""
    fresh = type("Fresh", (Recording,), {"made": []})
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "recording", fresh)
    return fresh


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr("rlhf.trackers.get_available_trackers", lambda: list(names))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar in TensorBoard's files, by name: (step, value)."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every number of metrics.jsonl, in the same form; null is NaN."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        step = row.pop("step")
        for name, value in row.items():
            found.setdefault(name, []).append((step, math.nan if value is None else value))
    return found


def assert_same(
    shown: Mapping[str, list[tuple[int, float]]], written: Mapping[str, list[tuple[int, float]]]
) -> None:
    assert set(shown) == set(written)
    for name, points in written.items():
        assert [step for step, _ in shown[name]] == [step for step, _ in points], name
        for (_, left), (_, right) in zip(shown[name], points, strict=True):
            if math.isnan(right):
                assert not math.isfinite(left), name
            else:
                assert left == pytest.approx(right, rel=1e-6), name  # float32 in the file


def test_tensorboard_has_every_row_of_the_metrics(tmp_path: Path):
    path = tmp_path / "run"
    with RunFolder(path, "sft", config("tensorboard")) as run:
        for step, row in ROWS:
            run.log(step, row, total=3)
    shown = scalars(path / "trackers" / "sft")
    assert_same(shown, logged(path))
    assert shown["kl/reference"][1] == (2, math.inf)
    stored = [yaml.safe_load(file.read_text()) for file in path.glob("trackers/sft/*/hparams.yml")]
    assert len(stored) == 1
    assert (stored[0]["learning_rate"], stored[0]["adapter.r"]) == (2e-4, 32)


def test_tensorboard_of_a_resumed_run_goes_on_after_the_step_it_rewinds_to(tmp_path: Path):
    path = tmp_path / "run"
    with contextlib.suppress(RuntimeError), RunFolder(path, "sft", config("tensorboard")) as run:
        for step in (1, 2, 3):
            run.log(step, {"loss": float(step)}, total=4)
        raise RuntimeError("killed")
    with RunFolder(path, "sft", config("tensorboard"), resume=True) as run:
        run.rewind(1)
        for step in (2, 3, 4):
            run.log(step, {"loss": 10.0 * step}, total=4)
    shown = scalars(path / "trackers" / "sft")
    assert shown == {"loss": [(1, 1.0), (2, 20.0), (3, 30.0), (4, 40.0)]}
    assert_same(shown, logged(path))
    assert len(list(path.glob("trackers/sft/*/hparams.yml"))) == 1


def test_a_run_that_begins_again_begins_its_curves_again(tmp_path: Path):
    path = tmp_path / "run"
    with contextlib.suppress(RuntimeError), RunFolder(path, "sft", config("tensorboard")) as run:
        run.log(1, {"loss": 1.0}, total=2)
        raise RuntimeError("killed")
    with RunFolder(path, "sft", config("tensorboard")) as run:
        run.log(1, {"loss": 5.0}, total=2)
    assert scalars(path / "trackers" / "sft") == {"loss": [(1, 5.0)]}


def test_a_tracker_gets_rows_config_and_the_end(tmp_path: Path, recording: type[Recording]):
    given = PPOConfig(
        model_name_or_path="base",
        output_dir="out",
        train_file="prompts.jsonl",
        reward_model=("a", "b"),
        report_to=("recording", "recording"),
    )
    with RunFolder(tmp_path / "run", "ppo", given) as run:
        for step, row in ROWS:
            run.log(step, row, total=3)
    (tracker,) = recording.made
    assert tracker.run_name == "ppo"
    assert [step for step, _ in tracker.rows] == [1, 2, 3]
    assert tracker.rows[0][1] == ROWS[0][1]
    assert math.isnan(tracker.rows[1][1]["score/mean"])
    assert tracker.calls == ["start", "store", "log", "log", "log", "finish"]
    (stored,) = tracker.configs
    assert all(isinstance(value, str | int | float | bool) for value in stored.values())
    assert stored["adapter.lora_alpha"] == 32
    assert (stored["reward_model"], stored["kl_target"]) == ("a, b", "none")
    assert stored["resume"] is False


def test_a_tracker_is_closed_when_the_run_fails(tmp_path: Path, recording: type[Recording]):
    path = tmp_path / "run"
    with contextlib.suppress(RuntimeError), RunFolder(path, "sft", config("recording")) as run:
        run.log(1, {"loss": 1.0}, total=2)
        raise RuntimeError("killed")
    (tracker,) = recording.made
    assert tracker.calls == ["start", "store", "log", "finish"]
    assert read_run(path)["status"] == "failed"


def test_a_tracker_that_fails_does_not_end_the_run(tmp_path: Path, recording: type[Recording]):
    recording.broken = "log"
    told = r"report_to: 'recording' failed at step 1 and gets no more rows \(OSError: no network at"
    with RunFolder(tmp_path / "run", "sft", config("recording")) as run:
        with pytest.warns(RuntimeWarning, match=told):
            run.log(1, {"loss": 1.0}, total=2)
        run.log(2, {"loss": 1.0}, total=2)
    assert recording.made[0].calls == ["start", "store", "log", "finish"]
    assert len(logged(tmp_path / "run")["loss"]) == 2


def test_a_tracker_that_can_not_be_closed_hides_no_error(
    tmp_path: Path, recording: type[Recording]
):
    recording.broken = "finish"
    with (
        pytest.warns(RuntimeWarning, match="'recording' could not be closed"),
        pytest.raises(ZeroDivisionError),
        RunFolder(tmp_path / "run", "sft", config("recording")) as run,
    ):
        run.log(1, {"loss": 1 / 0}, total=1)
    assert read_run(tmp_path / "run")["error"].startswith("ZeroDivisionError")
    with RunFolder(tmp_path / "run", "sft", config("none")):
        pass  # the lock is free


@pytest.mark.parametrize("broken", ["start", "store"])
def test_a_tracker_that_does_not_start_is_one_line(
    tmp_path: Path, recording: type[Recording], broken: str
):
    recording.broken = broken
    told = (
        r"^report_to: 'recording' can't be started \(OSError: no network at all\); .*leave it out$"
    )
    with pytest.raises(ConfigError, match=told):
        RunFolder(tmp_path / "run", "sft", config("recording"))
    assert read_run(tmp_path / "run")["status"] == "failed"
    recording.broken = ""
    with RunFolder(tmp_path / "run", "sft", config("recording")):
        pass
    assert read_run(tmp_path / "run")["status"] == "done"


def test_an_unknown_tracker_is_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        RunFolder(tmp_path / "run", "sft", config(("tensorboard", "tensorbord")))
    told = str(caught.value)
    assert told.startswith("report_to: 'tensorbord' is not a tracker; did you mean 'tensorboard'?")
    assert "known: aim, " in told
    assert told.endswith("wandb, all, none")
    assert "\n" not in told
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_is_not_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    installed(monkeypatch, "tensorboard")
    with pytest.raises(ConfigError) as caught:
        RunFolder(tmp_path / "run", "sft", config("comet_ml"))
    told = str(caught.value)
    assert told.startswith("report_to: 'comet_ml' is not installed; pip install comet_ml (")
    assert "installed: tensorboard; known: aim, clearml, comet_ml" in told
    with pytest.raises(ConfigError, match="pip install 'aim<4'"):
        RunFolder(tmp_path / "run", "sft", config("aim"))
    installed(monkeypatch)
    with pytest.raises(ConfigError, match="'all' finds no tracker; pip install tensorboard"):
        RunFolder(tmp_path / "run", "sft", config("all"))
    with pytest.raises(ConfigError, match="'none' stands beside a tracker"):
        RunFolder(tmp_path / "run", "sft", config(("none", "comet_ml")))
    assert not (tmp_path / "run").exists()


def test_all_means_those_installed(monkeypatch: pytest.MonkeyPatch):
    from rlhf.trackers import Trackers

    installed(monkeypatch, "wandb", "mlflow")
    assert Trackers(["all"]).names == ("mlflow", "wandb")
    assert Trackers(["wandb", "all"]).names == ("wandb", "mlflow")


def test_other_ranks_report_nothing(tmp_path: Path, recording: type[Recording]):
    with RunFolder(tmp_path / "run", "sft", config("recording"), is_main=False) as run:
        run.log(1, {"loss": 1.0}, total=1)
        run.rewind(0)
    assert recording.made == []


def test_a_tracker_may_be_added_when_a_run_is_resumed(tmp_path: Path, recording: type[Recording]):
    several = {"reward_function": ("a.py:f", "b.py:g"), "train_file": "prompts.jsonl"}
    values = {"model_name_or_path": "base", "output_dir": "out"} | several
    with contextlib.suppress(RuntimeError), RunFolder(tmp_path, "ppo", PPOConfig(**values)):
        raise RuntimeError("killed")
    changed = PPOConfig(**values, report_to="recording")
    with RunFolder(tmp_path, "ppo", changed, resume=True) as run:
        run.rewind(0)
        run.log(7, {"loss": 1.0}, total=9)
    assert recording.made[0].rows == [(7, {"loss": 1.0})]


def test_the_state_that_the_processes_share_is_left_as_it_is(tmp_path: Path):
    state = PartialState(cpu=True)
    before = (state.device, state.num_processes)
    with RunFolder(tmp_path / "run", "sft", config("tensorboard")) as run:
        run.log(1, {"loss": 1.0}, total=1)
    assert (PartialState().device, PartialState().num_processes) == before


NOTHING = """
import sys
from rlhf.config import SFTConfig
from rlhf.runs import RunFolder
config = SFTConfig(model_name_or_path="base", output_dir="out", train_file="demos.jsonl")
with RunFolder(sys.argv[1], "sft", config) as run:
    run.log(1, {"loss": 1.0}, total=1)
loaded = {"accelerate", "tensorboard", "torch", "rlhf.trackers"} & set(sys.modules)
assert not loaded, loaded
"""


def test_a_run_without_trackers_imports_none(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", NOTHING, str(tmp_path / "run")],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "trackers").exists()
