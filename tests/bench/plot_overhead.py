"""Draws what is added: `plot_overhead.py FIGURES.json PICTURE.png`. Runs in the environment of `bench-report`."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

PANELS = {
    "ttft_ms": "added to the first token, p50, ms",
    "itl_ms": "added between tokens, p50, ms",
    "cpu_ms": "processor time for each request, ms",
}
COLOURS = {"weft": "#0b6e4f", "weft http": "#0b6e4f", "envoy": "#8e5a9b", "smg": "#c07f2b"}


def main() -> None:
    """Reads the figures and draws."""
    figures = json.loads(Path(sys.argv[1]).read_text())
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(14, 3), layout="constrained")
    for place, (key, title) in zip(axes, PANELS.items(), strict=True):
        labels = list(figures[key])
        made = place.barh(labels, list(figures[key].values()), color=[COLOURS[label] for label in labels])
        place.bar_label(made, fmt="%.2f", padding=3, fontsize=8)
        place.set_title(title, fontsize=10)
        place.spines[["top", "right"]].set_visible(False)
    figure.savefig(sys.argv[2], dpi=110)


if __name__ == "__main__":
    main()
