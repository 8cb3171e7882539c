"""GIT (arXiv:2205.14100): `GitForCausalLM` folders, for pictures or for frames of videos."""

from typing import Any

from vlm_jax.weights.calls import language, read_picture
from vlm_jax.weights.families import bert, clip
from vlm_jax.weights.family import (
    Config,
    Family,
    Shapes,
    caption_example,
    require,
    square,
    writing_tasks,
)
from vlm_jax.weights.rules import Rule, Rules, dense, norm

DEFAULTS: dict[str, Any] = bert.DEFAULTS | dict(
    num_hidden_layers=6,
    max_position_embeddings=1024,
    tie_word_embeddings=False,
    num_image_with_embedding=None,
)
VISION = clip.VISION | dict(patch_size=16)
"""What a config.json that leaves a key out means by it."""


TOKENS = dict(bos_token_id=101, eos_token_id=102, pad_token_id=0)


def settled(config: Config, shapes: Shapes) -> Config:
    """The config with the tokens that begin, end and fill texts."""
    return TOKENS | dict(config)


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config and its vision section with everything filled in."""
    bert.architecture(config, {"GitForCausalLM": True}, "GitForCausalLM")
    require(config, position_embedding_type="absolute")
    return DEFAULTS | dict(config), VISION | dict(config.get("vision_config") or {})


def vision_fields(config: Config, vision: Config) -> dict[str, Any]:
    """CLIP's tower, read with its class token and last norm, for every frame if there are some."""
    fields = clip.vision_fields(vision) | dict(pooling="none", keep_class_token=True)
    frames = config["num_image_with_embedding"]
    if frames is None:
        return fields
    return dict(name="frames", frames=frames, vit={k: fields[k] for k in fields if k != "name"})


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    config, vision = sections(config)
    return dict(
        vision=vision_fields(config, vision),
        connector=dict(
            name="mlp",
            widths=(config["hidden_size"],),
            norm="layer",
            epsilon=vision["layer_norm_eps"],
        ),
        decoder=bert.stack_fields(config)
        | dict(
            name="causal_lm",
            vocab=config["vocab_size"],
            max_length=config["max_position_embeddings"],
            memory_projection=False,
            memory_embedded=False,
            bidirectional="memory",
            embedding_norm=True,
            tied=config["tie_word_embeddings"],
            logits_bias=True,
        ),
    )


def decoder_rules(ours: str, theirs: str, layers: str, crossed: bool = False) -> Rules:
    """A BERT-type decoder without its output layer. theirs, layers: embeddings and stack."""
    return [
        Rule(f"{ours}/embed/token/embedding", f"{theirs}.word_embeddings.weight"),
        Rule(f"{ours}/embed/position", f"{theirs}.position_embeddings.weight"),
        *norm(f"{ours}/embedding_norm", f"{theirs}.LayerNorm"),
        *bert.layer_rules(f"{ours}/transformer/layers", layers, crossed),
    ]


def rules(config: Config) -> Rules:
    """The mapping table."""
    config, vision = sections(config)
    frames = config["num_image_with_embedding"] is not None
    tower = "vision/vit" if frames else "vision"
    time = [Rule("vision/time", "git.img_temporal_embedding.{}")] if frames else []
    logits = dense("decoder/logits", "output")
    if config["tie_word_embeddings"]:
        logits = [Rule("decoder/logits_bias", "output.bias")]
    projection = "git.visual_projection.visual_projection"
    return [
        *clip.vision_rules(tower, "git.image_encoder.vision_model", vision),
        *time,
        *dense("connector/dense_0", f"{projection}.0"),
        *norm("connector/norm", f"{projection}.1"),
        *decoder_rules("decoder", "git.embeddings", "git.encoder.layer"),
        *logits,
    ]


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture and two words."""
    return caption_example(square(sections(config)[1], "image_size"))


def ignored(config: Config) -> tuple[str, ...]:
    """Buffers, and the output layer where it is the embedding."""
    tied = sections(config)[0]["tie_word_embeddings"]
    return (r".*\.position_ids", r"output\.weight") if tied else (r".*\.position_ids",)


GIT = Family(
    model,
    rules,
    example,
    calls=language(read_picture, padding_counts=True),
    ignored=ignored,
    settle=settled,
    tasks=lambda config: writing_tasks("{bos}{prompt}", length=20, question_length=40),
)
