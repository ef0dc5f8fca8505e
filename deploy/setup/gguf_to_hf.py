"""Turns a Llama-family GGUF file with a byte-level BPE tokenizer into a Hugging Face folder.

Runs in the environment of `pins/model-tools.txt`; set-up calls it as
`python gguf_to_hf.py IN.gguf OUT_DIR --dtype bf16|f32`.
Services read Hugging Face folders only, so this file is the one place that knows GGUF.
"""

import argparse
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, TokenType, dequantize
from numpy.typing import NDArray
from safetensors import TensorSpec, serialize_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

Floats = NDArray[np.float32]

# GGUF's name of a layer's tensor → Hugging Face's.
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
DTYPES = {"bf16": "bfloat16", "f32": "float32"}


class Source:
    """A GGUF file: its metadata by key and its tensors in f32."""

    def __init__(self, path: Path) -> None:
        self._reader = GGUFReader(path)
        architecture = self["general.architecture"]
        if architecture != "llama":
            raise SystemExit(f"{path}: general.architecture is {architecture!r}, expected 'llama'")

    def __getitem__(self, key: str) -> Any:
        field = self._reader.fields.get(key)
        if field is None:
            raise SystemExit(f"the GGUF metadata lacks {key!r}")
        return field.contents()

    def tensors(self) -> Iterator[tuple[str, Floats]]:
        """Yields each tensor under its Hugging Face name, rows in Hugging Face's order."""
        heads = {
            "attn_q": self["llama.attention.head_count"],
            "attn_k": self["llama.attention.head_count_kv"],
        }
        for tensor in self._reader.tensors:
            values = dequantize(tensor.data, tensor.tensor_type)
            if tensor.name in TOP_NAMES:
                yield TOP_NAMES[tensor.name], values
                continue
            _, layer, kind, suffix = tensor.name.split(".")
            if kind in heads:
                values = unpermute(values, heads[kind])
            yield f"model.layers.{layer}.{LAYER_NAMES[kind]}.{suffix}", values


def unpermute(rows: Floats, heads: int) -> Floats:
    """Undoes llama.cpp's interleaving of each head's two rotary halves.

    llama.cpp rotates neighbours (0, 1), (2, 3), …; Hugging Face rotates row i with row i + head/2.
    """
    head = rows.shape[0] // heads
    return rows.reshape(heads, head // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def bf16_bits(values: Floats) -> NDArray[np.uint16]:
    """Rounds f32 to bf16, to nearest and ties to even; the weights hold no NaN."""
    bits = values.view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded >> 16).astype("<u2")


def write_weights(source: Source, path: Path, dtype: str) -> bool:
    """Writes the weights; returns whether the output head is tied to the embedding."""
    # The writer takes addresses, so the arrays live here until it is done.
    arrays: dict[str, NDArray[Any]] = {}
    for name, values in source.tensors():
        exact = np.ascontiguousarray(values, dtype="<f4")
        arrays[name] = bf16_bits(exact) if dtype == "bf16" else exact
    specs = {
        name: TensorSpec(
            dtype=DTYPES[dtype],
            shape=array.shape,
            data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in arrays.items()
    }
    serialize_file(specs, path, {"format": "pt"})
    # The writer makes it private; the other files of the folder are as the umask says, so this one is, too.
    path.chmod((path.parent.stat().st_mode & 0o666) | stat.S_IWUSR)
    return "lm_head.weight" not in arrays


def config(source: Source, dtype: str, tied: bool) -> dict[str, Any]:
    """`config.json` of a LlamaForCausalLM."""
    hidden, heads = source["llama.embedding_length"], source["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": source["llama.vocab_size"],
        "hidden_size": hidden,
        "intermediate_size": source["llama.feed_forward_length"],
        "num_hidden_layers": source["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": source["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "max_position_embeddings": source["llama.context_length"],
        # GGUF holds f32: seven digits bring back the decimal number that was written.
        "rms_norm_eps": float(f"{source['llama.attention.layer_norm_rms_epsilon']:.7g}"),
        "rope_theta": float(f"{source['llama.rope.freq_base']:.7g}"),
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "torch_dtype": DTYPES[dtype],
        "use_cache": True,
        **special_ids(source),
    }


def special_ids(source: Source) -> dict[str, int]:
    """The token ids that begin, end and pad a text."""
    return {
        "bos_token_id": source["tokenizer.ggml.bos_token_id"],
        "eos_token_id": source["tokenizer.ggml.eos_token_id"],
        "pad_token_id": source["tokenizer.ggml.padding_token_id"],
    }


def control_tokens(source: Source) -> list[str]:
    """The tokens that never stand for text: GGUF's token type 3."""
    kinds = source["tokenizer.ggml.token_type"]
    tokens = source["tokenizer.ggml.tokens"]
    return [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]


def tokenizer(source: Source) -> Tokenizer:
    """Byte-level BPE over the GGUF's vocabulary and merges, digits one by one."""
    kind = source["tokenizer.ggml.model"], source["tokenizer.ggml.pre"]
    if kind != ("gpt2", "smollm"):
        raise SystemExit(f"tokenizer {kind} is not known here, expected ('gpt2', 'smollm')")
    vocabulary = {token: index for index, token in enumerate(source["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in source["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control_tokens(source)])
    return made


def tokenizer_config(source: Source) -> dict[str, Any]:
    """`tokenizer_config.json`: the special tokens by name and the chat template."""
    tokens = source["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": source["tokenizer.ggml.add_space_prefix"],
        "add_bos_token": source["tokenizer.ggml.add_bos_token"],
        "bos_token": tokens[source["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[source["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[source["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[source["tokenizer.ggml.unknown_token_id"]],
        "additional_special_tokens": control_tokens(source),
        "model_max_length": source["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": source["tokenizer.chat_template"],
    }


def convert(gguf: Path, folder: Path, dtype: str) -> None:
    """Writes the whole Hugging Face folder."""
    source = Source(gguf)
    folder.mkdir(parents=True, exist_ok=True)
    tied = write_weights(source, folder / "model.safetensors", dtype)
    tokenizer(source).save(str(folder / "tokenizer.json"))
    documents = {
        "config.json": config(source, dtype, tied),
        "generation_config.json": special_ids(source),
        "tokenizer_config.json": tokenizer_config(source),
    }
    for name, document in documents.items():
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, required=True)
    arguments = parser.parse_args()
    convert(arguments.gguf, arguments.folder, arguments.dtype)


if __name__ == "__main__":
    main()
