"""The families, by the model_type of their config.json."""

from vlm_jax.weights.families.align import ALIGN
from vlm_jax.weights.families.bert import BERT
from vlm_jax.weights.families.big_vision import BIG_VISION
from vlm_jax.weights.families.blip import BLIP
from vlm_jax.weights.families.blip2 import BLIP2
from vlm_jax.weights.families.cappa import CAPPA
from vlm_jax.weights.families.clip import CLIP
from vlm_jax.weights.families.coca import COCA
from vlm_jax.weights.families.dual import DUAL
from vlm_jax.weights.families.efficientnet_lite import EFFICIENTNET_LITE
from vlm_jax.weights.families.gemma import GEMMA
from vlm_jax.weights.families.gemma3 import GEMMA3
from vlm_jax.weights.families.git import GIT
from vlm_jax.weights.families.gpt2 import GPT2
from vlm_jax.weights.families.idefics import IDEFICS
from vlm_jax.weights.families.idefics3 import IDEFICS3
from vlm_jax.weights.families.llama import LLAMA
from vlm_jax.weights.families.llava import LLAVA
from vlm_jax.weights.families.lstm_merge import LSTM_MERGE
from vlm_jax.weights.families.lxmert import LXMERT
from vlm_jax.weights.families.open_clip import OPEN_CLIP
from vlm_jax.weights.families.opt import OPT
from vlm_jax.weights.families.paligemma import PALIGEMMA
from vlm_jax.weights.families.qwen2 import QWEN2
from vlm_jax.weights.families.qwen2_vl import QWEN2_VL
from vlm_jax.weights.families.resnet import RESNET
from vlm_jax.weights.families.siglip import SIGLIP
from vlm_jax.weights.families.siglip2 import SIGLIP2
from vlm_jax.weights.families.t5 import T5
from vlm_jax.weights.families.torchvision import TORCHVISION
from vlm_jax.weights.families.vilt import VILT
from vlm_jax.weights.families.visual_bert import VISUAL_BERT
from vlm_jax.weights.families.vit import VIT

FAMILIES = {
    "align": ALIGN,
    "bert": BERT,
    "big_vision": BIG_VISION,
    "blip": BLIP,
    "blip-2": BLIP2,
    "cappa": CAPPA,
    "clip": CLIP,
    "efficientnet_lite": EFFICIENTNET_LITE,
    "gemma": GEMMA,
    "gemma2": GEMMA,
    "gemma3": GEMMA3,
    "gemma3_text": GEMMA,
    "git": GIT,
    "gpt2": GPT2,
    "idefics": IDEFICS,
    "idefics3": IDEFICS3,
    "llama": LLAMA,
    "llava": LLAVA,
    "lstm_merge": LSTM_MERGE,
    "lxmert": LXMERT,
    "open_clip": OPEN_CLIP,
    "open_clip_coca": COCA,
    "opt": OPT,
    "paligemma": PALIGEMMA,
    "qwen2": QWEN2,
    "qwen2_vl": QWEN2_VL,
    "resnet": RESNET,
    "siglip": SIGLIP,
    "siglip2": SIGLIP2,
    "smolvlm": IDEFICS3,
    "t5": T5,
    "torchvision": TORCHVISION,
    "vilt": VILT,
    "vision-text-dual-encoder": DUAL,
    "visual_bert": VISUAL_BERT,
    "vit": VIT,
}
