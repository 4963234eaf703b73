"""A small SentencePiece tokenizer, as checkpoints have it: tokenizer.model and the tokenizer.json made from it."""

from __future__ import annotations

import io
import json
from pathlib import Path

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

_TEXT = ["Tom has 12 apples and buys 30 more.", "How many are left? Asked: the apples.", "é 猫 ✓ #### 42"] * 4
SPECIAL = ("<unk>", "<s>", "</s>")
ADDED = ("<|user|>", "<|end|>")
SIZE = 320


def merges_of(scores: dict[str, float]) -> list[tuple[str, str]]:
    """The merges that build tokens as SentencePiece does, the highest score first."""
    pairs = [
        (score, token[:cut], token[cut:])
        for token, score in scores.items()
        for cut in range(1, len(token))
        if token[:cut] in scores and token[cut:] in scores
    ]
    return [(left, right) for _, left, right in sorted(pairs, key=lambda pair: -pair[0])]


def normalizer(prefix: bool) -> normalizers.Normalizer:
    """Spaces become "▁", and one goes before the text where `prefix` says so."""
    replace = normalizers.Replace(" ", "▁")
    return normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace


def save_pieces(directory: Path, prefix: bool = True) -> Tokenizer:
    """Train and save a tokenizer of `SIZE` ids, added tokens included."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT),
        model_writer=model,
        vocab_size=SIZE - len(ADDED),
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        add_dummy_prefix=prefix,
        minloglevel=2,
    )
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    pieces = SentencePieceProcessor(model_proto=model.getvalue())
    names = [pieces.id_to_piece(id_) for id_ in range(pieces.vocab_size())]
    normal = [id_ for id_ in range(len(names)) if not (pieces.is_byte(id_) or names[id_] in SPECIAL)]
    merges = merges_of({names[id_]: pieces.get_score(id_) for id_ in normal})
    vocabulary = {name: id_ for id_, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizer(prefix)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in (*SPECIAL, *ADDED)])
    tokenizer.save(str(directory / "tokenizer.json"))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    ids = {str(id_): {"content": token.content, **flags} for id_, token in tokenizer.get_added_tokens_decoder().items()}
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "added_tokens_decoder": ids,
        "chat_template": "{% for message in messages %}<|user|>{{ message.content }}<|end|>{% endfor %}",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer
