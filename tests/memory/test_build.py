"""Memories built out of data, and neighbours found in them: never an example's own."""

import json
import wave
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import vlm_jax
from tests import tiny
from tests.test_launch import listener
from vlm_jax import modes, train
from vlm_jax.data import in_memory
from vlm_jax.data.audio import as_audio, picture
from vlm_jax.data.images import decode, encode_png
from vlm_jax.data.schema import DataError
from vlm_jax.data.sources import flatten_questions, make_source
from vlm_jax.memory import BadMemory, Memory, neighbours, store
from vlm_jax.memory.build import build
from vlm_jax.memory.encoders import Pixels, make_encoder
from vlm_jax.memory.sheet import TILE, _thumbnail

SCENES = {"name": "scenes", "split": "train", "length": 30, "size": 32}


class Shades(list):
    """Pictures of growing darkness; neighbours in darkness are neighbours."""

    name = "shades"


def shades(count=8):
    picture = lambda i: np.tile(np.array([200, 40 + 20 * i, 90], np.uint8), (8, 8, 1))
    rows = [
        {"id": f"s{i}", "image": picture(i), "captions": [f"shade {i}", "x"]} for i in range(count)
    ]
    return Shades(row | {"questions": []} for row in rows)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path / "cache"))


def test_an_example_never_gets_its_own_texts_unless_asked(tmp_path):
    memory = build(Pixels(), shades(), tmp_path / "m", data={})
    found = neighbours.Retrieved(shades(), memory, Pixels(), k=3)
    for i in range(8):
        assert len(found[i]["retrieved"]) == 3
        assert f"shade {i}" not in found[i]["retrieved"]
    assert found[4]["retrieved"][0] in ("shade 3", "shade 5")
    own = neighbours.Retrieved(shades(), memory, Pixels(), k=3, own=True)
    assert [own[i]["retrieved"][0] for i in range(8)] == [f"shade {i}" for i in range(8)]
    assert [memory.entry(row)["texts"][0] for row in found.neighbours(4)] == found[4]["retrieved"]


def test_no_row_of_an_id_with_several_is_given_to_it(tmp_path):
    vectors = np.stack([v for _, v in Pixels().images(shades())])
    entries = [{"id": f"s{i // 4}", "texts": [f"t{i}"]} for i in range(8)]
    about = {"fingerprint": Pixels.fingerprint, "encoder": "pixels", "data": {}, "of": "text"}
    memory = store.write(tmp_path / "m", about, vectors, entries)
    found = neighbours.Retrieved(shades(2), memory, Pixels(), k=2)
    assert {*found[0]["retrieved"]} <= {"t4", "t5", "t6", "t7"} and len(found[0]["retrieved"]) == 2
    assert {*found[1]["retrieved"]} <= {"t0", "t1", "t2", "t3"}


def test_neighbours_are_found_once_and_kept(tmp_path, monkeypatch):
    memory = build(Pixels(), shades(), tmp_path / "m", data={})
    first = neighbours.Retrieved(shades(), memory, Pixels(), k=2)
    monkeypatch.setattr(neighbours, "Exact", None)
    again = neighbours.Retrieved(shades(), memory, Pixels(), k=2)
    assert [first[i]["retrieved"] for i in range(8)] == [again[i]["retrieved"] for i in range(8)]
    with pytest.raises(TypeError):  # other data: not in the cache
        neighbours.Retrieved(shades(7), memory, Pixels(), k=2)
    assert neighbours.Retrieved(shades(7), memory, Pixels(), k=0)[0]["retrieved"] == []


def test_the_source_of_a_config_has_neighbours_and_so_have_its_questions():
    config = {"name": "retrieved", "source": SCENES, "memory": {"source": SCENES}, "k": 2}
    source = make_source(config)
    others = {text for i in range(1, 30) for text in make_source(SCENES)[i]["captions"]}
    assert len(source) == 30 and {*source[0]["retrieved"]} <= others
    question = flatten_questions(source)[0]
    assert question["retrieved"] == source[0]["retrieved"]
    with pytest.raises(TypeError, match="did you mean 'encoder'"):
        make_source(config | {"memory": {"source": SCENES, "encoders": "pixels"}})


def test_another_memory_or_number_replaces_that_of_a_config():
    near = {"name": "retrieved", "source": SCENES, "memory": "a", "k": 4}
    assert neighbours.with_memory(near, None, None) == near
    assert neighbours.with_memory(near, "b", 1) == near | {"memory": "b", "k": 1}
    plain = {"name": "retrieved", "source": SCENES, "memory": "b"}
    assert neighbours.with_memory(SCENES, "b") == plain
    other = {"name": "jsonl", "path": "p"}
    assert neighbours.of_other(near, other)["source"] == other
    assert neighbours.of_other(SCENES, other) == other
    with pytest.raises(ValueError, match="give --memory"):
        neighbours.with_memory(SCENES, None, 2)


def test_broken_pictures_are_left_out_and_nothing_at_all_is_an_error(tmp_path):
    data = shades()
    data[2]["image"] = b"no picture"
    memory = build(Pixels(), data, tmp_path / "m", data={})
    assert len(memory) == 7
    found = neighbours.Retrieved(data, memory, Pixels(), k=2)
    assert found[2]["retrieved"] == [] and len(found[3]["retrieved"]) == 2
    broken = Shades([data[2]])
    with pytest.raises(BadMemory, match="none has a picture that can be read"):
        build(Pixels(), broken, tmp_path / "n", data={})
    with pytest.raises(DataError, match="no picture can be read"):
        neighbours.Retrieved(broken, memory, Pixels(), k=2)
    with pytest.raises(ValueError, match='of=\'words\': choose "image" or "text"'):
        build(Pixels(), data, tmp_path / "o", data={}, of="words")


def test_threads_may_read_entries_at_once(tmp_path):
    memory = build(Pixels(), shades(), tmp_path / "m", data={})
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda i: memory.entry(i % 8)["id"], range(400)))
    assert ids == [f"s{i % 8}" for i in range(400)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished tiny run."""
    folder = tmp_path_factory.mktemp("run") / "workdir"
    train.train(tiny.config(total_steps=1, evals={}, schedule={"name": "constant"}), folder)
    return folder


def ask(mode, folder, capsys, **options):
    assert modes.MODES[mode](None, str(folder), options) == 0
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_index_and_search_from_a_run(run, tmp_path, capsys):
    made = ask("index", run, capsys)
    assert made["rows"] == 64 and made["width"] == 8
    memory = Memory(made["memory"])
    encoder = make_encoder(str(run))
    assert encoder.fingerprint == memory.fingerprint == make_encoder(str(run)).fingerprint
    hits = ask("search", run, capsys, text="a red star", k=3)
    scores = [hit["score"] for hit in hits["hits"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 3
    wanted = memory.vectors(0, 64) @ encoder.texts(["a red star"])[0]
    assert hits["hits"][0]["row"] == int(np.argmax(wanted))
    picture = tmp_path / "p.png"
    picture.write_bytes(_png(make_source(memory.about["data"])[5]["image"]))
    near = ask("search", run, capsys, image=str(picture), search="faiss:flat")
    assert near["hits"][0]["position"] == 5 and near["hits"][0]["score"] == pytest.approx(1)
    assert (run / "search.png").read_bytes()[1:4] == b"PNG"
    words = ask("index", run, capsys, of="text", memory=str(tmp_path / "texts"))
    assert words["rows"] >= 64 and words["fingerprint"] == made["fingerprint"]


def _png(image):
    return encode_png(decode(image))


def test_sounds_are_remembered_and_found_by_sounds_texts_and_pictures(
    tmp_path, monkeypatch, capsys
):
    """With an untrained model: a sound is nearest to itself; the others agree with its vectors."""
    model = listener()
    monkeypatch.setattr("vlm_jax.api.load", lambda folder: model)
    source = make_source({"name": "scene_sounds", "source": SCENES | {"length": 4}})
    for i in range(4):
        _wav(tmp_path / f"{i}.wav", source[i]["audio"](16_000, 0.2))
    (tmp_path / "p.png").write_bytes(_png(source[0]["image"]))
    rows = [{"id": f"s{i}", "audio": f"{i}.wav", "captions": [f"sound {i}"]} for i in range(3)]
    rows.append({"id": "s3", "audio": "3.wav", "image": "p.png", "captions": ["sound 3"]})
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    run.mkdir()
    stored = {"data": {"train": {}}}
    monkeypatch.setattr("vlm_jax.memory.commands.workdir.read_config", lambda folder: stored)
    made = ask("index", run, capsys, data=str(tmp_path), of="audio")
    memory = Memory(made["memory"])
    assert made["rows"] == 4 and memory.about["of"] == "audio"
    assert memory.entry(3)["audio"] == str(tmp_path / "3.wav") and "image" in memory.entry(3)
    found = ask("search", run, capsys, audio=str(tmp_path / "2.wav"), k=4)
    assert found["audio"] == str(tmp_path / "2.wav") and found["hits"][0]["id"] == "s2"
    assert found["hits"][0]["score"] == pytest.approx(1)
    sheet = np.asarray(Image.open(found["sheet"]))
    expected = np.asarray(_thumbnail(picture(as_audio(str(tmp_path / "2.wav")), 0.2)))
    step = TILE + 4 * 15 + 12
    for top in (12, 12 + step):  # what was asked for, and the first hit
        np.testing.assert_array_equal(sheet[top : top + TILE, 12 : 12 + TILE], expected)
    vectors = memory.vectors(0, 4)
    for given, vector in (
        ({"text": "a red star"}, model.embed_text("a red star")),
        ({"image": str(tmp_path / "p.png")}, model.embed_image(str(tmp_path / "p.png"))),
    ):
        hits = ask("search", run, capsys, k=4, **given)["hits"]
        assert [hit["row"] for hit in hits] == np.argsort(-vectors @ vector).tolist()


def test_what_cannot_hear_says_so(run, tmp_path):
    with pytest.raises(ValueError, match="plain pixels know no sounds; sounds need a run with"):
        build(Pixels(), shades(), tmp_path / "m", data={}, of="audio")
    with pytest.raises(ValueError, match="does not listen; sounds need a run with config.model"):
        modes.index(None, str(run), {"of": "audio", "memory": str(tmp_path / "n")})
    with pytest.raises(ValueError, match=r"or --audio=PATH alone"):
        modes.search(None, str(run), {"text": "a", "audio": "b.wav"})


def _wav(path, samples):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.round(32_767 * samples).astype("<i2").tobytes())


def test_search_refuses_another_model_and_unclear_questions(run, tmp_path, capsys):
    pixels = build(Pixels(), shades(), tmp_path / "m", data={})
    with pytest.raises(BadMemory, match="was built by another model than the run"):
        modes.search(None, str(run), {"text": "a", "memory": str(pixels.folder)})
    with pytest.raises(BadMemory, match="was built by another model than"):
        neighbours.Retrieved(shades(), pixels, make_encoder(str(run)), k=1)
    with pytest.raises(ValueError, match="one of the two"):
        modes.search(None, str(run), {"text": "a", "image": "b"})
    with pytest.raises(BadMemory, match="is no memory"):
        modes.search(None, str(run), {"text": "a", "memory": str(tmp_path)})


def test_a_run_with_neighbours_is_evaluated_with_none_and_with_another_memory(tmp_path, capsys):
    near = {"name": "retrieved", "memory": {"source": SCENES}, "k": 2}
    test = SCENES | {"split": "test", "length": 9}
    config = tiny.captioner(total_steps=1, schedule={"name": "constant"})
    config["tasks"]["captioning"] |= {"retrieved": {"k": 2, "length": 6, "between": ";"}}
    config["data"]["train"] = near | {"source": SCENES}
    config["evals"] = {"captions": {"task": "captioning", "data": near | {"source": test}}}
    metrics = train.train(config, tmp_path / "run")
    assert metrics["captions/n"] == 9
    assert ask("eval", tmp_path / "run", capsys, data=None) == pytest.approx(metrics)
    model = vlm_jax.load(tmp_path / "run")
    picture = decode(make_source(test)[0]["image"])
    near = model._with_neighbours(in_memory.pictures([picture]))[0]["retrieved"]
    assert near == make_source(config["evals"]["captions"]["data"])[0]["retrieved"]
    other = build(Pixels(), shades(), tmp_path / "other", data={})
    swapped = {"memory": str(other.folder), "k": 1}
    assert ask("eval", tmp_path / "run", capsys, data=None, **swapped)["captions/n"] == 9
