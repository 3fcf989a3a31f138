"""The figure: test accuracy against training seconds, one curve per run.

plotly for the interactive page, which holds its script and opens without a network; matplotlib for a picture,
because plotly cannot write one without a browser.
"""

from collections.abc import Sequence
from pathlib import Path

from jobs import run_folder
from tuning.collect import RunResult, collect

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""
AXES = ("training seconds (evaluation, checkpoints and kernel warm-up not counted)", "test accuracy")


def label(result: RunResult) -> str:
    """A run in the legend."""
    return f"{result.name}: batch {result.summary.global_batch_size:,}, {result.optimizer}, seed {result.seed}"


def title(results: Sequence[RunResult]) -> str:
    """What is shown, and on what device."""
    return f"Accuracy against training time, {', '.join(dict.fromkeys(result.device for result in results))}"


def write_html(results: Sequence[RunResult], path: Path) -> None:
    """One self-contained page."""
    from plotly import graph_objects

    figure = graph_objects.Figure()
    for index, result in enumerate(results):
        seconds, accuracies = zip(*result.curve, strict=True) if result.curve else ((), ())
        figure.add_scatter(
            x=seconds, y=accuracies, name=label(result), mode="lines+markers", marker={"size": 5}, line={"color": COLOURS[index % len(COLOURS)]}
        )
    for target in _targets(results):
        figure.add_hline(y=target, line_dash="dot", line_color="grey", annotation_text=f"target {target:g}", annotation_position="bottom right")
    figure.update_layout(
        title=title(results), xaxis_title=AXES[0], yaxis_title=AXES[1], template="plotly_white", hovermode="x unified",
        legend={"orientation": "h", "yanchor": "top", "y": -0.18, "x": 0}, margin={"l": 60, "r": 30, "t": 60, "b": 60},
    )  # fmt: skip
    figure.write_html(path, include_plotlyjs=True, full_html=True, config={"responsive": True})


def write_png(results: Sequence[RunResult], path: Path) -> None:
    """One picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for index, result in enumerate(results):
        seconds, accuracies = zip(*result.curve, strict=True) if result.curve else ((), ())
        axes.plot(seconds, accuracies, marker="o", markersize=3, label=label(result), color=COLOURS[index % len(COLOURS)])
    for target in _targets(results):
        axes.axhline(target, linestyle=":", color="grey")
        axes.annotate(f"target {target:g}", (0, target), (4, 3), xycoords=("axes fraction", "data"), textcoords="offset points", color="grey")
    axes.set(title=title(results), xlabel=AXES[0], ylabel=AXES[1])
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=130)


def draw_run(run_dir: Path) -> None:
    """One run's own figure, into its folder."""
    write_png(collect([run_dir]), run_dir / run_folder.FIGURE)


def _targets(results: Sequence[RunResult]) -> list[float]:
    return list(dict.fromkeys(result.summary.target_accuracy for result in results if result.summary.target_accuracy is not None))
