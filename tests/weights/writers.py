"""Tiny models that write, with the reference's processors: (model, processor, the prompt as it is
published, with a place for what is asked; what is asked for a caption, or None for nothing).
"""

import functools
import importlib

import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

DESCRIBE = "Describe this image."
TEXTS = [
    "USER: Describe this image. ASSISTANT: a roof, Question: what colour is it? Answer: red",
    "system You are a helpful assistant.\nuser\n\n\nmodel answer en caption a picture of",
]
ROWS = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
TILES = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *ROWS]
LLAMA = dict(hidden_size=16, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24)
LLAMA |= dict(num_hidden_layers=2, max_position_embeddings=512)
TOWER = dict(hidden_size=16, num_attention_heads=2, intermediate_size=24, num_hidden_layers=2)


def make_tokenizer(specials, before=(), after=(), legacy=False, **roles):
    """A byte-pair tokenizer whose first ids are `specials`; legacy: with Llama's word marks."""
    model = tokenizers.Tokenizer(models.BPE(unk_token="<unk>" if legacy else None))
    if legacy:
        marks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        model.normalizer = normalizers.Sequence(marks)
        model.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    else:
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
    alphabet = [] if legacy else pre_tokenizers.ByteLevel.alphabet()
    names = ["<unk>", *specials] if legacy else specials
    known = dict(initial_alphabet=alphabet, show_progress=False)
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=names, **known)
    model.train_from_iterator(TEXTS, trainer)
    if before or after:
        ids = [(name, model.token_to_id(name)) for name in (*before, *after)]
        parts = [*before, "$A", *after]
        model.post_processor = processors.TemplateProcessing(
            single=" ".join(parts), special_tokens=ids
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, **roles)


def image_processor(name, **options):
    family = dict(Qwen2VL="qwen2_vl").get(name, name.lower())
    module = f"transformers.models.{family}.image_processing_pil_{family}"
    return getattr(importlib.import_module(module), f"{name}ImageProcessorPil")(**options)


def llava():
    roles = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    words = make_tokenizer(["<s>", "</s>", "<pad>", "<image>"], ["<s>"], legacy=True, **roles)
    tower = transformers.CLIPVisionConfig(**TOWER, image_size=32, patch_size=8)
    text = transformers.LlamaConfig(**LLAMA, **ids_of(words))
    config = transformers.LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=index(words, "<image>")
    )
    processor = transformers.LlavaProcessor(
        image_processor("Llava", size={"shortest_edge": 32}, crop_size=32),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    model = transformers.LlavaForConditionalGeneration(config)
    return model, processor, "USER: <image>\n{} ASSISTANT:", DESCRIBE


def index(words, token):
    return words.convert_tokens_to_ids(token)


def ids_of(words, size=None):
    """The token ids of a language model's config."""
    return dict(
        vocab_size=size or len(words),
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def blip2(kind):
    opt = dict(bos_token="</s>", eos_token="</s>", pad_token="<pad>")
    t5 = dict(bos_token="</s>", eos_token="</s>", pad_token="<pad>")
    names = ["<pad>", "</s>", "<image>"]
    if kind == "opt":
        words = make_tokenizer(names, before=["</s>"], **opt)
        text = transformers.OPTConfig(
            **ids_of(words), hidden_size=12, num_hidden_layers=2, num_attention_heads=3, ffn_dim=20
        )
        text.eos_token_id = index(words, "a")  # as there, the text ends by another token
    else:
        words = make_tokenizer(names, after=["</s>"], **t5)
        text = transformers.T5Config(
            **ids_of(words), d_model=12, d_kv=4, d_ff=20, num_layers=2, num_heads=3
        )
        text.decoder_start_token_id = 0
    config = transformers.Blip2Config(
        vision_config=TOWER | dict(image_size=16, patch_size=8),
        qformer_config=TOWER,
        text_config=text,
        num_query_tokens=4,
        image_token_index=index(words, "<image>"),
    )
    words.image_token = tokenizers.AddedToken("<image>", special=True)
    processor = transformers.Blip2Processor(
        image_processor("Blip", size=dict(height=16, width=16)), words, num_query_tokens=4
    )
    model = transformers.Blip2ForConditionalGeneration(config)
    return model, processor, "Question: {} Answer:", None


def qwen2_vl():
    names = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>", "<|vision_end|>"]
    words = make_tokenizer(
        [*names, "<|image_pad|>", "<|video_pad|>"], eos_token="<|im_end|>", pad_token=names[2]
    )
    rope = dict(rope_type="default", rope_theta=90.0, mrope_section=[1, 0, 1])
    text = LLAMA | dict(vocab_size=len(words) + 5, rope_parameters=rope)
    vision = dict(depth=2, embed_dim=16, hidden_size=16, num_heads=2, mlp_ratio=2, patch_size=4)
    marks = {f"{name}_token_id": index(words, f"<|{name}_pad|>") for name in ("image", "video")}
    marks |= {
        f"vision_{end}_token_id": index(words, f"<|vision_{end}|>") for end in ("start", "end")
    }
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **marks)
    processor = transformers.Qwen2VLProcessor(
        image_processor("Qwen2VL", patch_size=4, min_pixels=64, max_pixels=2000),
        words,
        Qwen2VLVideoProcessor(patch_size=4),
    )
    model = transformers.Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = [index(words, "<|im_end|>"), index(words, names[2])]
    prompt = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n"
    )
    return model, processor, prompt, DESCRIBE


def idefics3(kind, split):
    roles = dict(bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<pad>")
    words = make_tokenizer(["<pad>", "<|im_start|>", "<image>", *TILES], **roles)
    text = transformers.LlamaConfig(**LLAMA, **ids_of(words))
    parts = "Idefics3" if kind == "idefics3" else "SmolVLM"
    vision = getattr(transformers, f"{parts}VisionConfig")(**TOWER, image_size=32, patch_size=4)
    config = getattr(transformers, f"{parts}Config")(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        image_token_id=index(words, "<image>"),
        scale_factor=4,
        pad_token_id=0,
    )
    sizes = dict(size={"longest_edge": 90}, max_image_size={"longest_edge": 32})
    processor = transformers.Idefics3Processor(
        image_processor("Idefics3", do_image_splitting=split, **sizes), words, image_seq_len=4
    )
    model = getattr(transformers, f"{parts}ForConditionalGeneration")(config)
    return model, processor, "<|im_start|>User:<image>{}<end_of_utterance>\nAssistant:", DESCRIBE


def gemma3():
    names = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<image_soft_token>"]
    marks = dict(boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token=names[5])
    roles = dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    words = make_tokenizer(
        [*names, *list(marks.values())[:2]], ["<bos>"], extra_special_tokens=marks, **roles
    )
    text = LLAMA | ids_of(words) | dict(head_dim=8, sliding_window=5, query_pre_attn_scalar=7)
    vision = TOWER | dict(image_size=32, patch_size=8, vision_use_head=False)
    config = transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**text).to_dict(),
        vision_config=transformers.SiglipVisionConfig(**vision).to_dict(),
        image_token_index=index(words, names[5]),
        boi_token_index=index(words, marks["boi_token"]),
        eoi_token_index=index(words, marks["eoi_token"]),
        mm_tokens_per_image=4,
    )
    pictures = image_processor("Gemma3", size=dict(height=32, width=32))
    processor = transformers.Gemma3Processor(pictures, words, image_seq_length=4)
    model = transformers.Gemma3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = [1, index(words, "<end_of_turn>")]
    prompt = "<start_of_turn>user\n<start_of_image>{}<end_of_turn>\n<start_of_turn>model\n"
    return model, processor, prompt, DESCRIBE


def paligemma():
    roles = dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    words = make_tokenizer(["<pad>", "<eos>", "<bos>", "<image>"], ["<bos>"], **roles)
    pictures = image_processor("Siglip", size=dict(height=28, width=28))
    pictures.image_seq_length = 4
    processor = transformers.PaliGemmaProcessor(pictures, words)
    text = LLAMA | ids_of(words) | dict(head_dim=8)
    vision = TOWER | dict(image_size=28, patch_size=14, vision_use_head=False)
    config = transformers.PaliGemmaConfig(
        text_config=transformers.GemmaConfig(**text).to_dict(),
        vision_config=transformers.SiglipVisionConfig(**vision).to_dict(),
        image_token_index=index(words, "<image>"),
        projection_dim=16,
    )
    model = transformers.PaliGemmaForConditionalGeneration(config)
    return model, processor, "<image>{}", "caption en"


def git():
    names = ["[PAD]", "[CLS]", "[SEP]"]
    roles = dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")
    words = make_tokenizer(names, **roles)
    special = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0, vocab_size=len(words))
    config = transformers.GitConfig(
        vision_config=TOWER | dict(image_size=32, patch_size=16),
        **TOWER | special | dict(max_position_embeddings=64),
    )
    pictures = image_processor("CLIP", size={"shortest_edge": 32}, crop_size=32)
    processor = transformers.GitProcessor(pictures, words)
    return transformers.GitForCausalLM(config), processor, "[CLS]{}", None


def blip(kind):
    names = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    roles = dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]")
    words = make_tokenizer(names, before=["[CLS]"], after=["[SEP]"], **roles)
    special = dict(bos_token_id=len(words), eos_token_id=9, pad_token_id=0, sep_token_id=2)
    text = TOWER | special | dict(vocab_size=len(words) + 2, max_position_embeddings=64)
    vision = TOWER | dict(image_size=32, patch_size=16)
    config = transformers.BlipConfig(text_config=text, vision_config=vision)
    pictures = image_processor("Blip", size=dict(height=32, width=32))
    return kind(config), transformers.BlipProcessor(pictures, words)


def idefics():
    roles = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    names = ["<s>", "</s>", "<pad>"]
    words = make_tokenizer(names, legacy=True, **roles)
    own = len(words)
    words.add_special_tokens(
        {"additional_special_tokens": ["<fake_token_around_image>", "<image>"]}
    )
    vision = dict(embed_dim=16, image_size=32, patch_size=8, num_hidden_layers=2)
    vision |= dict(num_attention_heads=2, intermediate_size=24)
    text = LLAMA | ids_of(words, own)
    del text["num_key_value_heads"]
    perceiver = dict(resampler_n_latents=3, resampler_depth=1, resampler_n_heads=2)
    config = transformers.IdeficsConfig(
        **text,
        additional_vocab_size=2,
        cross_layer_interval=2,
        use_resampler=True,
        vision_config=vision,
        perceiver_config=perceiver | dict(resampler_head_dim=4),
    )
    pictures = image_processor("Idefics", image_size=32)
    processor = transformers.IdeficsProcessor(pictures, words, image_size=32)
    return transformers.IdeficsForVisionText2Text(config), processor


CASES = {
    "git": git,
    "paligemma": paligemma,
    "llava": llava,
    "blip-2, OPT": functools.partial(blip2, "opt"),
    "blip-2, T5": functools.partial(blip2, "t5"),
    "qwen2_vl": qwen2_vl,
    "idefics3, tiles": functools.partial(idefics3, "idefics3", True),
    "smolvlm, whole": functools.partial(idefics3, "smolvlm", False),
    "gemma3": gemma3,
}
