from pathlib import Path

from vlm_jax.data.cache import cache_folder


def test_the_folder_may_be_chosen(monkeypatch):
    monkeypatch.setenv("VLM_JAX_DATA", "~/data")
    assert cache_folder() == Path.home() / "data"
    monkeypatch.setenv("VLM_JAX_DATA", "")
    assert cache_folder() == Path.home() / ".cache" / "vlm_jax"
