"""Brings what the conformance tests know of services and clients."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "conformance" / "python"))

from mesh import GENERATED, generate_client

generate_client()
sys.path.insert(0, str(GENERATED))
