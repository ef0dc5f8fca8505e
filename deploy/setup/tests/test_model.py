"""The converted model: the same tokens as the reference, the same numbers, and a clear word where it cannot be."""

import json
import sys
import tempfile
import unittest
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

SETUP = Path(__file__).resolve().parents[1]
ROOT = SETUP.parents[1]
sys.path.insert(0, str(SETUP))

import gguf_to_hf  # noqa: E402

HEADS, KV_HEADS, HIDDEN, FEED_FORWARD = 2, 1, 16, 24


def write_gguf(path: Path, architecture: str = "llama", tokenizer: str = "smollm") -> dict[str, np.ndarray]:
    """Writes a tiny model of one layer in llama.cpp's layout and returns its tensors as they were before."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_block_count(1)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(4)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer)
    writer.add_token_list(["<end>", "a", "b", "ab"])
    writer.add_token_types([3, 1, 1, 1])
    writer.add_token_merges(["a b"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id, writer.add_unk_token_id):
        add(0)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template("{{ messages }}")
    tensors = random_tensors()
    for name, values in tensors.items():
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[2] if name.startswith("blk") else "")
        writer.add_tensor(name, values if heads is None else permute(values, heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def random_tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    kv = HIDDEN // HEADS * KV_HEADS
    shapes = {
        "token_embd.weight": (4, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "output.weight": (4, HIDDEN),
        "blk.0.attn_norm.weight": (HIDDEN,),
        "blk.0.attn_q.weight": (HIDDEN, HIDDEN),
        "blk.0.attn_k.weight": (kv, HIDDEN),
        "blk.0.attn_v.weight": (kv, HIDDEN),
        "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
        "blk.0.ffn_norm.weight": (HIDDEN,),
        "blk.0.ffn_gate.weight": (FEED_FORWARD, HIDDEN),
        "blk.0.ffn_up.weight": (FEED_FORWARD, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, FEED_FORWARD),
    }
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp does to q and k: row i and row i + head/2 of each head become neighbours."""
    head = rows.shape[0] // heads
    order = [part * head // 2 + index for index in range(head // 2) for part in range(2)]
    return np.concatenate([rows[start : start + head][order] for start in range(0, rows.shape[0], head)])


class ConversionTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.source = Path(folder.name) / "tiny.gguf"
        self.made = Path(folder.name) / "made"

    def test_every_tensor_arrives_under_its_new_name(self):
        tensors = write_gguf(self.source)
        gguf_to_hf.convert(self.source, self.made, "f32")
        weights = load_file(self.made / "model.safetensors")
        self.assertEqual(len(weights), len(tensors))
        layer = "model.layers.0"
        for name, expected in {
            "model.embed_tokens.weight": "token_embd.weight",
            "lm_head.weight": "output.weight",
            f"{layer}.self_attn.q_proj.weight": "blk.0.attn_q.weight",
            f"{layer}.self_attn.k_proj.weight": "blk.0.attn_k.weight",
            f"{layer}.self_attn.v_proj.weight": "blk.0.attn_v.weight",
            f"{layer}.mlp.down_proj.weight": "blk.0.ffn_down.weight",
        }.items():
            np.testing.assert_array_equal(weights[name], tensors[expected], err_msg=name)

    def test_the_config_says_what_the_file_says(self):
        write_gguf(self.source)
        gguf_to_hf.convert(self.source, self.made, "bf16")
        config = json.loads((self.made / "config.json").read_text())
        expected = {
            "architectures": ["LlamaForCausalLM"],
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HIDDEN // HEADS,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }
        self.assertEqual({key: config[key] for key in expected}, expected)

    def test_bf16_is_rounded_to_nearest_and_ties_to_even(self):
        values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -0.0, np.inf, 3.4e38], dtype="<f4")
        found = gguf_to_hf.bf16_bits(values)
        self.assertEqual([hex(bits) for bits in found], ["0x3f80", "0x3f80", "0x3f82", "0x8000", "0x7f80", "0x7f80"])

    def test_what_it_does_not_know_is_refused_by_name(self):
        for given, word in [({"architecture": "bert"}, "bert"), ({"tokenizer": "llama-bpe"}, "llama-bpe")]:
            write_gguf(self.source, **given)
            with self.assertRaisesRegex(SystemExit, word):
                gguf_to_hf.convert(self.source, self.made, "f32")


class DefaultModelTest(unittest.TestCase):
    def test_its_tokens_are_those_of_the_reference(self):
        cases = json.loads((ROOT / "tests" / "golden" / "smollm2_tokens.json").read_text())
        for folder in ("smollm2-135m-instruct", "smollm2-135m-instruct-f32"):
            tokenizer = Tokenizer.from_file(str(ROOT / "models" / folder / "tokenizer.json"))
            for case in cases:
                with self.subTest(folder=folder, text=case["text"][:40]):
                    ids = tokenizer.encode(case["text"], add_special_tokens=False).ids
                    self.assertEqual(ids, case["ids"])
                    self.assertEqual(tokenizer.decode(ids, skip_special_tokens=False), case["decoded"])


if __name__ == "__main__":
    unittest.main()
