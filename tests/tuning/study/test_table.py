"""The table of small against large batches."""

from made_runs import made_profile, made_run

from largebatch.tuning.results.findings import find
from largebatch.tuning.study.conclusion import small_against_large


def test_small_losses_are_not_blurred_to_zero() -> None:
    solutions = [
        {"epochs": 3.0, "train_score": 1.6e-5 * factor, "score": 2.4e-5 * factor, "test_score": None, "top_eigenvalue": 1.0, "sharpness": {}}
        for factor in (1, 10)
    ]
    rows = small_against_large(find([made_run(batch) for batch in (32, 512)]), made_profile(), solutions)
    told = {row[""]: (row["batch 32"], row["batch 512"]) for row in rows}
    assert told["optimisation: train accuracy after 3 epochs"] == ("1.6e-05", "0.00016")
    assert told["generalisation: test accuracy after 3 epochs"] == ("2.4e-05", "0.00024")
