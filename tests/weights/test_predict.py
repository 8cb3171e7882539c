"""Folders of models that write: the picture in, the reference's tokens out.

Every folder is one that the reference's processor and model wrote themselves; what our `caption`
writes after the family's own prompt is compared with `generate` of the reference on what its
processor makes of the same picture file and of the prompt as it is published.
"""

import dataclasses
import json
from collections import defaultdict

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_sample_images

import vlm_jax
from tests.weights import parity
from tests.weights.writers import CASES, TOWER, blip, idefics, image_processor, make_tokenizer
from vlm_jax import modes
from vlm_jax.data import in_memory, sizes
from vlm_jax.data.pipeline import Loader
from vlm_jax.data.schema import DataError
from vlm_jax.evaluate import Run
from vlm_jax.weights import adopt

NEW = 6
PHOTO = load_sample_images().images[0][100:160, 200:290]
QUESTION = "What colour is the roof?"
ANSWERING = {"paligemma": "answer en "}
"""What is said before a question."""

STARTING = {"git": 1, "blip-2, T5": 1, "blip-2, OPT": 5}
"""How many tokens that it was not given stand in front of what the reference returns."""


SEEDS = {"blip-2, OPT": 4, "gemma3": 2}
"""Cases in which the model of seed 0 repeats one token."""


def written(folder, model, processor, seed=0):
    """Our model of a folder that the reference wrote, and the tokens that ours never writes."""
    parity.randomise(model, seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    ours = vlm_jax.load_pretrained(folder)
    words, vocab = ours.run.experiment.tokenizer, ours.run.experiment.model.decoder.vocab
    special = {words.pad, words.bos, words.mask} - {*words.ends, None}
    return ours, [*special, *range(words.size, vocab)]


def reference(model, inputs, banned):
    """What greedy search writes after the prompt."""
    flags = dict(max_new_tokens=NEW, do_sample=False, suppress_tokens=banned)
    with torch.no_grad():
        found = model.generate(**inputs, **flags)[0].tolist()
    ids = inputs["input_ids"][0].tolist() if "input_ids" in inputs else []
    return found[len(ids) :] if found[: len(ids)] == ids else found


def ids_of_ours(run, task, photo, question):
    """The real ids that our prompt has for a question about the photo."""
    example = {"id": "", "image": photo, "captions": [], "questions": [question]}
    loader = Loader([example], run.experiment.read, {"inputs": lambda e, _: task.query(e)}, "raise")
    found = loader(0)["inputs"]
    name = "text" if "text" in found else "tokens"
    return found[name][found[f"{name}_mask"]].tolist()


@pytest.fixture
def photo(tmp_path):
    return saved(PHOTO, tmp_path / "roof.png")


@pytest.fixture
def texts(monkeypatch):
    """The tokens of every text that ours writes, in order."""
    found = []
    monkeypatch.setattr(Run, "_texts", lambda self, tokens: found.append(tokens.tolist()) or "")
    return found


def saved(pixels, path):
    Image.fromarray(pixels).save(path)
    return path


def shorten(model, name):
    """So that the reference and ours write little."""
    task = model.run.experiment.tasks[name]
    room = task.length - task._answer_length() if name == "vqa_generation" else 0
    model.run.experiment.tasks[name] = dataclasses.replace(task, length=NEW + room)


def assert_same(found, expected):
    """Ours goes on with padding after the end."""
    assert len(set(expected)) > 1
    assert found[: len(expected)] == expected, (found, expected)


@pytest.mark.parametrize("case", CASES)
def test_picture_files_are_described_as_by_the_reference(case, photo, tmp_path, texts):
    model, processor, prompt, caption = CASES[case]()
    ours, banned = written(tmp_path / "folder", model, processor, SEEDS.get(case, 0))
    tasks = ours.run.experiment.tasks
    shorten(ours, "captioning")
    paths = [photo, saved(PHOTO[20:50, ::-1][:, 9:33], tmp_path / "wall.png")]
    ours.caption(paths)
    for path, found in zip(paths, texts, strict=True):
        image = Image.open(path)
        text = {} if caption is None else dict(text=[prompt.format(caption)])
        inputs = processor(images=image, return_tensors="pt", **text)
        if text:
            asked = ids_of_ours(ours.run, tasks["captioning"], path, {})
            assert asked == inputs["input_ids"][0].tolist()
        question = prompt.format(ANSWERING.get(case, "") + QUESTION)
        asked = ids_of_ours(ours.run, tasks["vqa_generation"], path, dict(question=QUESTION))
        assert asked == processor(images=image, text=[question])["input_ids"][0]
        assert_same(found, reference(model, inputs, banned)[STARTING.get(case, 0) :])


def test_gemma3_pans_and_scans_where_its_folder_says_so(photo, tmp_path, texts):
    """The reference's processor does so where it is asked to in the call."""
    model, processor, prompt, caption = CASES["gemma3"]()
    sizes = dict(min_crop_size=15, max_num_crops=3, min_ratio_to_activate=1.3)
    told = {f"pan_and_scan_{key}": value for key, value in sizes.items()}
    told |= dict(do_pan_and_scan=True)
    for key, value in told.items():
        setattr(processor.image_processor, key, value)
    ours, banned = written(tmp_path / "folder", model, processor, SEEDS["gemma3"])
    task = ours.run.experiment.tasks["captioning"]
    shorten(ours, "captioning")
    shown = dict(tall=PHOTO[:, :20], square=PHOTO[:, :60])
    paths = [photo, *(saved(x, tmp_path / f"{name}.png") for name, x in shown.items())]
    ours.caption(paths)
    for path, found, count in zip(paths, texts, (2, 3, 0), strict=True):
        given = dict(images=Image.open(path), text=[prompt.format(caption)], return_tensors="pt")
        assert len(processor(**given)["pixel_values"]) == 1
        inputs = processor(**given, **told)
        assert len(inputs["pixel_values"]) == 1 + count
        assert ids_of_ours(ours.run, task, path, {}) == inputs["input_ids"][0].tolist()
        assert_same(found, reference(model, inputs, banned))


def test_blip_goes_on_after_the_words_it_was_trained_with(photo, tmp_path, texts):
    model, processor = blip(transformers.BlipForConditionalGeneration)
    ours, banned = written(tmp_path / "folder", model, processor)
    inputs = processor(images=Image.open(photo), text="a picture of", return_tensors="pt")
    shorten(ours, "captioning")
    ours.caption(photo)
    expected = reference(model, inputs, banned)
    assert_same(texts[0], expected[inputs["input_ids"].shape[1] - 1 :])  # without [SEP]


def test_blip_answers(photo, tmp_path, texts):
    model, processor = blip(transformers.BlipForQuestionAnswering)
    ours, banned = written(tmp_path / "folder", model, processor)
    inputs = processor(images=Image.open(photo), text=QUESTION, return_tensors="pt")
    shorten(ours, "vqa_generation")
    ours.answer(photo, QUESTION)
    assert_same(texts[0], reference(model, inputs, banned)[1:])


def test_idefics_sees_the_picture_from_its_token_on(photo, tmp_path, texts):
    model, processor = idefics()
    ours, banned = written(tmp_path / "folder", model, processor)
    token = processor.tokenizer.convert_tokens_to_ids("<image>")
    tuned = adopt.complete(dict(init=str(tmp_path / "folder")))  # a run that starts from it
    assert ours.run.experiment.model.decoder.image_token == token
    assert tuned["model"]["decoder"]["image_token"] == token
    for name in ("captioning", "vqa_generation"):
        shorten(ours, name)
    ours.caption(photo)
    ours.answer(photo, QUESTION)
    told = "Instruction: Provide an answer to the question. Use the image to answer.\n"
    image = Image.open(photo)
    asked = [[image], [told, image, f"Question: {QUESTION} Answer:"]]
    for found, prompt in zip(texts, asked, strict=True):
        inputs = processor(text=[prompt], return_tensors="pt")
        assert inputs["image_attention_mask"].any() and not inputs["image_attention_mask"].all()
        assert_same(found, reference(model, inputs, banned))
    assert texts[0] != texts[1]


def test_qwen2_vl_sees_the_frames_of_a_video(tmp_path, texts):
    model, processor, prompt, caption = CASES["qwen2_vl"]()
    processor.video_processor.size = dict(shortest_edge=64, longest_edge=2000)
    processor.video_processor.num_frames = 5  # an odd one: the last is repeated
    ours, banned = written(tmp_path / "folder", model, processor)
    shorten(ours, "captioning")
    frames = np.stack([PHOTO[8 * i : 8 * i + 24, :40] for i in range(5)])
    ours.caption(frames)
    given = dict(do_sample_frames=False, return_tensors="pt")
    asked = prompt.replace("image_pad", "video_pad").format(caption)
    inputs = processor(text=[asked], videos=[torch.from_numpy(frames)], **given)
    assert inputs["video_grid_thw"].tolist() == [[3, 6, 10]]
    assert_same(texts[0], reference(model, inputs, banned))


def test_naflex_embeds_pictures_of_any_shape(tmp_path):
    names = ["<pad>", "<eos>", "<bos>"]
    roles = dict(pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
    words = make_tokenizer(names, after=["<eos>"], **roles)
    vision = TOWER | dict(num_patches=16, patch_size=8)
    text = TOWER | dict(vocab_size=len(words), max_position_embeddings=8)
    config = transformers.Siglip2Config(vision_config=vision, text_config=text)
    pictures = image_processor("Siglip2", patch_size=8, max_num_patches=20)
    model = parity.randomise(transformers.Siglip2Model(config))
    model.save_pretrained(tmp_path)
    transformers.Siglip2Processor(pictures, words).save_pretrained(tmp_path)
    shown = [PHOTO, PHOTO[:, :21]]
    inputs = pictures([Image.fromarray(pixels) for pixels in shown], return_tensors="pt")
    with torch.no_grad():
        found = model.get_image_features(**inputs).pooler_output
    expected = torch.nn.functional.normalize(found, dim=-1).numpy()
    ours = vlm_jax.load_pretrained(tmp_path)
    parity.compare({"x": ours.embed_image(shown)}, {"x": expected}, 1e-5)


WORDS = ["a roof of red tiles", "the wall answers", "colour", "Describe this image"]


def clip(folder):
    """Similarity of every (picture, text) as the reference has it, from the folder it writes."""
    words = make_tokenizer(["<s>", "</s>"], ["<s>"], ["</s>"], eos_token="</s>", pad_token="</s>")
    text = TOWER | dict(vocab_size=len(words), max_position_embeddings=40)
    config = transformers.CLIPConfig(
        text_config=text | dict(eos_token_id=words.eos_token_id),
        vision_config=TOWER | dict(image_size=32, patch_size=8),
        projection_dim=8,
    )
    pictures = image_processor("CLIP", size={"shortest_edge": 32}, crop_size=32)
    model = parity.randomise(transformers.CLIPModel(config))
    processor = transformers.CLIPProcessor(pictures, words)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return lambda **given: model(**processor(**given)).logits_per_image / model.logit_scale.exp()


def blip_retrieval(folder):
    """Cosine of every (picture, text) plus the logit of a match, by which the authors rank; they
    begin a text that is to be matched with the last token of the table, the reference does not.
    """
    model, processor = blip(transformers.BlipForImageTextRetrieval)
    parity.randomise(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)

    def scores(text, images, **options):
        given = processor(text=text, images=images, **options)
        cosines = model(**given, use_itm_head=False)[0]
        logits = [
            [_match(model, processor(text=[t], images=[i], **options)) for t in text]
            for i in images
        ]
        return cosines + torch.tensor(logits)

    return scores


def _match(model, given):
    given["input_ids"][:, 0] = model.config.text_config.vocab_size - 1
    return float(model(**given, use_itm_head=True).itm_score[0, 1])


@pytest.mark.parametrize("kind", [clip, blip_retrieval])
def test_folders_that_rank_do_so_from_the_command_line(kind, tmp_path, capsys):
    scores, data = kind(tmp_path / "folder"), tmp_path / "data"
    data.mkdir()
    shown = [PHOTO, PHOTO[20:50, ::-1][:, 9:33], PHOTO[::-1, :40], 255 - PHOTO[:30]]
    paths = [saved(pixels, data / f"{number}.png") for number, pixels in enumerate(shown)]
    rows = [
        dict(id=path.stem, image=path.name, captions=[text])
        for path, text in zip(paths, WORDS, strict=True)
    ]
    (data / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "words.txt").write_text("\n".join(WORDS))
    with torch.no_grad():
        pictures = [Image.open(path) for path in paths]
        given = dict(text=WORDS, images=pictures, padding=True, return_tensors="pt")
        expected = scores(**given).numpy()

    def launched(mode, **options):
        told = defaultdict(lambda: None, pretrained=str(tmp_path / "folder"), **options)
        assert modes.MODES[mode](None, "", told) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    found = launched("predict", text=WORDS[1], images=str(data))["ranking"]
    assert [row["index"] for row in found] == np.argsort(-expected[:, 1]).tolist()
    found = launched("predict", image=str(paths[2]), texts=str(tmp_path / "words.txt"))["ranking"]
    assert [row["text"] for row in found] == [WORDS[i] for i in np.argsort(-expected[2])]
    metrics = launched("eval", data=str(data))
    name = "reranked/" if kind is blip_retrieval else ""
    for way, table in (("image_to_text", expected), ("text_to_image", expected.T)):
        ranks = 1 + (table > np.diag(table)[:, None]).sum(axis=1)
        assert metrics[f"retrieval/{way}/{name}R@1"] == np.mean(ranks == 1)
        assert metrics[f"retrieval/{way}/{name}mean_rank"] == np.mean(ranks)


def test_vilt_chooses_among_its_answers(photo, tmp_path):
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    roles = dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]")
    words = make_tokenizer(names, before=["[CLS]"], after=["[SEP]"], **roles)
    sizes = TOWER | dict(vocab_size=len(words), image_size=32, patch_size=8)
    answers = {number: f"answer {number}" for number in range(7)}
    config = transformers.ViltConfig(**sizes, id2label=answers, max_position_embeddings=40)
    pictures = image_processor("Vilt", size={"shortest_edge": 32}, size_divisor=8)
    processor = transformers.ViltProcessor(pictures, words)
    model = parity.randomise(transformers.ViltForQuestionAnswering(config))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    ours = vlm_jax.load_pretrained(tmp_path)
    asked = [QUESTION, "What is this?", "how many are there"]
    inputs = processor([Image.open(photo)] * 3, asked, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits.numpy()
    assert ours.answer(photo, asked) == [answers[number] for number in logits.argmax(axis=1)]
    source = in_memory.pictures([photo] * 3, asked)
    rows = ours.run.rows("classify", source, ours.run.experiment.tasks["vqa"].query)
    parity.compare({"x": np.stack([row["logits"] for _, row in rows])}, {"x": logits}, 1e-5)


REGIONS = {
    "visual_bert": (
        transformers.VisualBertForQuestionAnswering,
        lambda words: transformers.VisualBertConfig(
            **TOWER, vocab_size=words, visual_embedding_dim=10, num_labels=6
        ),
    ),
    "lxmert": (
        transformers.LxmertForQuestionAnswering,
        lambda words: transformers.LxmertConfig(
            **{key: TOWER[key] for key in TOWER if key != "num_hidden_layers"},
            vocab_size=words,
            visual_feat_dim=6,
            num_qa_labels=6,
            l_layers=1,
            x_layers=1,
            r_layers=1,
        ),
    ),
}


def reader_of_regions(case, folder):
    """Our model of a folder, and the reference's logits f32[6] of regions and a question."""
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    roles = dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]")
    words = make_tokenizer(names, before=["[CLS]"], after=["[SEP]"], **roles)
    kind, config = REGIONS[case]
    model = parity.randomise(kind(config(len(words))))
    model.save_pretrained(folder)
    words.save_pretrained(folder)

    def logits(regions, question):
        shown = torch.from_numpy(regions)[None]
        inputs = words(question, return_tensors="pt")
        if case == "lxmert":
            inputs |= dict(visual_feats=shown[..., :6], visual_pos=shown[..., 6:])
        else:
            inputs |= dict(visual_embeds=shown)
        with torch.no_grad():
            found = model(**inputs)
        return found["logits" if case == "visual_bert" else "question_answering_score"][0].numpy()

    return vlm_jax.load_pretrained(folder), logits


@pytest.mark.parametrize("case", REGIONS)
def test_regions_are_asked_for_where_a_picture_is_given(case, photo, tmp_path):
    ours, logits = reader_of_regions(case, tmp_path)
    with pytest.raises(DataError, match=r"features of detected regions, f32\[regions, 10\]"):
        ours.answer(photo, QUESTION)
    regions = np.random.default_rng(0).random((5, 10), np.float32)
    assert ours.answer(regions, QUESTION) == f"LABEL_{logits(regions, QUESTION).argmax()}"


@pytest.mark.parametrize("case", REGIONS)
def test_pictures_may_have_different_numbers_of_regions(case, tmp_path):
    ours, logits = reader_of_regions(case, tmp_path)
    rng = np.random.default_rng(0)
    shown = [rng.random((count, 10), np.float32) for count in (5, 1, 9, 3)]
    asked = [QUESTION, "What is this?", "how many are there", QUESTION]
    expected = np.stack([logits(*pair) for pair in zip(shown, asked, strict=True)])
    answers = [f"LABEL_{number}" for number in expected.argmax(axis=1)]
    assert ours.answer(shown, asked) == answers
    query = ours.run.experiment.tasks["vqa"].query
    for most in (0, 11):
        read = dataclasses.replace(ours.run.experiment.read, most=most)
        ours.run.experiment = dataclasses.replace(ours.run.experiment, read=read)
        rows = list(ours.run.rows("classify", in_memory.pictures(shown, asked), query))
        parity.compare({"x": np.stack([x["logits"] for _, x in rows])}, {"x": expected}, 1e-5)
    with pytest.raises(DataError, match=r"at least 1 of them .* these are \[0, 10\]"):
        sizes.regions(np.zeros((0, 10), np.float32))
    with pytest.raises(DataError, match=r"between 1 and 2 of them \(data.image.most\)"):
        sizes.regions(shown[0], 2)
