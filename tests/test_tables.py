from vlm_jax import tables

METRICS = {
    "vqa/f1_macro": 0.25,
    "vqa/accuracy/type/colour": 0.75,
    "vqa/accuracy": 0.5,
    "vqa/accuracy/low": 0.4375,
    "vqa/accuracy/high": 0.5625,
    "vqa/accuracy/question_only": 0.125,
    "vqa/accuracy/question_only/low": 0.0,
    "vqa/accuracy/question_only/high": 1.0,
    "vqa/accuracy/majority": 0.0625,
    "vqa/accuracy/type/colour/question_only": 0.375,
    "vqa/n": 1000.0,
    "vqa/skipped": 2.0,
    "search/image_to_text/mean_rank": 131.5,
    "search/image_to_text/R@1": 0.4,
    "search/image_to_text/R@1/chance": 0.004,
}


def test_every_value_appears_once_and_baselines_with_their_metric():
    vqa, search = tables.group_metrics(METRICS)
    assert vqa.rows[0] == (
        "accuracy",
        0.5,
        {"question_only": 0.125, "majority": 0.0625},
        (0.4375, 0.5625),
    )
    assert [row.metric for row in vqa.rows] == ["accuracy", "f1_macro"]
    assert vqa.parts == [("accuracy/type/colour", 0.75, {"question_only": 0.375}, None)]
    assert vqa.counts == {"n": 1000.0, "skipped": 2.0}
    assert [row.metric for row in search.rows] == ["image_to_text/R@1", "image_to_text/mean_rank"]
    assert not search.parts, "R@1 is no part of a metric, there is no image_to_text"
    values = [
        value
        for group in (vqa, search)
        for row in [*group.rows, *group.parts]
        for value in (row.value, *row.baselines.values(), *(row.interval or ()))
    ]
    counts = {*vqa.counts.values(), *search.counts.values()}
    shown = [value for key, value in METRICS.items() if "question_only/" not in key]
    assert sorted([*values, *counts]) == sorted(shown), "ends of a baseline's interval have no room"


def test_a_baseline_without_its_metric_is_shown_on_its_own():
    (group,) = tables.group_metrics({"a/bleu/chance": 0.5})
    assert group.rows == [("bleu/chance", 0.5, {}, None)]


def test_the_table_has_a_line_per_metric_with_its_baselines_beside():
    lines = tables.metric_table(METRICS).splitlines()
    assert lines[0].split() == ["metric", "value", "95", "%", "baseline"]
    words = [line.split() for line in lines]
    assert "accuracy 0.500 0.438 - 0.562 question only 0.125, majority 0.062".split() in words
    assert "image to text R@1 0.400 chance 0.004".split() in words
    assert "vqa 1,000 examples, 2 skipped".split() in words
    assert max(map(len, lines)) <= 100
    assert tables.metric_table({}).split() == ["metric", "value", "95", "%", "baseline"]


def test_what_is_printed_to_a_file_is_plain(capsys):
    metrics = {"[red]x/accuracy": 1.0, "b/:smile:": 0.0}
    tables.print_table(metrics)
    printed = capsys.readouterr().out
    assert printed == tables.metric_table(metrics)
    assert "[red]x" in printed and ":smile:" in printed and "\x1b" not in printed


def test_values_have_the_decimals_that_matter():
    shown = [tables.format_value(value) for value in (0.41249, 3.5, -0.25, 128.0, 131.54, 12345.0)]
    assert shown == ["0.412", "3.500", "-0.250", "128", "131.5", "12,345"]
