"""SentencePiece files are read as the library reads them."""

import pytest
import sentencepiece

from tests.tokenizers.test_classes import GEMMA, LLAMA, SPELLED, TEXTS, UNIGRAM, spoken, write
from vlm_jax.tokenizers.published import read_tokenizer
from vlm_jax.tokenizers.sentencepiece import BPE, CONTROL, USER_DEFINED, read_pieces


@pytest.mark.parametrize("options", [LLAMA, GEMMA, UNIGRAM])
def test_pieces_are_those_of_the_library(options, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(spoken(**options)["model"])
    library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    found = read_pieces(path)
    assert len(found.pieces) == library.get_piece_size()
    for index, (text, score, kind) in enumerate(found.pieces):
        assert (text, score) == (library.id_to_piece(index), library.get_score(index))
        assert (kind == CONTROL) == library.is_control(index)
        special = library.is_control(index) or library.is_unknown(index) or library.is_byte(index)
        assert kind != USER_DEFINED or not special
    assert found.unknown == library.unk_id()
    assert (found.kind == BPE) == found.byte_fallback == (options is not UNIGRAM)


def test_without_special_tokens_unigrams_are_those_of_the_library(tmp_path):
    write(tmp_path, "T5")
    library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    ours = read_tokenizer(tmp_path)
    for text in (*TEXTS, *SPELLED):
        assert ours.encode(text) == library.encode(text), text


@pytest.mark.parametrize("content", [b"", b"IQ== 0\nIg== 1\n", b"\xff" * 30])
def test_a_file_that_is_no_sentencepiece_model_is_named(content, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer.model is no SentencePiece model"):
        read_pieces(tmp_path / "tokenizer.model")
