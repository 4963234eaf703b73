"""The result that an answer ends with, in the forms that results have."""

from __future__ import annotations

import pytest

from edgereason.problems.final_result import final_result
from edgereason.problems.result_values import quantities


@pytest.mark.parametrize(
    ("answer", "final"),
    [
        ("It is .5 litres", ".5"),
        ("It is 1/2", "1/2"),
        ("It is 2 1/2 cups.", "2 1/2"),
        ("It is \u22125 degrees", "-5"),
        ("16-7", "7"),
        ("At 10:30.", "10:30"),
        ("At 10:30 p.m.", "10:30 p.m."),
        ("From 1:00 PM to 5:00 PM", "5:00 PM"),
        ("It holds 980cm\u00b3", "980"),
        ("50% of them", "50%"),
        ("About 1e3 of them", "1e3"),
        ("On 1/2/2024", "2024"),
        ("One, two", None),
        (r"So it is \boxed{\frac{1}{2}}, after 3 steps.", r"\frac{1}{2}"),
        ("$1,200.50", "1200.50"),
        ("1, 2, 3", "3"),
        ("#### 7 apples\nDone.", "7 apples"),
        ("#### Conclusion\nTom has 7.", "7"),
        ("#### Step 2: add\n3 + 4 = 7", "7"),
        ("#### 1. Compute\n3 + 4 = 7", "7"),
        ("#### Final Answer:\n**7**", "7"),
        ("#### 8\nWait: \\boxed{7}", "7"),
        ("\\boxed{8}\n#### 7", "7"),
        ("It is the capital.\n#### Paris", "Paris"),
        ("It is the capital.\n#### Paris\n", "Paris"),
        ("#### $1M", "$1M"),
    ],
)
def test_the_last_result_is_found_whole(answer: str, final: str | None) -> None:
    assert final_result(answer) == final


def test_all_quantities_of_a_text() -> None:
    assert quantities("$5 and -2.50, or 3/4; at 9:05 am 12.") == ["5", "-2.50", "3/4", "9:05 am", "12"]
