"""`weft model quantize` makes folders that the services read like any other."""

import json
import subprocess
from pathlib import Path

import pytest
from mesh import BINARIES, ROOT
from service import Service
from weft.inference.v1 import inference_pb2 as weft
from weft.inference.v1.inference_pb2_grpc import InferenceServiceStub

MODEL = ROOT / "models" / "smollm2-135m-instruct"
# "The capital of France is", and " Paris".
PROMPT = (504, 3575, 282, 4649, 314)
PARIS = 7042


def quantize(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [BINARIES / "weft", "--color", "never", "model", "quantize", MODEL, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.parametrize(("words", "name"), [(["int8"], "int8"), (["int4", "--group", "32"], "int4-g32")])
def test_the_real_model_answers_in_fewer_bits(words: list[str], name: str, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    done = quantize("--format", *words, "--out", folder)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((folder / "weft_quantization.json").read_text())
    assert manifest["format"] == name
    assert all(0 < tensor["relative_error"] < 0.02 for tensor in manifest["tensors"].values())
    assert (folder / "tokenizer.json").read_bytes() == (MODEL / "tokenizer.json").read_bytes()
    smaller = (folder / "model.safetensors").stat().st_size / (MODEL / "model.safetensors").stat().st_size
    assert smaller < 0.55
    with Service(BINARIES, "inference", tmp_path / "inference.log", model__folder=str(folder)) as channel:
        service = InferenceServiceStub(channel)
        assert service.GetModelInfo(weft.GetModelInfoRequest(), timeout=10).dtype == name
        request = weft.GenerateRequest(
            prompt_token_ids=PROMPT, sampling={"temperature": 0}, stop={"max_tokens": 1, "ignore_eos": True}
        )
        events = list(service.Generate(request, timeout=60))
    assert [token.id for event in events for token in event.tokens.tokens] == [PARIS]


def test_a_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "precious").write_text("data")
    done = quantize("--format", "int8", "--out", folder)
    assert done.returncode == 1
    assert "exists already" in done.stderr
    assert "--force" in done.stderr
    assert [file.name for file in tmp_path.rglob("*")] == ["mine", "precious"]


def test_an_unquantizable_folder_is_named(tmp_path: Path) -> None:
    command = [BINARIES / "weft", "model", "quantize", tmp_path, "--format", "int8", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"{tmp_path / 'config.json'}: No such file" in done.stderr
    assert not (tmp_path / "out").exists()
