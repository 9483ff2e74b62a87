"""A wider copy of a model: it computes the same as the original, as the heads and neurons that it adds give zero.

usage: python3 wider.py MODEL_FOLDER EMPTY_FOLDER [NEURONS]

Two GPUs can share its heads: it has four KV heads for SmolLM2's three, and query heads in proportion. With NEURONS in
the MLP of each layer (65,536 make 7 GB) it takes the memory and the time of a real model. The original is one of the
Llama family in bfloat16, such as SmolLM2. Needs nothing else.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from pathlib import Path

BYTES = 2  # of a bfloat16


def wider(model: Path, folder: Path, neurons: int = 0) -> None:
    """Write the copy; with too few `neurons` the MLPs stay as they are."""
    config = json.loads((model / "config.json").read_text())
    heads, kv, hidden = (config[name] for name in ("num_attention_heads", "num_key_value_heads", "hidden_size"))
    size, more, mlp = hidden // heads, kv % 2, max(0, neurons - config["intermediate_size"])
    config |= {"num_attention_heads": heads + more * heads // kv, "num_key_value_heads": kv + more, "head_dim": size}
    config["intermediate_size"] += mlp
    query, key = more * size * heads // kv, more * size
    rows = {"q_proj": query, "k_proj": key, "v_proj": key, "gate_proj": mlp, "up_proj": mlp}
    columns = {"o_proj": query, "down_proj": mlp}  # of zeros, so what the new rows make counts for nothing
    for each in model.iterdir():
        if each.name not in ("config.json", "model.safetensors"):
            (folder / each.name).write_bytes(each.read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    with (model / "model.safetensors").open("rb") as source, (folder / "model.safetensors").open("wb") as copy:
        names = json.loads(source.read(struct.unpack("<Q", source.read(8))[0]))
        names.pop("__metadata__", None)
        begin, end, header = source.tell(), 0, {}
        for name, known in names.items():
            assert known["dtype"] == "BF16", f"{name} is of {known['dtype']}; expected BF16"
            shape = [known["shape"][0] + _of(rows, name), *known["shape"][1:]]
            shape[-1] += _of(columns, name)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + BYTES * math.prod(shape)]}
            end += BYTES * math.prod(shape)
        text = json.dumps(header).encode()
        copy.write(struct.pack("<Q", len(text)) + text)
        for name, known in names.items():
            first, last = known["data_offsets"]
            source.seek(begin + first)
            bits = source.read(last - first)
            row = BYTES * known["shape"][-1]
            if more_columns := _of(columns, name):
                zeros = bytes(BYTES * more_columns)
                bits = b"".join(bits[at : at + row] + zeros for at in range(0, len(bits), row))
            copy.write(bits)
            for left in range(_of(rows, name) * row, 0, -len(bits)):
                copy.write(bits[:left])  # numbers like the model's: they are computed with, and cost as much


def _of(added: dict[str, int], name: str) -> int:
    return next((count for part, count in added.items() if f".{part}." in name), 0)


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir()
    wider(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 0)
