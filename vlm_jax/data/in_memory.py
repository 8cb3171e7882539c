"""What a user hands over, pictures, sounds and texts, as a source: nothing is read before it is
needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_jax.data.audio import as_audio, no_picture
from vlm_jax.data.schema import Example, Question, inside
from vlm_jax.data.video_images import VideoFile, as_image


@dataclass(frozen=True)
class InMemory:
    """Examples in memory as a source."""

    name: str
    examples: Sequence[Example]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[inside(index, self)]


def pictures(
    images: Sequence[Any],
    questions: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
) -> InMemory:
    """Pictures and videos, as `vlm_jax.api` takes them, without texts, or with one question or
    caption each. A list in place of a picture holds all `pictures` of an example.

    DataError for an array that is no picture and no video.
    """
    examples = []
    for number, given in enumerate(images):
        shown = [as_image(x) for x in (given if isinstance(given, list | tuple) else [given])]
        image = shown[0]
        key = str(image) if isinstance(image, str | Path | VideoFile) else f"picture {number}"
        example = Example(id=key, image=image, captions=[], questions=[])
        if isinstance(given, list | tuple):
            example["pictures"] = shown
        if questions is not None:
            example["questions"] = [Question(question=questions[number], answers=[""])]
        if captions is not None:
            example["captions"] = [captions[number]]
        examples.append(example)
    return InMemory("your pictures", examples)


def sounds(given: Sequence[Any]) -> InMemory:
    """Sounds, as `data.audio.as_audio` takes them, without pictures and texts."""
    examples = []
    for number, sound in enumerate(given):
        audio = as_audio(sound)
        key = str(sound) if isinstance(sound, str | Path) else f"sound {number}"
        examples.append(Example(id=key, image=no_picture, audio=audio, captions=[], questions=[]))
    return InMemory("your sounds", examples)


def texts_alone(texts: Sequence[str]) -> InMemory:
    """Texts without pictures, as captions of examples that know their `position`."""
    examples: list[Any] = []
    for number, text in enumerate(texts):
        example = Example(id=f"text {number}", image=no_picture, captions=[text], questions=[])
        examples.append({**example, "position": number})
    return InMemory("your texts", examples)
