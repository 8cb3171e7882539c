"""The table of chips: complete, plausible, and with its sources."""

import pytest

from vlm_jax.plan.chips import CHIPS, chip_of


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_every_figure_is_there_and_says_where_it_stands(chip):
    assert all(figure > 0 for figure in chip[1:8])
    assert chip.usable_gib <= chip.hbm_gib * 1.01
    if chip.name != "cpu":
        assert chip.source.startswith(f"cloud.google.com/tpu/docs/{chip.name}:")
        assert f"{chip.flops / 1e12:.0f} TFLOP/s" in chip.source
        assert f"{chip.hbm_bandwidth / 1e9:.0f} GB/s" in chip.source


def test_a_topology_names_its_chip():
    assert chip_of("v5e:8x8").name == "v5e"
    assert chip_of("cpu:8").name == "cpu"
    with pytest.raises(ValueError, match="unknown chip 'v5'; did you mean 'v5"):
        chip_of("v5:8x8")
