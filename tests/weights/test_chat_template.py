"""Chat templates in terms of what surrounds turns and answers."""

import dataclasses
import json

import pytest
import torch

from tests.weights import writers
from tests.weights.test_setups import NEW, STARTS, saved, smollm2
from vlm_jax.data.turns import Format
from vlm_jax.tokenizers import make_tokenizer
from vlm_jax.tokenizers.published import read_tokenizer
from vlm_jax.weights.chat_template import chat_format

TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}U: {{ m.content }}\n"
    "{% else %}A: {{ m.content }}[EOS]\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A: {% endif %}"
)
TOKENIZER = make_tokenizer({"name": "word"}, lambda: ["a word"])


def written(folder, template, name="tokenizer_config.json"):
    own = {"chat_template": template} if name == "tokenizer_config.json" else {}
    config = {"bos_token": {"content": "[BOS]"}} | own
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if not own:
        (folder / name).write_text(template)
    return chat_format(folder, TOKENIZER)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja"])
def test_what_surrounds_a_turn_is_found(name, tmp_path):
    assert written(tmp_path, TURNS, name) == dict(
        begins="[BOS]U: ",
        turn="{picture}{prompt}\nA: ",
        ends="[EOS]",
        between="\nU: ",
        picture={},
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{{ messages[0].content }} and so on",  # forgets what was said
        TURNS.replace("[EOS]", "."),  # ends in no way that a decoder could
        TURNS.replace("U: ", "U{: "),
        TURNS.replace("\nA: ", "").replace("A: {%", "{{ messages | length }}{%"),  # counts turns
    ],
)
def test_what_cannot_be_told_in_these_terms_is_no_format(template, tmp_path):
    assert written(tmp_path, template) is None


LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = LLAMA2.replace("' ' + eos_token", "eos_token").replace("bos_token + ", "")


@pytest.mark.parametrize("template", [LLAMA2, MISTRAL, LLAMA2.replace("{{ ' ' + m", "{{ m")])
@pytest.mark.parametrize("legacy", [True, False])
def test_blanks_may_stand_around_an_answer(template, legacy, tmp_path):
    roles = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    words = writers.make_tokenizer(["<s>", "</s>", "<pad>"], legacy=legacy, **roles)
    words.chat_template = template
    words.save_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path)
    turns = Format(**chat_format(tmp_path, ours))
    said: list = [dict(role="user", content="Describe this image.")]
    ids = turns.said(ours, said[0]["content"], [], first=True)
    assert ids == words.apply_chat_template(said, add_generation_prompt=True)["input_ids"]
    for answer, asked in [("a roof", "what colour is it?"), ("red", "is it a picture")]:
        said.append(dict(role="assistant", content=answer))
        ids += turns.answered(ours, answer)
        assert ids == words.apply_chat_template(said)["input_ids"]
        ending = turns.ending(ours)
        assert ids[-len(ending) :] == ending
        assert (len(ending) > 1) == ("' ' + eos_token" in template)
        said.append(dict(role="user", content=asked))
        ids += turns.said(ours, asked, [], first=False)
        assert ids == words.apply_chat_template(said, add_generation_prompt=True)["input_ids"]
    assert "opens" in chat_format(tmp_path, ours)


def test_a_language_model_talks_with_blanks_around_its_answers(tmp_path):
    model, words = smollm2()
    words.chat_template = LLAMA2
    ours = saved(tmp_path, model, words)
    task = ours.run.experiment.tasks["chat"]
    ours.run.experiment.tasks["chat"] = dataclasses.replace(task, answer_length=NEW)
    chat, turns = ours.chat(), []
    for start in STARTS[:2]:
        past = len(words.apply_chat_template(turns)["input_ids"]) if turns else 0
        turns.append(dict(role="user", content=start))
        asked = words.apply_chat_template(turns, add_generation_prompt=True)["input_ids"][past:]
        before = len(chat.tokens)
        turns.append(dict(role="assistant", content=chat.say(start)))
        said = chat.tokens[before:]
        assert said[: len(asked)] == asked
        ids = torch.tensor([[*chat.tokens[:before], *asked]])
        flags = dict(max_new_tokens=NEW, do_sample=False, suppress_tokens=[1])
        with torch.no_grad():
            found = model.generate(ids, attention_mask=torch.ones_like(ids), **flags)[0]
        assert said[len(asked) :][:NEW] == found.tolist()[ids.shape[1] :]
        ending = words(" <|im_end|>")["input_ids"]
        assert len(ending) == 2 and (found[-1] == words.eos_token_id or said[-2:] == ending)


def test_named_templates_and_none(tmp_path):
    assert chat_format(tmp_path, TOKENIZER) is None
    several = [dict(name="tools", template="x"), dict(name="default", template=TURNS)]
    assert written(tmp_path, several)["between"] == "\nU: "
