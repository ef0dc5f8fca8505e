"""Where everything is that the bench needs or makes."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / ".weft" / "bench"
MODEL = ROOT / "models" / "smollm2-135m-instruct"
RELEASE = ROOT / "target" / "release"
QUALITY = ROOT / ".weft" / "quality" / "perplexity.json"
HERE = Path(__file__).parent
