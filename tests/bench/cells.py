"""The cells of the comparison: what issue and report call a row."""

from collections.abc import Callable

from contenders import Contender
from measure import Request, Round, ids, plain
from race import Bar, Race

Shape = Callable[[str], Round]
SHARED, OWN = 512, 32


def weft(*formats: str) -> tuple[Contender, ...]:
    """Weft in these formats."""
    return tuple(Contender("weft", one) for one in formats)


def openvino(*formats: str) -> tuple[Contender, ...]:
    """OpenVINO GenAI in these formats."""
    return tuple(Contender("openvino", one) for one in formats)


def llama(*formats: str) -> tuple[Contender, ...]:
    """llama.cpp in these formats."""
    return tuple(Contender("llama.cpp", one) for one in formats)


VLLM = Contender("vllm", "bf16")
TRANSFORMERS = Contender("transformers", "bf16")
BF16_PEERS = (*openvino("bf16"), *llama("bf16"), VLLM)
SMALL = (*openvino("int8", "int4"), *llama("q8_0", "q4_0"))
INT4 = "int4-g32"
ALL_WEFT = weft("bf16", "int8", INT4)
Q4_0_NOTE = "llama.cpp's Q4_0 is far lossier than the quality gate for Weft's int4 allows; it is measured all the same."


def streams(count: int, prompt: int = 128, output: int = 128) -> Shape:
    """Streams that begin at once, each with a prompt of its own."""
    return lambda seed: plain(seed, count, prompt, output)


def with_shared_prefix(seed: str, count: int) -> Round:
    """Requests that share their first ids; they stay the same within a run, so a prefix cache knows them."""
    shared = ids("shared prefix", SHARED)
    requests = (Request(shared + ids(f"{seed} {index}", OWN), 64) for index in range(count))
    return Round(tuple(requests), 8)


def race(name: str, title: str, contenders: tuple[tuple[Contender, ...], ...], shape: Shape, *bars: Bar) -> Race:
    """A race of Weft's formats (first) against peers (second)."""
    ours, peers = contenders
    note = (Q4_0_NOTE,) if Contender("llama.cpp", "q4_0") in peers else ()
    return Race(name, title, ours, peers, shape, bars, note)


def ttft(name: str, ours: str, *peers: Contender) -> Race:
    """Time to first token of a prompt of 512."""
    bar = Bar("ttft_p50_s", 1.0)
    return race(f"ttft-{name}", f"512-token TTFT, {name}", (weft(ours), peers), streams(1, 512, 2), bar)


DECODE, OUTPUT = "decode_per_s", "output_per_s"

BF16 = [
    race("one-bf16", "1 stream, bf16", (weft("bf16"), (*BF16_PEERS, TRANSFORMERS)), streams(1), Bar(DECODE, 1.0)),
    race("eight-bf16", "8 streams, bf16", (weft("bf16"), (*BF16_PEERS, TRANSFORMERS)), streams(8), Bar(OUTPUT, 1.1)),
    race("thirty-two-bf16", "32 streams, bf16", (weft("bf16"), BF16_PEERS), streams(32), Bar(OUTPUT, 1.15)),
    ttft("bf16", "bf16", *BF16_PEERS),
    Race(
        "shared-prefix",
        f"shared prefix: {SHARED} + {OWN} in, 64 out, 8 streams",
        weft("bf16"),
        (VLLM,),
        lambda seed: with_shared_prefix(seed, 16),
        (Bar(OUTPUT, 1.3), Bar("ttft_p50_s", 0.8)),
        ("8 in flight, 16 requests; before each turn, uncounted, one more with the same prefix; TTFT is the median.",),
        prepare=lambda seed: with_shared_prefix(f"{seed} prepare", 1),
    ),
]
INT8_PEERS = (*openvino("int8"), *llama("q8_0"))
INT4_PEERS = (*openvino("int4"), *llama("q4_0"))
QUANTIZED = [
    race("one-int8", "1 stream, int8", (weft("int8"), INT8_PEERS), streams(1), Bar(DECODE, 1.1)),
    ttft("int8", "int8", *INT8_PEERS),
    race("one-int4", "1 stream, int4", (weft(INT4), INT4_PEERS), streams(1), Bar(DECODE, 1.15)),
    ttft("int4", INT4, *INT4_PEERS),
    race("eight-best", "8 streams, best format", (ALL_WEFT, SMALL), streams(8), Bar(OUTPUT, 1.2)),
    race("thirty-two-best", "32 streams, best format", (ALL_WEFT, SMALL), streams(32), Bar(OUTPUT, 1.15)),
]
