"""lm-eval, unmodified, against the HTTP API: `make test-lm-eval`. What it measures is what the engine itself says."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mesh import ROOT, Mesh
from weft.gateway.v1 import gateway_pb2 as weft
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from weft.inference.v1.inference_pb2 import ScoreRequest
from weft.inference.v1.inference_pb2_grpc import InferenceServiceStub
from weft.tokenizer.v1.tokenizer_pb2 import EncodeRequest
from weft.tokenizer.v1.tokenizer_pb2_grpc import TokenizerServiceStub

MODEL = "smollm2-135m-instruct"
PYTHON = ROOT / ".weft" / "venv-lm-eval" / "bin" / "python"
QUESTIONS = [
    {"question": "The capital of France is", "choices": ["Paris", "Rome", "Berlin, and not Paris"], "answer": 0},
    {
        "question": "Water freezes at",
        "choices": ["zero degrees Celsius", "fifty degrees", "naïve café 日本"],
        "answer": 0,
    },
    {"question": "The sun rises in the", "choices": ["west", "east", "kitchen\nor the cellar 🦀"], "answer": 1},
]
TEXTS = [
    {"text": "The capital of France is", "target": "Paris"},
    {"text": "One, two, three, four,", "target": "five"},
    {"text": "Roses are red, violets are", "target": "blue"},
]
UNTIL = ["\n", "."]
MAX_TOKENS = 12
# Sums of a few log-probabilities, in bf16: batches of other shapes round elsewhere.
TOLERANCE = 0.1
CHOICE = """
task: weft_choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}]
"""
CONTINUE = f"""
task: weft_continue
output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{target}}}}"
generation_kwargs: {{until: {json.dumps(UNTIL)}, max_gen_toks: {MAX_TOKENS}, temperature: 0, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


def write_task(folder: Path, name: str, task: str, documents: list[dict[str, Any]]) -> None:
    """A task and its documents, as a user brings them."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(f"{json.dumps(document)}\n" for document in documents))
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    lines = [f"{key}: {json.dumps(value)}" for key, value in source.items()]
    (folder / f"{name}.yaml").write_text(task + "\n".join(lines) + "\n")


def evaluate(
    mesh: Mesh, folder: Path, tasks: list[str], batch_size: int = 1, **arguments: object
) -> dict[str, list[Any]]:
    """Runs lm-eval; what the model answered to each document, by task."""
    write_task(folder, "weft_choice", CHOICE, QUESTIONS)
    write_task(folder, "weft_continue", CONTINUE, TEXTS)
    arguments = {"model": MODEL, "base_url": f"{mesh.openai()}/completions", "max_retries": 1, **arguments}
    command = [
        *[PYTHON, "-m", "lm_eval", "run", "--model", "local-completions", "--include_path", folder],
        *["--model_args", ",".join(f"{key}={value}" for key, value in arguments.items())],
        *["--tasks", ",".join(tasks), "--batch_size", str(batch_size)],
        *["--log_samples", "--output_path", folder / "out"],
    ]
    offline = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=folder, env=os.environ | offline, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    samples = {task: next((folder / "out").rglob(f"samples_{task}_*.jsonl")) for task in tasks}
    read = {task: [json.loads(line) for line in file.read_text().splitlines()] for task, file in samples.items()}
    return {task: sorted(lines, key=lambda line: line["doc_id"]) for task, lines in read.items()}


def token_ids(tokenizer: TokenizerServiceStub, text: str) -> list[int]:
    """As lm-eval encodes: nothing is added around a text."""
    return list(tokenizer.Encode(EncodeRequest(text=text, add_special_tokens=False), timeout=10).token_ids)


def likelihoods(mesh: Mesh) -> list[list[float]]:
    """The log-likelihood of each choice behind its question, by Score."""
    with mesh.channel("tokenizer") as channel, mesh.channel("inference") as engine:
        tokenizer, inference = TokenizerServiceStub(channel), InferenceServiceStub(engine)
        found = []
        for document in QUESTIONS:
            context = len(token_ids(tokenizer, document["question"]))
            texts = [f"{document['question']} {choice}" for choice in document["choices"]]
            inputs = [{"token_ids": token_ids(tokenizer, text)} for text in texts]
            scores = inference.Score(ScoreRequest(inputs=inputs), timeout=60).scores
            found.append([sum(score.logprobs[context - 1 :]) for score in scores])
        return found


def continuations(gateway: GatewayServiceStub) -> list[str]:
    """What the model says after each text, by gRPC."""
    options = {"sampling": {"temperature": 0}, "stop": {"max_tokens": MAX_TOKENS}, "stop_strings": UNTIL}
    said = []
    for document in TEXTS:
        request = weft.CompleteRequest(prompt=document["text"], options=options)
        said.append("".join(event.delta.text for event in gateway.Complete(request, timeout=60)))
    return said


TOKENIZER = ROOT / "models" / MODEL
VARIANTS = {
    "ids": {"tokenizer": TOKENIZER, "tokenized_requests": True, "num_concurrent": 3, "batch_size": 2},
    "texts": {"tokenizer": TOKENIZER, "tokenized_requests": False, "num_concurrent": 3, "batch_size": 2},
    "one by one": {"tokenizer": TOKENIZER, "tokenizer_backend": "huggingface"},
}


@pytest.mark.parametrize("arguments", VARIANTS.values(), ids=list(VARIANTS))
def test_lm_eval_reads_what_the_engine_says(
    mesh: Mesh, gateway: GatewayServiceStub, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    """Log-likelihoods and continuations are those of gRPC, however lm-eval sends its requests."""
    answered = evaluate(mesh, tmp_path, ["weft_choice", "weft_continue"], **arguments)
    told = [[float(response[0][0]) for response in line["resps"]] for line in answered["weft_choice"]]
    for ours, theirs in zip(likelihoods(mesh), told, strict=True):
        assert theirs == pytest.approx(ours, abs=TOLERANCE)
    assert [line["resps"][0][0] for line in answered["weft_continue"]] == continuations(gateway)


def test_lm_eval_generates_without_a_tokenizer(mesh: Mesh, gateway: GatewayServiceStub, tmp_path: Path) -> None:
    """Generations need none at all."""
    answered = evaluate(mesh, tmp_path, ["weft_continue"], tokenizer_backend="None", num_concurrent=2)
    assert [line["resps"][0][0] for line in answered["weft_continue"]] == continuations(gateway)
