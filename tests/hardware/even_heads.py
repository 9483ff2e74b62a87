"""A copy of a model that two GPUs can share: it computes the same as the original, with heads of zeros added.

usage: python3 even_heads.py MODEL_FOLDER EMPTY_FOLDER

The model is one of the Llama family in bfloat16, such as SmolLM2, whose nine heads can't be shared. Needs nothing else.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path


def with_even_heads(model: Path, folder: Path) -> None:
    """Write a copy of a model that has four KV heads for its three, and query heads in proportion."""
    config = json.loads((model / "config.json").read_text())
    heads, kv, hidden = (config[name] for name in ("num_attention_heads", "num_key_value_heads", "hidden_size"))
    size, more = hidden // heads, kv % 2
    config |= {"num_attention_heads": heads + more * heads // kv, "num_key_value_heads": kv + more, "head_dim": size}
    for each in model.iterdir():
        if each.name not in ("config.json", "model.safetensors"):
            (folder / each.name).write_bytes(each.read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    with (model / "model.safetensors").open("rb") as file:
        names = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        begin, data, header = file.tell(), bytearray(), {}
        for name, known in names.items():
            if name == "__metadata__":
                header[name] = known
                continue
            assert known["dtype"] == "BF16", f"{name} is of {known['dtype']}; expected BF16"
            file.seek(begin + known["data_offsets"][0])
            bits, shape = file.read(known["data_offsets"][1] - known["data_offsets"][0]), known["shape"]
            added = more * size * (heads // kv if ".q_proj" in name or ".o_proj" in name else 1)
            if ".o_proj" in name:
                row = 2 * shape[1]
                bits = b"".join(bits[at : at + row] + bytes(2 * added) for at in range(0, len(bits), row))
                shape = [shape[0], shape[1] + added]
            elif any(part in name for part in (".q_proj", ".k_proj", ".v_proj")):
                bits, shape = bits + bytes(2 * added * shape[1]), [shape[0] + added, shape[1]]
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(data), len(data) + len(bits)]}
            data += bits
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir()
    with_even_heads(Path(sys.argv[1]), Path(sys.argv[2]))
