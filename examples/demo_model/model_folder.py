"""Writes the Hugging Face model folder, and reads it back to check it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from conversations import CHAT_TEMPLATE
from packing import END_OF_TEXT, IM_END, SPECIAL_TOKENS, special_ids
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

MAX_POSITION_EMBEDDINGS = 2048

SAMPLE_PROMPTS = (
    "Hello",
    "What is Baton?",
    "What is a generator?",
    "What does json.dumps do?",
    "How do I use os.path.join?",
    "Explain the with statement.",
    "What is the collections module?",
    "Why is the sky blue?",
)
SAMPLE_BEGINNINGS = ("A generator\n\n", "random.choice(seq)\n\n", "A function is")


def model_config(vocab_size: int) -> Qwen3Config:
    """Return the shape of the model: 4.5 million parameters, so bfloat16 weights fit in 9 MB."""
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=256,
        num_hidden_layers=5,
        intermediate_size=640,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=MAX_POSITION_EMBEDDINGS,
        tie_word_embeddings=True,
    )


def write_folder(folder: Path, model: Qwen3ForCausalLM, tokenizer: Tokenizer) -> None:
    """Write the complete model folder; files of an earlier export are replaced one by one."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = special_ids(tokenizer)
    _write_json(folder / "config.json", _config(model.config, ids))
    _write_json(folder / "generation_config.json", _generation_config(ids))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(ids))
    _replace(folder / "tokenizer.json", tokenizer.to_str(pretty=False).encode())
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.safetensors"
        save_file(_weights(model), path, metadata={"format": "pt"})
        _replace(folder / "model.safetensors", path.read_bytes())


def sample(folder: Path, max_new_tokens: int = 120) -> list[tuple[str, str]]:
    """Load the folder as any user would and return greedy answers to the sample prompts."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = []
    for text in (*SAMPLE_PROMPTS, *SAMPLE_BEGINNINGS):
        prompt = text
        if text in SAMPLE_PROMPTS:
            messages = [{"role": "user", "content": text}]
            rendered = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            prompt = str(rendered)
        inputs = tokenizer(prompt, return_tensors="pt")
        output = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        new_ids = output[0, inputs["input_ids"].shape[1] :]
        answers.append((text, str(tokenizer.decode(new_ids))))
    return answers


def _weights(model: Qwen3ForCausalLM) -> dict[str, torch.Tensor]:
    # The output projection is the embedding itself, so it is stored once.
    state = {
        name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"
    }
    return {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in state.items()}


def _config(config: Qwen3Config, ids: dict[str, int]) -> dict[str, object]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "max_position_embeddings": config.max_position_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "initializer_range": config.initializer_range,
        "use_cache": True,
        "bos_token_id": ids[END_OF_TEXT],
        "eos_token_id": ids[IM_END],
        "pad_token_id": ids[END_OF_TEXT],
        "torch_dtype": "bfloat16",
    }


def _generation_config(ids: dict[str, int]) -> dict[str, object]:
    return {
        "do_sample": True,
        "temperature": 0.3,
        "top_p": 0.9,
        "bos_token_id": ids[END_OF_TEXT],
        "eos_token_id": [ids[IM_END], ids[END_OF_TEXT]],
        "pad_token_id": ids[END_OF_TEXT],
    }


def _tokenizer_config(ids: dict[str, int]) -> dict[str, object]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    added = {
        str(ids[token]): {"content": token, **flags, "special": True} for token in SPECIAL_TOKENS
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": added,
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_POSITION_EMBEDDINGS,
        "chat_template": CHAT_TEMPLATE,
    }


def _write_json(path: Path, value: dict[str, object]) -> None:
    _replace(path, (json.dumps(value, indent=2) + "\n").encode())


def _replace(path: Path, content: bytes) -> None:
    """Swap the file in one step, so that a reader never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
