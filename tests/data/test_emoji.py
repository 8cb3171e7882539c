import hashlib
import json

import pytest

from vlm_jax.data import emoji
from vlm_jax.data.emoji import Emoji, bucket, hexcode, select
from vlm_jax.data.schema import DataError, validate

META = {
    "groups": {"0": "smileys-emotion", "2": "component", "3": "animals-nature", "9": "flags"},
    "subgroups": {"0": "face-smiling", "34": "animal-mammal", "98": "country-flag"},
}


def rows(language="en"):
    """emojibase rows: 40 animals, one face, one flag, one component, one without a group."""
    animals = [
        {
            "label": f"{language} animal {i}",
            "hexcode": f"1F4{i:02X}-fe0f",
            "tags": ["pet", f"{language} animal {i}"],
            "order": 100 - i,
            "group": 3,
            "subgroup": 34,
        }
        for i in range(40)
    ]
    others = [
        {"label": "face", "hexcode": "1F600", "order": 1, "group": 0, "subgroup": 0},
        {"label": "flag", "hexcode": "1F1E9-1F1EA", "order": 2, "group": 9, "subgroup": 98},
        {"label": "skin tone", "hexcode": "1F3FB", "order": 3, "group": 2, "subgroup": 0},
        {"label": "letter", "hexcode": "1F1E6"},
    ]
    return [*animals, *others]


@pytest.fixture
def concepts(tmp_path, monkeypatch):
    """A prepared cache: its concepts."""
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path))
    chosen = select({"en": rows(), "de": rows("de")}, META)
    emoji.image_folder("openmoji", 64).mkdir(parents=True)
    emoji.concepts_file().write_text(json.dumps(chosen), encoding="utf-8")
    (emoji.image_folder("openmoji", 64) / "complete.json").write_text("{}")
    return chosen


def expected_bucket(code):
    return int.from_bytes(hashlib.sha1(code.encode("ascii")).digest()) % 10


def test_hexcodes_of_all_vendors_meet():
    assert hexcode("1f469-200d-2695-fe0f") == "1F469-200D-2695" == hexcode("1F469-200D-2695")
    assert hexcode("0023-FE0F-20E3") == "0023-20E3"


def test_buckets_are_sha1_modulo_ten():
    for code in ("1F600", "1F469-200D-2695", "animal-mammal"):
        assert bucket(code) == expected_bucket(code)


def test_flags_components_letters_and_the_reserved_bucket_are_left_out(concepts):
    kept = {concept["hexcode"] for concept in concepts}
    animals = {f"1F4{i:02X}" for i in range(40)}
    assert kept <= animals | {"1F600"}
    assert kept == {code for code in animals | {"1F600"} if expected_bucket(code) != 7}
    assert len(kept) < 41  # the fixture does have reserved concepts


def test_concepts_are_in_unicode_order_with_names_in_every_language(concepts):
    assert concepts[0]["hexcode"] == "1F600"
    assert concepts[-1]["names"]["de"] == {"label": "de animal 0", "tags": ["pet", "de animal 0"]}
    assert concepts[-1]["group"] == "animals-nature"


def test_a_concept_without_a_name_in_some_language_is_an_error():
    with pytest.raises(DataError, match="1F600 has no name in de"):
        select({"en": rows(), "de": [r for r in rows("de") if r["hexcode"] != "1F600"]}, META)


def test_seen_and_unseen_part_the_concepts_by_bucket(concepts):
    parts = {split: Emoji(split=split) for split in ("seen", "unseen", "all")}
    codes = {split: {example["id"] for example in part} for split, part in parts.items()}
    assert codes["seen"] | codes["unseen"] == codes["all"] == {c["hexcode"] for c in concepts}
    assert codes["unseen"] and not codes["seen"] & codes["unseen"]
    assert {expected_bucket(code) for code in codes["unseen"]} == {3}
    assert len(parts["seen"]) == len(codes["seen"])


def test_whole_subgroups_can_be_held_out(concepts):
    assert (expected_bucket("animal-mammal"), expected_bucket("face-smiling")) != (3, 3)
    unseen = {e["subgroup"] for e in Emoji(split="unseen", holdout="subgroup")}
    seen = {e["subgroup"] for e in Emoji(split="seen", holdout="subgroup")}
    assert unseen | seen == {"animal-mammal", "face-smiling"} and not unseen & seen
    assert all(expected_bucket(name) == 3 for name in unseen)


def test_a_reserved_concept_in_the_cache_is_never_given_out(concepts):
    reserved = next(f"1F4{i:02X}" for i in range(40) if expected_bucket(f"1F4{i:02X}") == 7)
    more = [*concepts, concepts[0] | {"hexcode": reserved}]
    emoji.concepts_file().write_text(json.dumps(more), encoding="utf-8")
    for split in ("seen", "unseen", "all"):
        for holdout in ("concept", "subgroup"):
            codes = {example["id"] for example in Emoji(split=split, holdout=holdout)}
            assert reserved not in codes


def test_captions_are_names_and_keywords_in_the_languages_asked_for(concepts):
    source = Emoji(split="all", languages=("en", "de"))
    example = validate(source[len(source) - 1], "here")
    assert example["captions"] == [
        "en animal 0",
        "en animal 0, pet",
        "de animal 0",
        "de animal 0, pet",
    ]
    assert example["label"] == "en animal 0" and example["questions"] == []
    assert example["image"] == str(emoji.image_folder("openmoji", 64) / "1F400.png")
    assert Emoji(split="all", texts=("label",))[0]["captions"] == ["face"]
    assert Emoji(split="all", texts=("tags",))[0]["captions"] == ["face"]  # it has no keywords


@pytest.mark.parametrize(
    "arguments", [{"size": 65}, {"vendor": "noto"}, {"vendor": "noto", "size": 224}]
)
def test_a_missing_set_is_answered_with_the_command_that_prepares_it(arguments, concepts):
    vendor, size = arguments.get("vendor", "openmoji"), arguments.get("size", 64)
    command = f"vlm_jax.data.prepare emoji --vendor {vendor} --size {size}$"
    with pytest.raises(DataError, match=command):
        Emoji(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "train"}, "split has 'train'; known: seen, unseen, all"),
        ({"vendor": "apple"}, "vendor has 'apple'; known: openmoji, noto"),
        ({"holdout": "group"}, "holdout has 'group'"),
        ({"texts": ("name",)}, "texts has 'name'; known: label, tags"),
        ({"languages": ("fr",)}, "languages has 'fr'; known: en, de"),
        ({"languages": "en"}, "languages is a list"),
        ({"texts": "label"}, "texts is a list"),
        ({"texts": ()}, "texts is a list"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, concepts):
    with pytest.raises(ValueError, match=message):
        Emoji(**arguments)
