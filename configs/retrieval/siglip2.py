"""SigLIP 2 pre-training (arXiv:2502.14786).

    python launch.py --config=configs/retrieval/siglip2.py --workdir=runs/siglip2

B/16 at 224 pixels with a vocabulary of 256,000: 375,187,970 parameters (`:so400m`, at 384 pixels:
1,136,008,498). `:naflex` is the variant for any aspect ratio, 256 patches of 16 pixels: 375,234,050
(`:so400m,naflex`: 1,135,670,962). The paper's recipe is SigLIP's (from memory: batch 32,768,
learning rate 1e-3, weight decay 1e-4, Adam (0.9, 0.95)) on multilingual WebLI, with a captioning
decoder from the start and self-distillation and masked prediction for the last fifth (from memory).
Published: B/16 ImageNet zero-shot 78.2, COCO R@1 68.9 / 52.1; So400m at 384 pixels 84.1, 71.7 /
55.8; NaFlex 78.5 and 83.5.
What differs: the sigmoid loss alone, on COCO captions, so none of these numbers is expected;
`:naflex` trains on squares of 256 pixels.
"""

from ml_collections import ConfigDict

from configs import common

TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
SO400M = dict(hidden_size=1152, num_hidden_layers=27, num_attention_heads=16)
SO400M |= dict(intermediate_size=4304)


def get_config(arg=None):
    """Arguments: so400m, the larger model; naflex, the one for any aspect ratio; folder, a
    published checkpoint to start from; smoke.
    """
    arg = common.parse_arg(arg, so400m=False, naflex=False, folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32_768
    config.total_epochs = 100
    size = SO400M if arg.so400m else {}
    text, vision = size | dict(vocab_size=256_000), size | dict(image_size=224, patch_size=16)
    if arg.so400m:
        vision |= dict(image_size=384, patch_size=14)
    if arg.naflex:
        vision |= dict(image_size=256, patch_size=16, num_patches=256)
    if arg.smoke:
        text = TINY | dict(vocab_size=512, max_position_embeddings=32)
        vision = TINY | dict(image_size=32, patch_size=8, num_patches=16)
    described = dict(text_config=text, vision_config=vision)
    config.model = common.published("siglip2" if arg.naflex else "siglip", described)
    config.model.contrast.update(scale=10.0, bias=-10.0)
    config.tasks = dict(retrieval=dict(length=32 if arg.smoke else 64, loss_name="sigmoid"))
    image = dict(size=vision["image_size"], method="bilinear")
    config.data = dict(train=common.coco("train"), image=image)
    common.fine_tune(config, arg.folder, name="bpe", size=256_000, lower=True)
    config.evals = dict(val=dict(task="retrieval", data=common.coco("val"), every_epochs=10))
    config.optimizer = common.adamw(1e-3, weight_decay=1e-4, betas=(0.9, 0.95))
    config.schedule = dict(name="cosine", warmup_percent=10)
    return common.shrink(config) if arg.smoke else config
