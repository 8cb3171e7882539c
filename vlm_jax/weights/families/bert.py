"""BERT (arXiv:1810.04805): `BertModel`, `BertForMaskedLM`, `BertForPreTraining` and
`BertForSequenceClassification` folders.

Other families read their BERT-type networks with `fields`, `stack_fields` and the rules here.
"""

from typing import Any

from vlm_jax.weights.family import (
    TWO_WORDS,
    Config,
    Family,
    Shapes,
    activation,
    labels,
    one_of,
    require,
)
from vlm_jax.weights.fused_calls import understand
from vlm_jax.weights.rules import Rule, Rules, attention, dense, norm

DEFAULTS: dict[str, Any] = dict(
    vocab_size=30522,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    max_position_embeddings=512,
    type_vocab_size=2,
    layer_norm_eps=1e-12,
    tie_word_embeddings=True,
)
"""What a config.json that leaves a key out means by it."""

CLASSIFIER = "BertForSequenceClassification"
PARTS = {
    "BertModel": dict(prefix="", pooler=True, words=False, match=False),
    "BertForMaskedLM": dict(prefix="bert.", pooler=False, words=True, match=False),
    "BertForPreTraining": dict(prefix="bert.", pooler=True, words=True, match=True),
    "BertForSequenceClassification": dict(prefix="bert.", pooler=True, words=False, match=False),
}
"""What the classes consist of. prefix and has_pooler are no keys of published folders: there the
tensors tell. sentence_pooling comes from the folder of a sentence encoder, which has no pooler.
"""

RENAMES = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
"""The names of the first releases."""

BUFFERS = (r".*\.?embeddings\.position_ids", r".*\.?embeddings\.token_type_ids")
TIED = (r".*cls\.predictions\.decoder\.(weight|bias)",)
"""Copies of the word vectors and of cls.predictions.bias."""


def settled(config: Config, shapes: Shapes) -> Config:
    """What the tensors tell: the class, where config.json does not say, and whether a bare network
    has a pooler, and a prefix because the tensors come from one with heads.
    """
    known = dict(config)
    if not known.get("architectures"):
        words = any(name.startswith("cls.predictions.") for name in shapes)
        match = any(name.startswith("cls.seq_relationship.") for name in shapes)
        heads = "BertForPreTraining" if match else "BertForMaskedLM"
        bare = CLASSIFIER if "classifier.weight" in shapes else "BertModel"
        known["architectures"] = [heads if words else bare]
    if known["architectures"][0] == "BertModel":
        prefixed = any(name.startswith("bert.") for name in shapes)
        pooled = any(name.endswith("pooler.dense.weight") for name in shapes)
        known |= {"prefix": "bert."} if prefixed else {}
        known |= {} if pooled and "sentence_pooling" not in known else {"has_pooler": False}
    return known


def parts_of(config: Config) -> dict[str, Any]:
    """What a folder's class consists of."""
    parts = dict(architecture(config, PARTS, "BertModel"))
    parts["prefix"] = config.get("prefix", parts["prefix"])
    parts["pooler"] = parts["pooler"] and config.get("has_pooler", "sentence_pooling" not in config)
    return parts


def architecture(config: Config, known: dict[str, Any], usual: str) -> Any:
    """known[the class that the folder was saved from]; `usual` if config.json does not say."""
    name = (config.get("architectures") or [usual])[0]
    return one_of(dict(architectures=name), "architectures", known)


def filled(config: Config) -> dict[str, Any]:
    """The config with every key there; WeightsError for variants of BERT that are not here."""
    require(config, position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    return DEFAULTS | dict(config)


def stack_fields(config: Config) -> dict[str, Any]:
    """The layers as fields of a Transformer."""
    return dict(
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_width=config["intermediate_size"],
        activation=activation(config),
        epsilon=config["layer_norm_eps"],
        norm_first=False,
    )


def fields(config: Config, pooler: bool = True) -> dict[str, Any]:
    """Fields of `encoders.text_transformer.TransformerEncoder`."""
    return stack_fields(config) | dict(
        name="transformer",
        vocab=config["vocab_size"],
        max_length=config["max_position_embeddings"],
        token_types=config["type_vocab_size"],
        embedding_norm=True,
        pooling=config.get("sentence_pooling") or ("first" if pooler else "none"),
        pooler="tanh" if pooler else "none",
    )


def embedding_rules(ours: str, theirs: str, types: bool = True, normed: bool = True) -> Rules:
    """The embeddings of a `TransformerEncoder`."""
    rules = [
        Rule(f"{ours}/embedding/token/embedding", f"{theirs}.word_embeddings.weight"),
        Rule(f"{ours}/embedding/position", f"{theirs}.position_embeddings.weight"),
    ]
    if types:
        table = f"{theirs}.token_type_embeddings.weight"
        rules.append(Rule(f"{ours}/type_embedding/embedding", table))
    return rules + (norm(f"{ours}/embeddings_norm", f"{theirs}.LayerNorm") if normed else [])


def attention_rules(ours: str, theirs: str, part: str = "self", inner: str = "self") -> Rules:
    """An attention with its norm. ours: a block; part: which of its attentions."""
    names = (f"{inner}.query", f"{inner}.key", f"{inner}.value", "output.dense")
    return [
        *attention(f"{ours}/{part}_attention", theirs, names),
        *norm(f"{ours}/{part}_norm", f"{theirs}.output.LayerNorm"),
    ]


def mlp_rules(ours: str, up: str, down: str) -> Rules:
    """The two dense layers of a block with their norm."""
    return [
        *dense(f"{ours}/mlp/up", f"{up}.dense"),
        *dense(f"{ours}/mlp/down", f"{down}.dense"),
        *norm(f"{ours}/mlp_norm", f"{down}.LayerNorm"),
    ]


def layer_rules(ours: str, theirs: str, crossed: bool = False) -> Rules:
    """The layers of a stack, with cross-attention or without. theirs: without the number."""
    layer = f"{theirs}.{{}}"
    cross = attention_rules(ours, f"{layer}.crossattention", "cross") if crossed else []
    return [
        *attention_rules(ours, f"{layer}.attention"),
        *cross,
        *mlp_rules(ours, f"{layer}.intermediate", f"{layer}.output"),
    ]


def encoder_rules(ours: str, theirs: str = "", pooler: bool = True, types: bool = True) -> Rules:
    """A whole encoder. theirs: their prefix, with its point."""
    return [
        *embedding_rules(ours, f"{theirs}embeddings", types),
        *layer_rules(f"{ours}/transformer/layers", f"{theirs}encoder.layer"),
        *(dense(f"{ours}/pooler_dense", f"{theirs}pooler.dense") if pooler else []),
    ]


def head_rules(ours: str, theirs: str = "cls", match: str | None = None) -> Rules:
    """A tied head for words. match: their layer that scores pairs, or None."""
    predictions = f"{theirs}.predictions"
    return [
        *dense(f"{ours}/transform", f"{predictions}.transform.dense"),
        *norm(f"{ours}/norm", f"{predictions}.transform.LayerNorm"),
        Rule(f"{ours}/words_bias", f"{predictions}.bias"),
        *(dense(f"{ours}/match", match) if match else []),
    ]


def head_fields(config: Config, match: bool) -> dict[str, Any]:
    """A tied head for words as fields of `models.heads.ReconstructionHead`."""
    require(config, tie_word_embeddings=True)
    return dict(
        vocab=config["vocab_size"],
        activation=activation(config),
        epsilon=config["layer_norm_eps"],
        tied=True,
        match=match,
    )


def classifies(config: Config) -> bool:
    """Whether a folder is a classifier's of texts."""
    return (config.get("architectures") or [""])[0] == CLASSIFIER


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    config, parts = filled(config), parts_of(config)
    model: dict[str, Any] = dict(text=fields(config, parts["pooler"]))
    if parts["words"]:
        model["reconstruct"] = head_fields(config, parts["match"])
    if classifies(config):
        model["classify"] = dict(classes=labels(config))
    return model


def rules(config: Config) -> Rules:
    """The mapping table."""
    parts = parts_of(config)
    match = "cls.seq_relationship" if parts["match"] else None
    head = head_rules("reconstruct_head", match=match) if parts["words"] else []
    head += dense("classify_head/out", "classifier") if classifies(config) else []
    return encoder_rules("text", parts["prefix"], parts["pooler"]) + head


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """Two words."""
    return {"words": TWO_WORDS}, {"words": "understand"}


def ignored(config: Config) -> tuple[str, ...]:
    """Buffers, tied copies, and the parts of a published file that a class does not have."""
    parts = parts_of(config)
    others = () if parts["match"] else (r"cls\.seq_relationship\..*",)
    others += () if parts["pooler"] else (r"(bert\.)?pooler\..*",)
    others += () if parts["words"] else (r"cls\.predictions\..*",)
    return (*BUFFERS, *TIED, *others)


BERT = Family(
    model,
    rules,
    example,
    calls={"forward": understand},
    renames=RENAMES,
    ignored=ignored,
    settle=settled,
    classes=dict.fromkeys(PARTS, "num_labels"),
)
