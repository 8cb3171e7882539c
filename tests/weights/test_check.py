"""The check of a converted checkpoint against recorded outputs."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from tests.weights import parity
from tests.weights.families import test_blip, test_lxmert, test_vilt
from vlm_jax.weights import check

SMALL = dict(vocab_size=60, hidden_size=16, num_attention_heads=4, num_key_value_heads=2)
SMALL |= dict(intermediate_size=24, num_hidden_layers=2, max_position_embeddings=64)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder, and what the reference was given and returned, with padding in one row."""
    folder = tmp_path_factory.mktemp("llama") / "folder"
    model = parity.randomise(LlamaForCausalLM(LlamaConfig(**SMALL, eos_token_id=2, bos_token_id=1)))
    model.save_pretrained(folder)
    ids, mask = parity.tokens(2, 6, 60), np.ones((2, 6), np.int64)
    mask[1, 4:] = 0
    given = parity.tensors_of(dict(input_ids=ids, attention_mask=mask))
    with torch.no_grad():
        logits = model(**given).logits.numpy()
        texts = model.generate(given["input_ids"], max_new_tokens=4, num_beams=2).numpy()
    logits[1, 4:] = 99.0  # masked positions mean nothing
    return folder, {
        "forward.in.input_ids": ids,
        "forward.in.attention_mask": mask,
        "forward.out.logits": logits,
        "generate.in.input_ids": ids,
        "generate.flag.num_beams": np.array(2),
        "generate.flag.max_new_tokens": np.array(4),
        "generate.out.tokens": texts,
    }


def run(recorded, tmp_path, capsys, changes=None, drop=()):
    folder, arrays = recorded
    arrays = {k: v for k, v in (arrays | (changes or {})).items() if k not in drop}
    np.savez(tmp_path / "reference.npz", **arrays)
    code = check.main([str(folder), str(tmp_path / "reference.npz")])
    printed = capsys.readouterr()
    return code, (json.loads(printed.out) if printed.out else None), printed.err


def test_equal_outputs_pass(recorded, tmp_path, capsys):
    code, report, _ = run(recorded, tmp_path, capsys)
    assert code == 0
    assert report["generate.tokens"] == {
        "difference": 0,
        "scale": report["generate.tokens"]["scale"],
        "ok": True,
    }
    assert report["forward.logits"]["difference"] < 1e-5 < report["forward.logits"]["scale"] < 99


def test_a_small_difference_and_a_wrong_token_fail(recorded, tmp_path, capsys):
    logits = recorded[1]["forward.out.logits"].copy()
    logits[0, 2, 3] += 1e-3
    tokens = recorded[1]["generate.out.tokens"].copy()
    tokens[0, -1] = (tokens[0, -1] + 1) % 60
    changes = {"forward.out.logits": logits, "generate.out.tokens": tokens}
    code, report, _ = run(recorded, tmp_path, capsys, changes)
    assert code == 1
    assert not report["forward.logits"]["ok"] and report["generate.tokens"]["difference"] == 1


def test_an_argument_that_is_not_read_is_an_error(recorded, tmp_path, capsys):
    changes = {"forward.in.pixel_mask": np.ones((2, 4, 4)), "forward.in.token_type_ids": np.ones(2)}
    code, _, printed = run(recorded, tmp_path, capsys, changes)
    assert code == 2 and "forward does not read pixel_mask: leave it out" in printed


def test_what_cannot_be_compared_is_an_error(recorded, tmp_path, capsys):
    for changes, drop, message in (
        ({"forward.out.pooled": np.zeros(2)}, (), "forward does not give pooled; it gives logits"),
        ({"forward.out.logits": np.zeros((2, 6, 61))}, (), "logits has shape [2, 6, 60]"),
        ({"generate.out.tokens": np.zeros((4, 6), int)}, (), "tokens have shape [2, 10]"),
        ({"forward.in.input_ids": np.zeros((2, 6, 1))}, (), "error: "),
        (
            {"match.in.input_ids": np.zeros((1, 2), int), "match.out.score": np.zeros(1)},
            (),
            "no call",
        ),
        ({"generate.flag.penalty": np.array(3)}, (), "unknown flag 'penalty'"),
        ({"forward.flag.feature_layer": np.array(-1)}, (), "forward does not read feature_layer"),
        ({"wrong": np.zeros(1)}, (), "is not named"),
        ({}, ("forward.in.input_ids",), "needs the argument 'input_ids'"),
    ):
        code, _, error = run(recorded, tmp_path, capsys, changes, drop)
        assert code == 2 and message in error, error


def test_token_types_that_say_something_of_their_own_are_an_error(recorded, tmp_path, capsys):
    types = np.array([[0, 0, 1, 1, 1, 1]] * 2)
    code, _, error = run(recorded, tmp_path, capsys, {"forward.in.token_type_ids": types})
    assert code == 2 and "forward does not read token_type_ids: leave it out" in error
    code, _, _ = run(recorded, tmp_path, capsys, {"forward.in.token_type_ids": 0 * types})
    assert code == 0


def test_a_number_is_a_flag_however_it_is_named(recorded, tmp_path, capsys):
    names = ("generate.flag.num_beams", "generate.flag.max_new_tokens")
    moved = {name.replace("flag", "in"): recorded[1][name] for name in names}
    code, report, _ = run(recorded, tmp_path, capsys, moved, (*names, "forward.out.logits"))
    assert code == 0 and report["generate.tokens"]["ok"]


def test_generated_ids_may_be_filled_up_but_not_go_on(recorded, tmp_path, capsys):
    tokens = recorded[1]["generate.out.tokens"]
    for more, expected in (([2, 2], 0), ([0, 0], 0), ([7, 7], 1)):
        longer = np.concatenate([tokens, np.array([more] * 2)], axis=1)
        changes = {"generate.out.tokens": longer}
        code, report, _ = run(recorded, tmp_path, capsys, changes, ("forward.out.logits",))
        assert code == expected and report["generate.tokens"]["ok"] == (expected == 0)


def test_a_number_that_is_none_fails_and_stays_json(recorded, tmp_path, capsys):
    logits = recorded[1]["forward.out.logits"].copy()
    logits[0, 1, 2] = np.nan
    code, report, _ = run(recorded, tmp_path, capsys, {"forward.out.logits": logits})
    assert code == 1 and report["forward.logits"]["difference"] is None


# --- models with pictures, and all calls ----------------------------------------------------------


def blip():
    model = test_blip.build(transformers.BlipForImageTextRetrieval, "two widths")
    given = test_blip.inputs("two widths")
    calls = {
        "match": lambda x: dict(score=model(**x).itm_score),
        "contrast": lambda x: dict(score=model(**x, use_itm_head=False).itm_score),
    }
    return model, given, calls, {}


def vilt():
    config = transformers.ViltConfig(**test_vilt.CONFIGS["square"])
    model = parity.randomise(transformers.ViltForImageAndTextRetrieval(config))
    calls = {"match": lambda x: dict(score=model(**x).logits)}
    return model, test_vilt.inputs("square"), calls, {}


def clip():
    tower = dict(hidden_size=12, num_attention_heads=3, intermediate_size=16, num_hidden_layers=1)
    words = dict(vocab_size=50, max_position_embeddings=9, eos_token_id=40, bos_token_id=0)
    config = transformers.CLIPConfig(
        text_config=tower | words | dict(pad_token_id=1),
        vision_config=tower | dict(image_size=16, patch_size=8),
        projection_dim=8,
    )
    model, ids = parity.randomise(transformers.CLIPModel(config)), parity.tokens(3, 7, 40)
    ids[:, 5] = 40
    names = ("logits_per_image", "logits_per_text", "image_embeds", "text_embeds")
    given = dict(input_ids=ids, pixel_values=parity.pixels(2, 3, 16, 16))
    return model, given, {"contrast": lambda x: {n: model(**x)[n] for n in names}}, {}


def naflex():
    tower = dict(hidden_size=12, num_attention_heads=3, intermediate_size=16, num_hidden_layers=1)
    config = transformers.Siglip2Config(
        text_config=tower | dict(vocab_size=50, max_position_embeddings=9),
        vision_config=tower | dict(num_patches=16, patch_size=4),
    )
    model = parity.randomise(transformers.Siglip2Model(config))
    shapes = np.array([[2, 7], [5, 3], [4, 4]])
    mask = (np.arange(17)[None] < shapes.prod(axis=1)[:, None]).astype(np.int64)
    given = dict(pixel_values=parity.pixels(3, 17, 48), input_ids=parity.tokens(3, 9, 50))
    given |= dict(pixel_attention_mask=mask, spatial_shapes=shapes)

    def ask(given):
        found = model(**given)
        tokens = found.vision_model_output.last_hidden_state
        tokens = torch.where(given["pixel_attention_mask"][..., None] != 0, tokens, 9.0)
        return dict(logits_per_image=found.logits_per_image, image_tokens=tokens)

    return model, given, {"contrast": ask}, {}


def lxmert():
    model = test_lxmert.build(transformers.LxmertForQuestionAnswering, "relu, larger boxes")
    ask = lambda x: dict(logits=model(**x).question_answering_score)
    return model, test_lxmert.inputs("relu, larger boxes"), {"forward": ask}, {}


def llava():
    eye = dict(hidden_size=12, num_attention_heads=2, intermediate_size=16, num_hidden_layers=2)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**eye, image_size=16, patch_size=8),
        text_config=LlamaConfig(**SMALL, eos_token_id=2, bos_token_id=1),
        image_token_index=59,
    )
    model = parity.randomise(transformers.LlavaForConditionalGeneration(config))
    ids = parity.tokens(2, 9, 50)
    ids[:, 1:5] = 59
    given = dict(input_ids=ids, pixel_values=parity.pixels(2, 3, 16, 16))
    flags = dict(num_beams=2, max_new_tokens=4)
    calls = {
        "forward": lambda x: dict(logits=model(**x).logits),
        "generate": lambda x: dict(tokens=model.generate(**x, **flags)),
    }
    return model, given, calls, {"generate": flags}


PICTURED = {f.__name__: f for f in (blip, vilt, clip, naflex, lxmert, llava)}


def record(name, folder):
    """The folder filled, and what its model was given and returned, as a file has it."""
    model, given, calls, flags = PICTURED[name]()
    model.save_pretrained(folder)
    arrays = {}
    for call, ask in calls.items():
        with torch.no_grad():
            found = ask(parity.tensors_of(given))
        arrays |= {f"{call}.in.{key}": value for key, value in given.items()}
        arrays |= {f"{call}.flag.{k}": np.array(v) for k, v in flags.get(call, {}).items()}
        arrays |= {f"{call}.out.{key}": value.numpy() for key, value in found.items()}
    return arrays


@pytest.mark.parametrize("name", PICTURED)
def test_folders_of_models_that_see(name, tmp_path, capsys):
    folder = tmp_path / "folder"
    recorded = folder, record(name, folder)
    code, report, _ = run(recorded, tmp_path, capsys)
    outs = {key.replace(".out.", "."): x for key, x in recorded[1].items() if ".out." in key}
    assert code == 0 and set(report) == set(outs)
    for entry in report.values():
        assert entry["ok"] and (entry["difference"] == 0 or entry["scale"] > 0.05)
    key = next(key for key in recorded[1] if ".out." in key)
    wrong = recorded[1][key].copy()
    wrong.flat[0] += 0.01
    code, report, _ = run(recorded, tmp_path, capsys, {key: wrong})
    assert code == 1 and [name for name in report if not report[name]["ok"]] == [
        key.replace(".out.", ".")
    ]


def test_as_a_command(tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "reference.npz"
    np.savez(file, **record("clip", folder))
    command = [sys.executable, "-m", "vlm_jax.weights.check", str(folder), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and json.loads(done.stdout)["contrast.image_embeds"]["ok"]
    done = subprocess.run(
        [*command[:-1], str(folder / "config.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "is not an .npz" in done.stderr and not done.stdout
