"""Tokenizers in the forms in which families publish them: small vocabularies, and everything else as in their files.

`tokenizer_class`, normalizer, pre-tokenizer, special tokens and the fields of tokenizer_config.json are facts of the
checkpoints on the hub; vocabularies are trained here.
"""

# ruff: noqa: E501 - templates are one line each
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

_TEXT = ["Tom has 12 apples and buys 30 more.", "How many are left? Asked: the apples. #### 42", "é 猫 ✓"]
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
_GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
_DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _GPT2])


def _split(pattern: str) -> Any:
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), bytes_])


def _byte_level(
    pre_tokenizer: Any, special: list[AddedToken], normalizer: Any = None, text: list[str] = _TEXT
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, pre_tokenizer, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320 - len(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_tokens(special)
    return tokenizer


def _digits_apart() -> Tokenizer:
    """Numbers have tokens that its splitting never reaches, and AutoTokenizer's does."""
    tokenizer = _byte_level(_GPT2, _IM, text=[*_TEXT, *["sells 16 eggs"] * 20])
    tokenizer.pre_tokenizer = _DIGITS
    return tokenizer


def _pieces(special: list[AddedToken], normalizer: Any = None, pre_tokenizer: Any = None) -> Tokenizer:
    """As converted from SentencePiece, with single bytes for what the vocabulary lacks."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    first = [token.content for token in special[:3]]
    trainer = trainers.BpeTrainer(
        vocab_size=320 - len(special) + 3,
        special_tokens=[*first, *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=40,
        show_progress=False,
    )
    tokenizer.train_from_iterator(["▁Tom▁has▁12▁apples", "How▁many▁are▁left?"], trainer)
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = []  # bytes are no added tokens
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.add_tokens(special)
    return tokenizer


def _control(*texts: str, **flags: bool) -> list[AddedToken]:
    return [AddedToken(text, normalized=False, special=True, **flags) for text in texts]


def _prepended() -> Any:
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def _gemma() -> Tokenizer:
    turns = _control("<start_of_turn>", "<end_of_turn>")
    lines = [AddedToken("\n" * count, normalized=False) for count in (1, 2, 3)]
    special = [*_control("<pad>", "<eos>", "<bos>", "<unk>"), *turns, *lines]
    return _pieces(special, normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"))


_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_INSTRUCTIONS = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + "
    "m['content'].strip() + ' [/INST]' }}{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_HEADERS = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_TURNS = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' "
    "+ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_MARKED = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
_ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
_ROLES = (
    "{% for m in messages %}{{ '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + '<|end_of_text|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)
_SPM = {
    "add_bos_token": True,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
    "legacy": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sp_model_kwargs": {},
    "tokenizer_class": "LlamaTokenizer",
}
_UNKNOWN = _control("<unk>", "<s>", "</s>")


@dataclass(frozen=True)
class Published:
    """One family's files.

    Attributes:
        family: By its name in `families.FAMILIES`.
        tokenizer: Makes its tokenizer.json.
        config: Its tokenizer_config.json.
        template: Its chat template.
        turn_end: What ends a turn of its template.
    """

    family: str
    tokenizer: Callable[[], Tokenizer]
    config: dict[str, Any]
    template: str
    turn_end: str
    special_tokens_map: dict[str, Any] = field(default_factory=dict)

    def save(self, directory: Path) -> Tokenizer:
        """Write the files; the base's other files stay."""
        directory.mkdir(parents=True, exist_ok=True)
        tokenizer = self.tokenizer()
        tokenizer.save(str(directory / "tokenizer.json"))
        config = {**self.config, "chat_template": self.template, "model_max_length": 512}
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
        if self.special_tokens_map:
            (directory / "special_tokens_map.json").write_text(json.dumps(self.special_tokens_map))
        return tokenizer


_IM = _control("<|endoftext|>", "<|im_start|>", "<|im_end|>")

PUBLISHED = {
    "Llama 2": Published("llama", lambda: _pieces(_UNKNOWN, _prepended()), _SPM, _INSTRUCTIONS, "</s>"),
    "Llama 2, legacy": Published(
        "llama", lambda: _pieces(_UNKNOWN, _prepended()), {**_SPM, "legacy": True}, _INSTRUCTIONS, "</s>"
    ),
    "TinyLlama": Published(
        "llama", lambda: _pieces(_UNKNOWN, _prepended()), {**_SPM, "pad_token": "</s>"}, _ZEPHYR, "</s>"
    ),
    "Llama 3": Published(
        "llama",
        lambda: _byte_level(
            _split(_LLAMA3),
            _control("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ),
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "clean_up_tokenization_spaces": True,
            "model_input_names": ["input_ids", "attention_mask"],
        },
        _HEADERS,
        "<|eot_id|>",
    ),
    "SmolLM2": Published(
        "llama",
        _digits_apart,
        {
            "tokenizer_class": "GPT2Tokenizer",
            "add_prefix_space": False,
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
        },
        _CHATML,
        "<|im_end|>",
    ),
    "Mistral": Published(
        "mistral",
        lambda: _pieces(
            _UNKNOWN + _control("[INST]", "[/INST]"),
            pre_tokenizer=pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False),
        ),
        {**_SPM, "add_prefix_space": None},
        _INSTRUCTIONS,
        "</s>",
    ),
    "Qwen 2.5 base": Published(
        "qwen2",
        lambda: _byte_level(_split(_QWEN), [*_IM, AddedToken("<tool_call>", normalized=False)], normalizers.NFC()),
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "add_prefix_space": False,
            "add_bos_token": False,
            "bos_token": None,
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "errors": "replace",
            "split_special_tokens": False,
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        },
        _CHATML,
        "<|im_end|>",
    ),
    "Qwen 3": Published(
        "qwen3",
        lambda: _byte_level(
            _split(_QWEN),
            [*_IM, AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)],
            normalizers.NFC(),
        ),
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "add_prefix_space": False,
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "errors": "replace",
        },
        _CHATML,
        "<|im_end|>",
    ),
    "Gemma 2": Published(
        "gemma2",
        _gemma,
        {
            "tokenizer_class": "GemmaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "clean_up_tokenization_spaces": False,
            "sp_model_kwargs": {},
            "spaces_between_special_tokens": False,
            "use_default_system_prompt": False,
        },
        _TURNS,
        "<end_of_turn>",
    ),
    "Gemma 3": Published(
        "gemma3",
        _gemma,
        {"tokenizer_class": "GemmaTokenizer", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
        _TURNS,
        "<end_of_turn>",
        {
            "bos_token": {
                "content": "<bos>",
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
            }
        },
    ),
    "Phi-3": Published(
        "phi3",
        lambda: _pieces(
            _UNKNOWN
            + _control("<|endoftext|>")
            + _control("<|assistant|>", "<|system|>", "<|end|>", "<|user|>", rstrip=True),
            _prepended(),
        ),
        {**_SPM, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        _MARKED,
        "<|end|>",
    ),
    "SmolLM3": Published(
        "smollm3",
        lambda: _byte_level(_split(_LLAMA3), _control("<|begin_of_text|>", "<|end_of_text|>") + _IM[1:]),
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "fast": False,
            "clean_up_tokenization_spaces": True,
        },
        _CHATML,
        "<|im_end|>",
    ),
    "Granite 3": Published(
        "granite",
        lambda: _byte_level(_DIGITS, _control("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>")),
        {
            "tokenizer_class": "GPT2Tokenizer",
            "add_bos_token": False,
            "add_prefix_space": False,
            "bos_token": "<|end_of_text|>",
            "eos_token": "<|end_of_text|>",
            "pad_token": "<|end_of_text|>",
            "unk_token": "<|end_of_text|>",
            "errors": "replace",
            "vocab_size": 49152,
        },
        _ROLES,
        "<|end_of_text|>",
    ),
}
