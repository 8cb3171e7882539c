"""ViLT-B/32, fine-tuned for COCO retrieval (arXiv:2102.03334).

    python launch.py --config=configs/retrieval/vilt.py:folder=PATH --workdir=runs/vilt_retrieval

PATH: a published folder such as dandelin/vilt-b32-mlm, whose head for words is left behind, or
dandelin/vilt-b32-finetuned-coco. 111,595,777 parameters. Image and text are read together, and one
score says how well they fit: there is no contrast, and ranking reads every pair. The paper's recipe
(from memory): 10 epochs, batch 256, AdamW with learning rate 1e-4 and weight decay 0.01, 10 %
warmup and a linear decay, RandAugment(2, 9); each image's text is chosen among 15 wrong ones. It
reports COCO R@1 61.5 / 42.7 and, zero-shot, Flickr30k 73.2 / 55.0.
What differs: the wrong texts are those of the batch's next examples, where the paper draws them
from the whole data set; the score's layer starts afresh from a folder without one, such as
vilt-b32-mlm, the paper's from that of its pre-training, which folders do not keep; pictures are
stretched to 384 x 384, where the paper keeps their proportions; RandAugment leaves out what moves
things. Without a folder the model starts from noise, and no number is expected.
"""

from configs import common
from configs.vqa.vilt import fine_tuned


def get_config(arg=None):
    """Arguments: folder, a published checkpoint to start from; smoke."""
    arg = common.parse_arg(arg, folder="", smoke=False)
    config = fine_tuned(arg, "ViltForImageAndTextRetrieval", common.coco("train"))
    config.tasks = dict(retrieval=dict(length=40, match=dict(), contrast=False))
    config.evals = dict(val=dict(task="retrieval", data=common.coco("val")))
    return common.shrink(config) if arg.smoke else config
