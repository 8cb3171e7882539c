"""Tasks: what an example teaches, what that costs the model, and how well it was learned.

A task is a frozen dataclass with `preprocess(example, rng)` (NumPy, one example), `loss(outputs,
batch)` (per text) and `evaluate(run, source)` (yields name and value), beside `head`, the model
method that it asks, `reads`, the keys of an example that it needs, and `texts`, that of whose
entries it can learn several at a time ("captions" or "questions"; None if only one).
"""

from vlm_jax.tasks.captioning import Captioning
from vlm_jax.tasks.chat import Chat
from vlm_jax.tasks.classification import Classification
from vlm_jax.tasks.completion import Completion
from vlm_jax.tasks.flow_matching import FlowMatching
from vlm_jax.tasks.image_tokens import ImageTokens
from vlm_jax.tasks.masked_pretraining import MaskedPretraining
from vlm_jax.tasks.region_labels import RegionLabels
from vlm_jax.tasks.retrieval import Retrieval
from vlm_jax.tasks.text_to_image import TextToImage
from vlm_jax.tasks.vqa import VqaClassification, VqaGeneration

TASKS = {
    "captioning": Captioning,
    "vqa": VqaClassification,
    "vqa_generation": VqaGeneration,
    "chat": Chat,
    "retrieval": Retrieval,
    "masked_pretraining": MaskedPretraining,
    "classification": Classification,
    "completion": Completion,
    "region_labels": RegionLabels,
    "image_tokens": ImageTokens,
    "text_to_image": TextToImage,
    "flow_matching": FlowMatching,
}

Task = (
    Captioning
    | VqaClassification
    | VqaGeneration
    | Chat
    | Retrieval
    | MaskedPretraining
    | Classification
    | Completion
    | RegionLabels
    | ImageTokens
    | TextToImage
    | FlowMatching
)
