"""vLLM's engine on the CPU, in process, with its prefix cache: `vllm_peer.py MODEL_FOLDER CACHE_GIB`."""

import os
import sys
from pathlib import Path

from serve import private_stdout, serve

LINES = private_stdout()
# What it compiles at its first start is kept beside its environment.
CACHE = Path(sys.prefix).parent / "cache-vllm"
os.environ.update(
    {
        "VLLM_CPU_KVCACHE_SPACE": sys.argv[2],
        "VLLM_CPU_OMP_THREADS_BIND": "0-1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(CACHE),
        "TORCHINDUCTOR_CACHE_DIR": str(CACHE / "inductor"),
        "HF_HUB_OFFLINE": "1",
    }
)

import vllm  # noqa: E402


class Engine:
    """The engine, and how far each request has come."""

    def __init__(self, folder: str) -> None:
        arguments = vllm.EngineArgs(
            model=folder, dtype="bfloat16", max_model_len=8192, max_num_seqs=64, enable_prefix_caching=True
        )
        self._engine = vllm.LLMEngine.from_engine_args(arguments)
        self._tokens: dict[int, int] = {}

    def add(self, key: int, prompt: list[int], max_tokens: int) -> None:
        """Takes a request: greedy, past end tokens."""
        params = vllm.SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False)
        self._tokens[key] = 0
        self._engine.add_request(str(key), {"prompt_token_ids": prompt}, params)

    def step(self) -> dict[int, int]:
        """Goes one step; gives how many tokens came for which request."""
        came: dict[int, int] = {}
        for output in self._engine.step():
            key, total = int(output.request_id), len(output.outputs[0].token_ids)
            came[key] = total - self._tokens[key]
            self._tokens[key] = total
        return came


if __name__ == "__main__":
    serve(LINES, Engine(sys.argv[1]), {"version": vllm.__version__})
