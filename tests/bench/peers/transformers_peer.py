"""transformers, as one padded batch in process: `transformers_peer.py MODEL_FOLDER`."""

import os
import sys

from serve import private_stdout, serve

LINES = private_stdout()

import torch  # noqa: E402
import transformers  # noqa: E402


class Engine:
    """A batch that is decoded together: all of it is added before the first step."""

    def __init__(self, folder: str) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self._prompts: dict[int, list[int]] = {}
        self._left: dict[int, int] = {}
        self._cache: transformers.DynamicCache | None = None
        self._next: torch.Tensor | None = None

    def add(self, key: int, prompt: list[int], max_tokens: int) -> None:
        """Takes a request: greedy, past end tokens."""
        if self._cache is not None:
            raise RuntimeError("a batch is running: transformers takes no request into it")
        self._prompts[key] = prompt
        self._left[key] = max_tokens

    @torch.inference_mode()
    def step(self) -> dict[int, int]:
        """Goes one step; gives how many tokens came for which request."""
        if self._next is None:
            self._cache = transformers.DynamicCache()
            ids = torch.tensor(list(self._prompts.values()))
        else:
            ids = self._next
        out = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._next = out.logits[:, -1:].argmax(-1)
        came = dict.fromkeys(self._left, 1)
        self._left = {key: left - 1 for key, left in self._left.items()}
        if not any(self._left.values()):
            self._prompts, self._left, self._cache, self._next = {}, {}, None, None
        return came


if __name__ == "__main__":
    serve(LINES, Engine(sys.argv[1]), {"version": transformers.__version__})
