from __future__ import annotations

import subprocess
import sys

import pytest

from tasks.foundation.errors import ConfigError
from tasks.metrics import Example, Metric, all_metrics, metric_code, metrics_named

EXPECTED = ["accuracy", "bleu", "chrf", "exact_match", "f1", "loss", "perplexity", "rouge", "slot_f1"]


def test_every_file_is_found_by_the_name_of_its_metric() -> None:
    assert list(all_metrics()) == EXPECTED


def test_listing_metrics_imports_no_library_that_measures() -> None:
    probe = (
        "import sys; from tasks.metrics import all_metrics; all_metrics();"
        "heavy = {'torch', 'transformers', 'sacrebleu', 'rouge_score', 'numpy'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("metric", [metric() for metric in all_metrics().values()], ids=EXPECTED)
def test_a_metric_reports_its_headline_first_and_one_score_per_example(metric: Metric) -> None:
    example = Example(
        id="1",
        prompt="name[Aromi]",
        references=("Aromi is a pub.", "A pub: Aromi."),
        prediction="Aromi is a pub.",
        loss_sum=2.0,
        tokens=4,
        label="a",
        chosen="a",
    )
    measured = metric.measure([example, example])
    assert next(iter(measured.values)) == metric.headline
    assert len(measured.per_example) == 2


def test_an_unknown_metric_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"no metric 'blue'.*Allowed: accuracy, .*Did you mean bleu\?"):
        metrics_named(["loss", "blue"])


def test_the_code_of_a_metric_is_its_file_and_what_the_package_shares() -> None:
    code = metric_code(["bleu"])
    assert "tasks.metrics.bleu" in code
    assert "tasks.metrics._texts" in code
    assert "tasks.metrics.rouge" not in code
