"""tfds builders for data sets that tfds has none for, written as array_record without TensorFlow.

    python -m vlm_jax.data.prepare vqav2 --folder ~/downloads/vqa --data_dir ~/tensorflow_datasets

builds one; {"name": "tfds", "dataset": "vqav2", "split": "train"} in a config reads it.
"""

from pathlib import Path

import tensorflow_datasets as tfds

from vlm_jax.data.builders.flickr30k import Flickr30k
from vlm_jax.data.builders.jsonl_folder import JsonlFolder
from vlm_jax.data.builders.vqav2 import Vqav2
from vlm_jax.data.schema import DataError

BUILDERS = {"vqav2": Vqav2, "flickr30k": Flickr30k, "jsonl_folder": JsonlFolder}
"""The builders by the name under which tfds stores their data."""


def build(name: str, folder: str, data_dir: str) -> Path:
    """Builds BUILDERS[name] from a folder with the original files; returns where the data lie.

    data_dir: where tfds data sets are kept. What is already built there is kept as it is: delete
    the returned folder to build anew. Raises DataError if something is missing in the folder.
    """
    source = Path(folder).expanduser().resolve()
    if not source.is_dir() or not any(source.iterdir()):
        fault = "is empty" if source.is_dir() else "is not a folder"
        raise DataError(f"{source} {fault}; {BUILDERS[name].MANUAL_DOWNLOAD_INSTRUCTIONS}")
    builder = BUILDERS[name](data_dir=str(Path(data_dir).expanduser()), file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(source))
    )
    return Path(builder.data_dir)
