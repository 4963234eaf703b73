"""Results compared as what they are."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereason.problems.equivalence import is_formula, same_result

SAME = [
    # numbers
    ("7", "7.0"),
    ("7", "7."),
    ("7", "+7"),
    ("1,234", "1234.00"),
    ("1,234,567", "1 234 567"),
    ("1,00,000", "100000"),
    (".5", "0.50"),
    ("1e3", "1000"),
    ("1.5 \u00d7 10^3", "1500"),
    ("10\u00b3", "1e3"),
    (r"2 \times 10^{-2}", "0.02"),
    ("\u22125", "-5"),
    ("- 5", "-5"),
    ("3 million", "3,000,000"),
    # fractions
    ("1/2", "0.5"),
    ("2/4", "1/2"),
    ("2 1/2", "2.5"),
    ("2\u00bd", "5/2"),
    ("2 and 1/2", "2.5"),
    (r"\frac{1}{2}", ".5"),
    (r"$-\frac12$", "-0.5"),
    # units
    ("7 apples", "7"),
    ("7 apples", "7 Apple"),
    ("7 red apples", "7 apples"),
    ("7 apples left", "7 apples"),
    ("3 hours", "3 hrs"),
    ("5 m\u00b2", "5 square meters"),
    ("60 km/h", "60 kilometers per hour"),
    ("20 \u00b0C", "20 degrees Celsius"),
    ("4 feet", "4 ft"),
    (r"7\text{ apples}", "7 apples"),
    # money
    ("$7.50", "7.5"),
    ("$7", "7 dollars"),
    ("-$5", "$-5"),
    ("5 €", "€5.00"),
    ("$3 million", "$3,000,000"),
    # percentages
    ("50%", "50 percent"),
    ("50%", "50"),
    ("50%", "0.5"),
    ("50%", "1/2"),
    (r"50\%", "50 per cent"),
    # times of day
    ("10:30", "10:30 am"),
    ("10:30 p.m.", "22:30"),
    ("7 o'clock", "7:00"),
    ("3:2", "3 : 2"),
    # equations and lists
    ("x = 3", "3"),
    ("x=3", "x = 3.0"),
    ("3 + 4 = 7", "7"),
    ("Total = $7", "7"),
    ("The answer is 7.", "7"),
    ("7 and 8", "7, 8"),
    ("7 and 8", "7 boys and 8 girls"),
    ("7 boys and 8 girls", "8 girls and 7 boys"),
    ("x = 3, y = 4", "y = 4 and x = 3"),
    ("2 or 3", "3 or 2"),
    ("x = 2 or x = -2", "-2 or 2"),
    ("{1, 2}", "{2, 1}"),
    ("(1, 2)", "1, 2"),
    ("2 hours 30 minutes", "2 hours and 30 min"),
    # words
    ("Paris", "paris."),
    ("(B)", "b"),
    ("B.", "B"),
    ("**Paris**", '"Paris"'),
    ("salt  and pepper", "Salt and pepper"),
    (r"\boxed{7}", "7"),
    ("2x + 1", "2x+1"),
    # what follows a unit says what is measured, where or how
    ("5 liters of paint", "5 liters"),
    ("3 cups of flour", "3 cups"),
    ("7 boxes of cookies", "7 boxes"),
    ("7 students in the class", "7 students"),
    ("$5 each", "$5"),
    ("5 meters tall", "5 meters"),
    ("12 years old", "12 years"),
    ("5 miles away", "5 miles"),
    ("20% off", "20%"),
    ("5 inches", "5 in"),
    ("7 left", "7"),
    # other spellings
    ("$5/hr", "$5 an hour"),
    ("$5 per hour", "5 dollars an hour"),
    ("5 gal", "5 gallons"),
    ("3 wks", "3 weeks"),
    ("60 mph", "60 miles per hour"),
    ("60 kph", "60 km/h"),
    ("£5", "5 pounds"),
    ("5 lb", "5 pounds"),
    ("50 cents", "$0.50"),
    ("50 cents", "50"),
    ("$5 profit", "$5"),
    ("3 dozen eggs", "3 dozen"),
    ("3 left over", "3"),
    ("5-year-old", "5 years old"),
    ("50¢", "50 cents"),
    ("US$5", "$5"),
    ("USD 5", "$5"),
    ("Rs. 500", "₹500"),
    ("5 cm^{2}", "5 cm²"),
    # other forms
    ("minus 5", "-5"),
    ("negative 5", "-5"),
    ("about 5", "5"),
    ("≈ 5", "5"),
    (r"x \approx 7", "7"),
    ("Therefore, 7", "7"),
    ("Total cost: $7", "7"),
    ("7!", "7"),
    ('"7"', "7"),
    ("\u201c7\u201d", "7"),
    ("{7}", "7"),
    ("7 (seven)", "7"),
    ("$7 (seven dollars)", "7"),
    (r"\frac{-1}{2}", "-1/2"),
    (r"-\frac{1}{2}", "-1/2"),
    ("2h 30m", "2 hours 30 minutes"),
    ("5-10", "5 \u2013 10"),
    ("5-10", "5 to 10"),
    ("7 o'clock", "7"),
    ("3", "3 pm"),
]

DIFFERENT = [
    ("7", "8"),
    ("7", "-7"),
    ("1/3", "0.33"),
    ("7 apples", "7 pears"),
    ("7 apples", "8 apples"),
    ("7 apple trees", "7 apples"),
    ("3 hours", "3 minutes"),
    ("5 square meters", "5 meters"),
    ("3 dozen eggs", "3 eggs"),
    ("$7", "7 €"),
    ("$7", "7 apples"),
    ("50%", "5"),
    ("50%", "50 apples"),
    ("50%", "0.5%"),
    ("50", "0.5"),
    ("10:30", "10/30"),
    ("10:30", "10.5"),
    ("10:30", "1030"),
    ("10:30", "22:30"),
    ("10:30 am", "10:30 pm"),
    ("12:30 am", "12:30 pm"),
    ("10:30", "10:31"),
    ("1/2", "12"),
    ("1/2", "1"),
    ("1/2/2024", "1/2"),
    ("2 1/2", "21/2"),
    ("1e3", "13"),
    ("x = 3", "y = 3"),
    ("x = 3", "x = 4"),
    ("7 and 8", "7"),
    ("7 and 8", "8"),
    ("7 and 8", "8 and 7"),
    ("7 and 8", "78"),
    ("7 or more", "7"),
    ("(1, 2)", "[1, 2]"),
    ("[0, 1)", "[0, 1]"),
    ("(1, 2)", "(2, 1)"),
    ("7x", "7"),
    ("2 pi", "2"),
    ("7th", "7"),
    ("10/0", "10"),
    ("Paris", "London"),
    ("B", "A"),
    ("yes", "1"),
    ("nan", "0"),
    ("C++", "C"),
    # words that change the number
    *(
        (f"{number} {word}", number)
        for number, word in (
            ("2", "thirds"),
            ("3", "quarters"),
            ("7", "over 2"),
            ("7", "squared"),
            ("7", "below zero"),
            ("3", "remainder 2"),
            ("7", "at least"),
            ("7", "fewer"),
            ("12", "dozen"),
            ("3", "pairs"),
            ("7", "pairs of socks"),
        )
    ),
    ("at least 7", "7"),
    ("7 liters of paint", "7 liters of water"),
    ("7 boxes of cookies", "7 cookies"),
    ("$5 per hour", "$5 per day"),
    ("£5", "$5"),
    ("50 cents", "$50"),
    ("$1M", "1"),
    ("2h 30m", "2 hours 30 seconds"),
    # ranges and other times
    ("5-10", "5"),
    ("5-10", "10"),
    ("5 to 10", "10"),
    ("5-10", "5-11"),
    ("3", "4 pm"),
    ("15", "3 pm"),
    ("3", "3:30"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_result_in_another_form(one: str, other: str) -> None:
    assert same_result(one, other)
    assert same_result(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_another_result(one: str, other: str) -> None:
    assert not same_result(one, other)
    assert not same_result(other, one)


def forms() -> st.SearchStrategy[str]:
    """Results of every form, made of few numbers and words so that they often are the same."""
    number = st.sampled_from(["3", "0.5", ".5", "1/2", "2 1/2", "5e-1", "-3", "\u22123", "1,000", "1e3", "50", "3.0"])
    unit = st.sampled_from(
        [
            "",
            "%",
            " apples",
            " pears",
            " red apple",
            " hours",
            "km/h",
            " x",
            "x",
            " am",
            ":30",
            " of paint",
            " dozen",
            "¢",
            " an hour",
        ]
    )
    quantity = st.tuples(
        st.sampled_from(["", "$", "€", "US$", "x = ", "y=", "answer: ", "about ", "minus ", "cost: "]), number, unit
    ).map("".join)
    several = st.tuples(quantity, st.sampled_from([" and ", " or ", ", ", ",", ";", " ", " to ", "-"]), quantity).map(
        "".join
    )
    bracketed = st.tuples(st.sampled_from(["(", "[", "{"]), several, st.sampled_from([")", "]", "}"])).map("".join)
    written = st.text(st.sampled_from("0123456789.,:/-+=()[]{}$%^\\ abxyé½²°\u2212\u00d7\t"), max_size=12)
    return st.one_of(quantity, several, bracketed, written, st.text(max_size=20))


@given(forms())
def test_every_result_is_the_same_as_itself(result: str) -> None:
    assert same_result(result, result)
    assert same_result(result, f"  {result} ")


@given(forms(), forms())
def test_neither_of_two_results_comes_first(one: str, other: str) -> None:
    assert same_result(one, other) is same_result(other, one)


@given(st.fractions(-1000, 1000, max_denominator=50), st.integers(2, 9))
def test_a_number_is_the_same_however_it_is_written(value: Fraction, factor: int) -> None:
    sign, (whole, rest) = "-" if value < 0 else "", divmod(abs(value), 1)
    written = [
        f"{value.numerator * factor}/{value.denominator * factor}",
        rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}",
    ]
    if rest and whole:
        written.append(f"{sign}{whole} {rest}")
    if value == Fraction(str(float(value))):
        written += [f"{float(value):,}", f"{float(value):.9e}", f"${float(value)}", f"{float(value) * 100:.6f}%"]
    for form in written:
        assert same_result(form, str(value))
        assert not same_result(form, str(value + 1))


def test_long_results_are_compared_as_words() -> None:
    assert same_result("9" * 5000, "9" * 5000)
    assert not same_result("9" * 5000, "9" * 5001)
    assert not same_result("1e999999", "1e999998")


@pytest.mark.parametrize("result", ["2x + 1", "x^2", r"\sqrt{2}", "x = 2y", "sqrt(2) and 3", "2\u03c0", "x \u2265 3"])
def test_formulas_are_left_to_algebra(result: str) -> None:
    assert is_formula(result)
    asked = []

    def same_formula(one: str, other: str) -> bool:
        asked.append((one, other))
        return True

    if "and" not in result:
        assert same_result(result, "12345", same_formula)
        assert len(asked) == 1
    assert not same_result(result, "12345")
    assert not same_result(result, "Paris", same_formula)


@pytest.mark.parametrize(
    "result", ["7 apples", "1/2", "10:30", "x = 3", "$7.50", "7 and 8", "Paris", "C++", "AC/DC", "n/a"]
)
def test_other_results_need_no_algebra(result: str) -> None:
    assert not is_formula(result)


def test_asking_and_voting_import_no_algebra() -> None:
    program = "import sys, edgereason.pipeline.voting, edgereason.cli.app; sys.exit('sympy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
