"""OpenVINO GenAI's continuous batching, in process: `openvino_genai_peer.py MODEL_FOLDER CACHE_GIB`."""

import sys
from pathlib import Path

from serve import private_stdout, serve

LINES = private_stdout()

import numpy  # noqa: E402
import openvino  # noqa: E402
import openvino_genai  # noqa: E402

THREADS = 2
# As Weft's: what bounds the time that a prompt takes from the others.
STEP_TOKENS = 512
# A prompt is a tensor of ids, so the tokenizer has nothing to do; one must be there.
PROPERTIES = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}


class Engine:
    """The pipeline, and who waits for it."""

    def __init__(self, folder: Path, cache_gib: int) -> None:
        config = openvino_genai.SchedulerConfig()
        config.cache_size = cache_gib
        config.max_num_batched_tokens = STEP_TOKENS
        config.max_num_seqs = 64
        config.enable_prefix_caching = False
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(folder, config, "CPU", PROPERTIES)
        self._running: dict[int, openvino_genai.GenerationHandle] = {}

    def add(self, key: int, prompt: list[int], max_tokens: int) -> None:
        """Takes a request: greedy, past end tokens."""
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.min_new_tokens = max_tokens
        config.ignore_eos = True
        config.do_sample = False
        ids = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
        self._running[key] = self._pipeline.add_request(key, ids, config)

    def step(self) -> dict[int, int]:
        """Goes one step; gives how many tokens came for which request."""
        self._pipeline.step()
        came: dict[int, int] = {}
        for key, handle in list(self._running.items()):
            while handle.can_read():
                came[key] = came.get(key, 0) + sum(len(output.generated_ids) for output in handle.read().values())
            if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                del self._running[key]
        return came


if __name__ == "__main__":
    engine = Engine(Path(sys.argv[1]), int(sys.argv[2]))
    serve(LINES, engine, {"version": openvino_genai.__version__})
