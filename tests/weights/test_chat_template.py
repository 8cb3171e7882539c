"""Chat templates in terms of what surrounds turns and answers."""

import json

import pytest

from vlm_jax.tokenizers import make_tokenizer
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


def test_named_templates_and_none(tmp_path):
    assert chat_format(tmp_path, TOKENIZER) is None
    several = [dict(name="tools", template="x"), dict(name="default", template=TURNS)]
    assert written(tmp_path, several)["between"] == "\nU: "
