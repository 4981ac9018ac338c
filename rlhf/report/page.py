"""The report's page: headline, tables, plots and answers side by side, put into the template."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rlhf.report.plots import Curve, plots
from rlhf.report.reading import MODELS, Figures, number, part
from rlhf.report.tables import tables
from rlhf.report.tiles import tiles
from rlhf.report.units import COUNT, PLAIN

OPEN_SAMPLES = 6
"""So many samples are shown at once, the others on demand."""


def render_report(
    figures: Figures, samples: Sequence[Mapping[str, Any]], curves: Mapping[str, Curve]
) -> str:
    """Render figures, plots and side-by-side samples; all text from outside is escaped.

    Args:
        figures: What ``report.json`` holds. Beyond what the evaluation writes, a caller may add
            ``notes`` (sentences), ``seconds`` and ``peak_memory_mb`` of the whole job,
            ``reward_model.ceiling``, ``reward_model.annotator_agreement``, and ``targets`` with
            any of ``pair_accuracy``, ``margin_over_length_rule``, ``true_win_rate``,
            ``accuracy_drop``, ``seconds``, ``peak_memory_mb``; each target gets a verdict.
        samples: Rows with ``prompt``, ``task``, ``demonstration`` and
            ``{base,sft,ppo}_{sampled,greedy}``.
        curves: Logged rows of the stages ``sft``, ``reward`` and ``ppo``.

    Returns:
        A whole HTML document.
    """
    shown = _interleaved(samples)
    return render_page(
        "report.html.j2",
        simulated=figures.get("simulated") is True,
        judge=figures.get("judge"),
        compared=[name for key, name in MODELS.items() if key in part(figures, "models")],
        prompts=COUNT.show(figures.get("prompts")),
        draws=COUNT.show(figures.get("samples_per_prompt")),
        has_reward_model=bool(part(figures, "reward_model")),
        tiles=tiles(figures),
        plots=plots(figures, curves),
        models=MODELS,
        plain=PLAIN.show,
        samples=shown[:OPEN_SAMPLES],
        more_samples=shown[OPEN_SAMPLES:],
        notes=figures.get("notes") or (),
        shows=_shown_figures(figures),
        **tables(figures),
    )


def render_page(template: str, **values: Any) -> str:
    """Put values into a template of the package; all text among them is escaped."""
    environment = Environment(
        loader=PackageLoader("rlhf"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(values)
    # A lone surrogate in someone's file must not make the page unwritable.
    return page.encode("utf-8", "replace").decode("utf-8")


def _shown_figures(figures: Figures) -> set[str]:
    """Which figures are on the page, for its definitions."""
    paths = [("models", model, kind) for model in MODELS for kind in ("sampled", "greedy")]
    sections = [part(figures, *path) for path in [("ppo",), ("reward_model",), *paths]]
    return {key for own in sections for key, value in own.items() if number(value) is not None}


def _interleaved(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Take the tasks in turn, so that the first rows show them all."""
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for row in samples:
        by_task.setdefault(str(row.get("task")), []).append(row)
    rounds = itertools.zip_longest(*by_task.values())
    return [row for one_round in rounds for row in one_round if row is not None]
