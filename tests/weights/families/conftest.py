"""Before transformers is imported, torchvision must be importable."""

from tests import torchvision_operators  # noqa: F401
