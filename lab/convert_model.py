"""Turns the GGUF weights of a package into a Hugging Face folder; runs in the vLLM image's root.

usage: convert_model.py GGUF_FILE TARGET_FOLDER
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

source, target = Path(sys.argv[1]), Path(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.bfloat16)
model.hf_quantizer = None  # the weights are no longer quantised; the saved configuration must not say so
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config
model.save_pretrained(target)
AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)
