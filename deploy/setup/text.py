"""Text to measure a model's quality on: a sample of Wikipedia out of a PyPI wheel."""

import json
import zipfile
from pathlib import Path

from packages import PINS, download
from step import SetupError, Step

TEXT_PINS = PINS / "text.txt"
MEMBER = "evals/registry/data/schelling_point/wikipedia_5.jsonl"


def step(root: Path) -> Step:
    """The step that makes one text file."""
    return Step(
        name="text",
        makes="1,000 paragraphs of Wikipedia, to measure quality on",
        target=root / ".weft" / "text" / "wikipedia.txt",
        inputs=(TEXT_PINS, Path(__file__)),
        make=write,
        needs_mib=100,
    )


def write(place: Path, scratch: Path) -> None:
    """Downloads the wheel and takes the paragraphs out of it."""
    (wheel,) = download(TEXT_PINS, scratch)
    with zipfile.ZipFile(wheel) as archive:
        try:
            lines = archive.read(MEMBER).decode().splitlines()
        except KeyError:
            raise SetupError(f"{wheel.name} does not hold {MEMBER}") from None
    # Each line holds a paragraph and permutations of its sentences; "0" is the paragraph itself.
    place.write_text("\n".join(json.loads(line)["0"].strip() for line in lines) + "\n")
