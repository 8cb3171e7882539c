"""The CPU build of PyTorch lacks the compiled operators that torchvision registers shapes for when
it is imported (by transformers, too); declared here, they are merely absent.
"""

import torch

BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
ALIGN = (
    "(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor"
)
LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for name, signature in (("nms", BOXES), ("qnms", BOXES), ("roi_align", ALIGN)):
    if not hasattr(torch.ops.torchvision, name):
        LIBRARY.define(name + signature)
