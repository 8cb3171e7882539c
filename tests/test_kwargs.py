import flax.linen as nn
import pytest
from ml_collections import ConfigDict

from vlm_jax.kwargs import build, call


def area(width: int, *, height: int = 2, scale: float = 1.0) -> float:
    return width * height * scale


class Projection(nn.Module):
    width: int
    bias: bool = True


def test_call_passes_config_and_extra_keywords():
    assert call(area, {"height": 3}, "config.area", width=5) == 15
    assert call(area, ConfigDict({"width": 4, "scale": 0.5}), "config.area") == 4
    assert call(Projection, {"width": 7}, "config.projection").width == 7


def test_unknown_key_names_the_nearest_and_lists_the_valid_ones():
    with pytest.raises(TypeError) as error:
        call(area, {"heigth": 3}, "config.area", width=5)
    assert str(error.value) == (
        "unknown key 'heigth' in config.area; did you mean 'height'? valid: height, scale"
    )
    with pytest.raises(TypeError, match=r"unknown key 'zzz' in config.area; valid: "):
        call(area, {"zzz": 3}, "config.area")


def test_module_keywords_leave_out_what_flax_adds():
    with pytest.raises(TypeError, match=r"valid: width, bias$"):
        call(Projection, {"name": "x"}, "config.projection")


def test_required_key_missing_and_key_set_by_the_code():
    with pytest.raises(TypeError, match=r"config.area lacks the required key 'width'"):
        call(area, {}, "config.area")
    with pytest.raises(TypeError, match=r"config.area.width is set by the code"):
        call(area, {"width": 1}, "config.area", width=5)


def test_build_looks_up_by_name():
    table = {"area": area}
    assert build(table, {"name": "area", "width": 5}, "config.shape") == 10
    with pytest.raises(ValueError, match=r"unknown config.shape.name 'aera'; did you mean 'area'"):
        build(table, {"name": "aera"}, "config.shape")
    with pytest.raises(TypeError, match=r"config.shape lacks the required key 'name'"):
        build(table, {"width": 5}, "config.shape")


def test_lists_of_a_stored_config_arrive_as_tuples():
    given = {"shape": [1, [2, 3]], "rest": 4}
    assert call(lambda shape, rest: (shape, rest), given, "x") == ((1, (2, 3)), 4)
