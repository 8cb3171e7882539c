"""Folders of one network alone, asked in Python as the reference answers from the same files.

Every folder is one that the reference's tokenizer or image processor and model wrote themselves.
"""

import dataclasses
import functools
import json
import math
from collections import defaultdict

import pytest
import torch
import torchvision
import transformers
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms._presets import ImageClassification

import vlm_jax
from tests.weights import parity
from tests.weights.test_predict import PHOTO
from tests.weights.writers import LLAMA, TOWER, ids_of, image_processor, index, make_tokenizer
from vlm_jax import modes
from vlm_jax.data.schema import DataError

NEW = 6
STARTS = ["a roof, what colour", "Describe this image. ASSISTANT:", "red"]
OTHER = PHOTO[20:50, ::-1][:, 9:33].copy()


def saved(folder, model, *processors, seed=0):
    """Our model of a folder that the reference wrote."""
    parity.randomise(model, seed).save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)
    return vlm_jax.load_pretrained(folder)


def gpt2():
    words = make_tokenizer(["<|endoftext|>"], eos_token="<|endoftext|>", bos_token="<|endoftext|>")
    config = transformers.GPT2Config(
        **ids_of(words, len(words) + 3), n_embd=16, n_layer=2, n_head=2, n_positions=64
    )
    return transformers.GPT2LMHeadModel(config), words


def llama():
    roles = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    words = make_tokenizer(["<s>", "</s>", "<pad>"], ["<s>"], legacy=True, **roles)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, **ids_of(words))), words


def smollm2():
    roles = dict(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>")
    words = make_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], **roles)
    known = LLAMA | ids_of(words) | dict(tie_word_embeddings=True)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**known)), words


def gemma2():
    roles = dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    words = make_tokenizer(["<pad>", "<eos>", "<bos>"], ["<bos>"], **roles)
    known = LLAMA | ids_of(words) | dict(head_dim=8, sliding_window=5)
    return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**known)), words


def qwen2():
    words = make_tokenizer(
        ["<|endoftext|>", "<|im_end|>"], eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    known = LLAMA | dict(vocab_size=len(words) + 7, eos_token_id=0, pad_token_id=0)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**known))
    model.generation_config.eos_token_id = [0, index(words, "<|im_end|>")]
    return model, words


def opt():
    roles = dict(bos_token="</s>", eos_token="</s>", pad_token="<pad>")
    words = make_tokenizer(["<pad>", "</s>"], ["</s>"], **roles)
    sizes = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, ffn_dim=20)
    config = transformers.OPTConfig(**ids_of(words), **sizes, word_embed_proj_dim=12)
    return transformers.OPTForCausalLM(config), words


def t5():
    words = make_tokenizer(["<pad>", "</s>"], after=["</s>"], pad_token="<pad>", eos_token="</s>")
    config = transformers.T5Config(
        **ids_of(words), d_model=12, d_kv=4, d_ff=20, num_layers=2, num_heads=3
    )
    config.decoder_start_token_id = 0
    return transformers.T5ForConditionalGeneration(config), words


WRITERS = {one.__name__: one for one in (gpt2, llama, smollm2, gemma2, qwen2, opt, t5)}


@pytest.mark.parametrize("name", WRITERS)
def test_language_models_go_on_with_a_text_as_the_reference_does(name, tmp_path):
    model, words = WRITERS[name]()
    ours = saved(tmp_path, model, words)
    assert ours.abilities == (("complete", "features") if name == "t5" else ("complete",))
    tokenizer, vocab = ours.run.experiment.tokenizer, ours.run.experiment.model.decoder.vocab
    special = {tokenizer.pad, tokenizer.bos, tokenizer.mask} - {*tokenizer.ends, None}
    flags = dict(max_new_tokens=NEW, do_sample=False)
    flags |= dict(suppress_tokens=[*special, *range(tokenizer.size, vocab)])
    ways: list = [({}, {})] + [(dict(beams=3), dict(num_beams=3))] * (name in ("llama", "t5"))
    for options, more in ways:
        found = ours.complete(STARTS, NEW, **options)
        for start, text in zip(STARTS, found, strict=True):
            inputs = words(start, return_tensors="pt")
            inputs.pop("token_type_ids", None)
            with torch.no_grad():
                tokens = model.generate(**inputs, **flags, **more)[0]
            count = 0 if name == "t5" else inputs["input_ids"].shape[1]
            decode = lambda ids: words.decode(ids, skip_special_tokens=True)
            expected = (
                decode(tokens) if name == "t5" else decode(tokens)[len(decode(tokens[:count])) :]
            )
            assert text == expected
        assert any(map(str.strip, found))


def bert_words():
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    roles = dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]")
    return make_tokenizer(names, ["[CLS]"], ["[SEP]"], mask_token="[MASK]", **roles)


def classified(logits, names):
    """What `classify` says where these are the logits."""
    chances = torch.softmax(logits, dim=-1)
    return [
        [
            (names[i], pytest.approx(row[i].item(), abs=1e-5), i)
            for i in row.argsort().tolist()[::-1]
        ]
        for row in chances
    ]


def rows(found):
    return [tuple(row.values()) for row in found]


LABELS = {
    number: f"a kind of {name}" for number, name in enumerate(["roof", "wall", "tree", "sky"])
}


def vit():
    config = transformers.ViTConfig(**TOWER, image_size=32, patch_size=8, id2label=LABELS)
    pictures = image_processor("ViT", size=dict(height=32, width=32))
    return transformers.ViTForImageClassification(config), pictures


def resnet():
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", id2label=LABELS
    )
    pictures = image_processor("ConvNext", size={"shortest_edge": 48}, crop_pct=0.875)
    return transformers.ResNetForImageClassification(config), pictures


@pytest.mark.parametrize("writer", [vit, resnet])
def test_classifiers_name_pictures_and_have_features_without_the_classes(writer, tmp_path):
    model, pictures = writer()
    ours = saved(tmp_path, model, pictures)
    shown = [PHOTO, OTHER]
    inputs = pictures([Image.fromarray(x) for x in shown], return_tensors="pt")
    with torch.no_grad():
        expected = classified(model(**inputs).logits, LABELS)
        inside = model.base_model(**inputs)
    found = ours.classify(shown, top=3)
    assert [rows(one) for one in found] == [one[:3] for one in expected]
    assert rows(ours.classify(PHOTO)) == expected[0]
    pooled = inside[0][:, 0] if writer is vit else inside.pooler_output[..., 0, 0]
    parity.compare({"x": ours.features(shown)}, {"x": pooled.numpy()}, 1e-5)
    assert ours.abilities == ("classify", "features")
    with pytest.raises(ValueError, match=r"trained for classification; what it can: classify, f"):
        ours.caption(PHOTO)


def test_a_bare_encoder_has_the_features_of_the_reference(tmp_path):
    sizes = dict(image_size=32, patch_size=8)
    model = transformers.ViTModel(transformers.ViTConfig(**TOWER, **sizes))
    pictures = image_processor("ViT", size=dict(height=32, width=32))
    ours = saved(tmp_path / "vit", model, pictures)
    with torch.no_grad():
        inputs = pictures(Image.fromarray(PHOTO), return_tensors="pt")
        expected = model(**inputs).pooler_output[0].numpy()
    parity.compare({"x": ours.features(PHOTO)}, {"x": expected}, 1e-5)
    words = bert_words()
    model = transformers.BertModel(transformers.BertConfig(**TOWER, vocab_size=len(words)))
    ours = saved(tmp_path / "bert", model, words)
    with torch.no_grad():
        expected = model(**words(STARTS, padding=True, return_tensors="pt")).pooler_output
    parity.compare({"x": ours.features(text=STARTS)}, {"x": expected.numpy()}, 1e-5)
    with pytest.raises(ValueError, match="trained for no task here; what it can: features"):
        ours.complete("a")


MASKED = "a [MASK] of red tiles and [MASK]."


def filled(words, logits, ids, top=5):
    """What `fill` says where these are the logits of a text's tokens."""
    found = []
    for scores in torch.softmax(logits[ids == words.mask_token_id], dim=-1):
        best = scores.argsort(descending=True)[:top].tolist()
        name = lambda i: words.convert_ids_to_tokens(i)
        found.append([(name(i), pytest.approx(scores[i].item(), abs=1e-5), i) for i in best])
    return found


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForPreTraining"])
def test_blanks_are_filled_as_by_the_reference(kind, tmp_path):
    words = bert_words()
    config = transformers.BertConfig(**TOWER, vocab_size=len(words))
    model = getattr(transformers, kind)(config)
    ours = saved(tmp_path, model, words)
    inputs = words(MASKED, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs)["logits" if kind == "BertForMaskedLM" else "prediction_logits"]
    found = ours.fill(MASKED)
    assert [rows(blank) for blank in found] == filled(words, logits, inputs["input_ids"])
    assert len(found) == 2 and ours.fill(["[MASK]", MASKED])[1][0][0] == found[0][0]
    with pytest.raises(DataError, match=r"has no blank: write \[MASK\] where"):
        ours.fill("nothing to fill")


def vilt(kind):
    words = bert_words()
    sizes = TOWER | dict(vocab_size=len(words), image_size=32, patch_size=8)
    config = transformers.ViltConfig(**sizes, max_position_embeddings=40)
    pictures = image_processor("Vilt", size={"shortest_edge": 32}, size_divisor=8)
    return kind(config), transformers.ViltProcessor(pictures, words)


def test_vilt_fills_blanks_in_what_is_said_of_a_picture(tmp_path):
    model, processor = vilt(transformers.ViltForMaskedLM)
    ours = saved(tmp_path, model, processor)
    inputs = processor(Image.fromarray(OTHER), MASKED, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[:, : inputs["input_ids"].shape[1]]
    expected = filled(processor.tokenizer, logits, inputs["input_ids"])
    assert [rows(blank) for blank in ours.fill(MASKED, OTHER)] == expected
    with pytest.raises(ValueError, match="sees pictures: give an image"):
        ours.fill(MASKED)


def lxmert():
    words = bert_words()
    sizes = {key: TOWER[key] for key in TOWER if key != "num_hidden_layers"}
    sizes |= dict(l_layers=1, x_layers=1, r_layers=1, visual_feat_dim=6, num_qa_labels=5)
    sizes |= dict(num_object_labels=3, num_attr_labels=4)
    config = transformers.LxmertConfig(**sizes, vocab_size=len(words))
    split = lambda x: dict(visual_feats=x[..., :6], visual_pos=x[..., 6:])
    return transformers.LxmertForPreTraining(config), words, split


def visual_bert():
    words = bert_words()
    config = transformers.VisualBertConfig(**TOWER, vocab_size=len(words), visual_embedding_dim=10)
    return transformers.VisualBertForPreTraining(config), words, lambda x: dict(visual_embeds=x)


@pytest.mark.parametrize("writer", [lxmert, visual_bert])
def test_pretraining_heads_fill_blanks_and_rank_by_regions(writer, tmp_path):
    model, words, given = writer()
    ours = saved(tmp_path, model, words)
    regions = torch.rand((3, 4, 10), generator=torch.Generator().manual_seed(0))

    def theirs(image, text):
        inputs = words(text, return_tensors="pt")
        with torch.no_grad():
            return inputs["input_ids"], model(**inputs, **given(image[None]))

    ids, found = theirs(regions[1], MASKED)
    expected = filled(words, found.prediction_logits[:, : ids.shape[1]], ids)
    assert [rows(blank) for blank in ours.fill(MASKED, regions[1].numpy())] == expected
    if writer is visual_bert:
        with pytest.raises(ValueError, match="cannot rank: it was trained for masked_pretraining"):
            ours.rank(STARTS[0], list(regions.numpy()))
        return
    logits = [theirs(x, STARTS[0])[1].cross_relationship_score[0, 1].item() for x in regions]
    ranked = ours.rank(STARTS[0], list(regions.numpy()))
    assert [(row["index"], row["score"]) for row in ranked] == [
        (i, pytest.approx(logits[i], abs=1e-5)) for i in sorted(range(3), key=lambda i: -logits[i])
    ]
    _, found = theirs(regions[0], STARTS[1])
    best = found.question_answering_score.argmax().item()
    assert ours.answer(regions[0].numpy(), STARTS[1]) == f"LABEL_{best}"
    with pytest.raises(ValueError, match="no shared space; what it can: answer, fill, rank"):
        ours.embed_text("a")


def test_torchvisions_classifiers_read_pictures_as_its_weights_do(tmp_path):
    made = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], 4)
    model = parity.randomise(made)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = dict(model_type="torchvision", arch="resnet18", image_size=64, id2label=LABELS)
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = vlm_jax.load_pretrained(tmp_path)
    prepare = ImageClassification(crop_size=64, resize_size=73)
    with torch.no_grad():
        logits = model(torch.stack([prepare(Image.fromarray(x)) for x in (PHOTO, OTHER)]))
    found = ours.classify([PHOTO, OTHER])
    assert [rows(one) for one in found] == classified(logits, LABELS)
    ours = vlm_jax.load_pretrained(tmp_path)
    assert ours.abilities == ("classify", "features")


def launched(capsys, folder, mode, **options):
    """The JSON that a mode ends with."""
    told = defaultdict(lambda: None, pretrained=str(folder), **options)
    assert modes.MODES[mode](None, "", told) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def nats(model, words, texts):
    """Mean over all tokens of the reference's loss of each text."""
    with torch.no_grad():
        ids = [words(text, return_tensors="pt")["input_ids"] for text in texts]
        losses = [model(input_ids=x, labels=x).loss.item() for x in ids]
    counts = [x.shape[1] - 1 for x in ids]
    return sum(a * b for a, b in zip(losses, counts, strict=True)) / sum(counts)


def test_language_models_complete_and_are_scored_from_the_command_line(tmp_path, capsys):
    model, words = llama()
    ours = saved(tmp_path / "folder", model, words)
    (tmp_path / "texts.txt").write_text("\n".join(STARTS))
    ask = functools.partial(launched, capsys, tmp_path / "folder")
    found = ask("predict", text=STARTS[0])
    assert found == {"text": STARTS[0], "completion": ours.complete(STARTS[0])}
    metrics = ask("eval", texts=str(tmp_path / "texts.txt"))
    expected = nats(model, words, STARTS)
    assert metrics["completion/loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["completion/perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    with pytest.raises(ValueError, match=r"--mode=predict takes .* this model can: complete"):
        ask("predict", image="a.png", audio="b")
    with pytest.raises(ValueError, match=r"needs --data=FOLDER with a data.jsonl, or, for a"):
        ask("eval")


def test_classifiers_are_asked_and_scored_from_the_command_line(tmp_path, capsys):
    model, pictures = vit()
    ours = saved(tmp_path / "folder", model, pictures)
    data = tmp_path / "data"
    data.mkdir()
    shown = [PHOTO, OTHER, 255 - PHOTO[:30], PHOTO[:, ::-1, ::-1]]
    best = [rows[0]["label"] for rows in ours.classify(shown)]
    labels = [best[0], *[next(x for x in LABELS.values() if x != best[1])] * 2, LABELS[0]]
    for number, pixels in enumerate(shown):
        Image.fromarray(pixels).save(data / f"{number}.png")
    lines = [dict(id=str(i), image=f"{i}.png", label=x, captions=[]) for i, x in enumerate(labels)]
    (data / "data.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    ask = functools.partial(launched, capsys, tmp_path / "folder")
    found = ask("predict", images=str(data))["predictions"]
    assert [row["classes"] for row in found] == ours.classify(shown)
    assert ask("predict", image=str(data / "0.png"))["classes"] == ours.classify(PHOTO)
    metrics = ask("eval", data=str(data))
    right = [a == b for a, b in zip(best, labels, strict=True)]
    assert metrics["classification/accuracy"] == pytest.approx(sum(right) / 4)
    lines = [dict(id="0", image="0.png", captions=["a roof"])]
    (data / "data.jsonl").write_text(json.dumps(lines[0]))
    with pytest.raises(ValueError, match="scored by: classification needs image and label"):
        ask("eval", data=str(data))


def test_blanks_are_filled_from_the_command_line(tmp_path, capsys):
    model, processor = vilt(transformers.ViltForMaskedLM)
    ours = saved(tmp_path / "folder", model, processor)
    path = tmp_path / "photo.png"
    Image.fromarray(OTHER).save(path)
    found = launched(capsys, tmp_path / "folder", "predict", text=MASKED, image=str(path))
    assert found == {"text": MASKED, "image": str(path), "blanks": ours.fill(MASKED, OTHER)}


CHATML = """{% if messages[0]['role'] != 'system' %}<|im_start|>system
You are a wall.<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] | trim }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def test_language_models_talk_as_their_template_says(tmp_path):
    model, words = smollm2()
    words.chat_template = CHATML
    ours = saved(tmp_path, model, words)
    assert ours.abilities == ("chat", "complete")
    task = ours.run.experiment.tasks["chat"]
    ours.run.experiment.tasks["chat"] = dataclasses.replace(task, answer_length=NEW)
    chat = ours.chat()
    turns: list = []
    for start in STARTS[:2]:
        turns.append(dict(role="user", content=start))
        asked = words.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        before = len(chat.tokens)
        answer = chat.say(start)
        said = chat.tokens[before:]
        new = asked[len(words.apply_chat_template(turns[:-1])["input_ids"]) :] if before else asked
        given = said[: len(new) + bool(before)]
        assert given[-len(new) :] == new
        ids = torch.tensor([[*chat.tokens[:before], *given]])
        flags = dict(max_new_tokens=NEW, do_sample=False, suppress_tokens=[1])
        with torch.no_grad():
            found = model.generate(ids, attention_mask=torch.ones_like(ids), **flags)[0]
        assert said[len(given) :][:NEW] == found.tolist()[ids.shape[1] :]
        turns.append(dict(role="assistant", content=answer))
    with pytest.raises(ValueError, match="sees no pictures: say it in words"):
        chat.say("look", [PHOTO])
