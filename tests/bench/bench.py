"""Weft beside its peers, in one run, on this machine: `make bench`, or `make bench QUICK=1` while developing.

The cells run one after another; in each, the contenders take turns at the same lists of token ids. What is found is
saved cell by cell in `.weft/bench/results.json`, so that a run that was cut off goes on with `--resume`. At the end
stand `.weft/bench/report.md` and `report.png`. A contender that is not installed is listed as such. Needs nothing but
Python; the peers' own environments are made by `deploy/setup/setup.py bench-…`.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

import alone
import cells
import contenders
import machine
import race
import report
from places import HERE, OUT, ROOT

RESULTS = OUT / "results.json"
REPORT, PICTURE = OUT / "report.md", OUT / "report.png"


def all_cells() -> dict[str, alone.Cell]:
    """Every cell by name, in the order in which they run: neighbours share contenders."""

    def races(some: list[race.Race]) -> dict[str, alone.Cell]:
        return {one.name: partial(race.run, one) for one in some}

    return {
        "roofline": alone.CELLS["roofline"],
        **races(cells.BF16),
        **{name: cell for name, cell in alone.CELLS.items() if name != "roofline"},
        **races(cells.QUANTIZED),
    }


def measure(wanted: list[str], results: dict[str, Any], without: frozenset[str]) -> None:
    """Runs cells, and saves after each."""
    known = all_cells()
    with contenders.pool(without) as pool:
        for name in wanted:
            began, load = time.monotonic(), machine.load()
            print(f"▸ {name}", flush=True)
            found = vars(known[name](pool, results["turns"]))
            found |= {"load_before": load, "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}
            results["cells"][name] = found
            results["cells"] = {one: results["cells"][one] for one in known if one in results["cells"]}
            save(results)
            say(found, time.monotonic() - began)


def say(found: dict[str, Any], seconds: float) -> None:
    """Shows in a few lines what a cell found."""
    for label, one in found["contenders"].items():
        figures = (f"{key} {value:.4g}" for key, value in one["median"].items())
        print(f"    {label:18} {'  '.join(figures)}")
    for label, why in found["missing"].items():
        print(f"    {label:18} not measured: {why}")
    for check in found["checks"]:
        value = "?" if check["value"] is None else f"{check['value']:.3g}"
        met = {True: "✓", False: "✗", None: "?"}[check["met"]]
        print(f"  {met} {check['what']}: {value} ({'≥' if check['at_least'] else '≤'} {check['bar']:g})")
    print(f"    {seconds:.0f} s", flush=True)


def save(results: dict[str, Any]) -> None:
    """Writes the results so that a cut leaves the old or the new."""
    part = RESULTS.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.rename(RESULTS)


def publish(results: dict[str, Any]) -> None:
    """Writes the report and draws its picture."""
    REPORT.write_text(report.markdown(results))
    python = OUT / "venv-report" / "bin" / "python"
    if python.exists():
        subprocess.run([python, HERE / "plot.py", RESULTS, PICTURE], check=True)
    else:
        print("no picture: python3 deploy/setup/setup.py bench-report")
    print(f"report: {REPORT.relative_to(ROOT)}")


def select(names: str | None, results: dict[str, Any], resume: bool) -> list[str]:
    """The cells to run."""
    known = list(all_cells())
    asked = names.split(",") if names else known
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise SystemExit(f"no cell is called {', '.join(unknown)}; there are {', '.join(known)}")
    return [name for name in known if name in asked and not (resume and name in results["cells"])]


def main() -> int:
    """Reads the command line, measures and reports; the exit code is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one turn each: for development, not to be quoted")
    parser.add_argument("--cells", help="only these, by name, with commas; the others keep what was found before")
    parser.add_argument("--without", default="", help="peers to leave out, by name, with commas")
    parser.add_argument("--resume", action="store_true", help="go on where the last run was cut off")
    parser.add_argument("--report", action="store_true", help="only write the report again")
    parser.add_argument("--list", action="store_true", help="list the cells and stop")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(all_cells()))
        return 0
    # A polite kill ends the contenders, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    OUT.mkdir(parents=True, exist_ok=True)
    turns = 1 if arguments.quick else 3
    results = {"machine": machine.describe(), "turns": turns, "cells": {}}
    if RESULTS.exists() and (arguments.cells or arguments.resume or arguments.report):
        results = json.loads(RESULTS.read_text()) | (
            {} if arguments.report else {"turns": turns, "machine": results["machine"]}
        )
    if not arguments.report:
        wanted = select(arguments.cells, results, arguments.resume)
        measure(wanted, results, frozenset(arguments.without.split(",")))
    publish(results)
    met = [check["met"] for cell in results["cells"].values() for check in cell["checks"]]
    print(f"bars: {met.count(True)} met, {met.count(False)} missed, {met.count(None)} not measured")
    return 1 if False in met else 0


if __name__ == "__main__":
    sys.exit(main())
