"""Makes `golden.json` beside each `adapter_config.json`: what PEFT answers with an adapter whose weights follow a rule.

The rule stands for a file of weights: `value` below, and its twin in the tests of the inference service, which write
the file from it. Run it with transformers 5.24, torch 2.11 and PEFT 0.21: `python tests/golden/lora/make.py`.
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
BASE = HERE.parent / "tiny" / "llama3-tied"
# Never chosen, as in the goldens of the tiny models.
END = 2
OUTPUT = 32
MASK = 0xFFFFFFFF


def value(tensor: int, element: int) -> float:
    """A number from -1/2 to 1/2 that looks drawn and is exact in f32."""
    mixed = (element + (tensor << 16) + 1) & MASK
    for _ in range(2):
        mixed = ((mixed ^ (mixed >> 16)) * 0x45D9F3B) & MASK
    mixed ^= mixed >> 16
    return (mixed & 0xFFFF) / 65536 - 0.5


def filled(tensor: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The values of the tensor that comes in this place when names are sorted."""
    count = torch.Size(shape).numel()
    return torch.tensor([value(tensor, element) for element in range(count)], dtype=torch.float32).reshape(shape)


@torch.inference_mode()
def case(model: torch.nn.Module, prompt: list[int]) -> dict[str, object]:
    """The logits after a prompt, and what is chosen greedily from there on."""
    ids, first = list(prompt), None
    for _ in range(OUTPUT):
        logits = model(torch.tensor([ids])).logits[0, -1]
        first = logits.clone() if first is None else first
        logits[END] = -torch.inf
        best = logits.topk(2).values
        assert best[0] - best[1] > 2e-3, "a near tie: choose another prompt"
        ids.append(int(logits.argmax()))
    top = first.topk(8)
    likeliest = [[int(token), round(float(logit), 5)] for logit, token in zip(*top, strict=True)]
    return {"input_ids": prompt, "greedy_ids": ids[len(prompt) :], "last_logits_top8": likeliest}


def prompts(salt: int) -> list[list[int]]:
    """A short one and one that takes several chunks."""
    return [[(at * 37 + salt * 11 + 5) % 500 + 3 for at in range(length)] for length in (4, 40)]


def main() -> None:
    """Writes all of them."""
    for salt, folder in enumerate(sorted(path.parent for path in HERE.glob("*/adapter_config.json"))):
        given = json.loads((folder / "adapter_config.json").read_text())
        config = LoraConfig(
            r=given["r"],
            lora_alpha=given["lora_alpha"],
            target_modules=given["target_modules"],
            task_type="CAUSAL_LM",
        )
        base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
        model = get_peft_model(base, config).eval()
        names = sorted(get_peft_model_state_dict(model).items())
        weights = {name: filled(index, tuple(tensor.shape)) for index, (name, tensor) in enumerate(names)}
        set_peft_model_state_dict(model, weights)
        golden = {
            "base": BASE.name,
            "tensors": {name: list(tensor.shape) for name, tensor in weights.items()},
            "cases": [case(model, prompt) for prompt in prompts(salt)],
        }
        (folder / "golden.json").write_text(json.dumps(golden) + "\n")


main()
