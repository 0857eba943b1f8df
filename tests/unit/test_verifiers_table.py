r"""What each grader says of answers as models write them: one row per kind of answer or bug seen in the wild.

Columns: gold, completion, then the outcome of strict, paper, paper_rules and symbolic (c = correct, w = wrong,
u = unparsed, t = timeout). Where paper_rules is more or less lenient than one would wish, it does as the authors'
released grader does, which decided the published numbers.
"""

import pytest

from justrl.verifiers import get_grader

NAMES = ("strict", "paper", "paper_rules", "symbolic")
LETTERS = {"correct": "c", "wrong": "w", "unparsed": "u", "timeout": "t"}
FILLER = "This completes the solution. " * 5

ROWS = {
    # gold, completion, outcomes
    "plain": ("42", r"so \boxed{42}", "cccc"),
    "wrong": ("42", r"so \boxed{41}", "wwww"),
    "no box": ("42", "so the answer is 42", "uuuu"),
    "the 100-character window": ("42", r"\boxed{42} " + FILLER, "cucc"),
    "box begins before the window": ("a" * 95, r"\boxed{" + "a" * 95 + "}", "cucc"),
    "last of two boxes": ("42", r"\boxed{41}, no: \boxed{42}", "cccc"),
    "last box wrong": ("42", r"\boxed{42}, no: \boxed{41}", "wwww"),
    "cut off in the last box": ("42", r"\boxed{42} and \boxed{4", "cuuc"),
    "nested boxes": ("42", r"\boxed{\boxed{42}}", "cccc"),
    "unclosed think tag": ("42", r"<think> so \boxed{42}", "cccc"),
    "empty box": ("42", r"\boxed{}", "wwwu"),
    "fbox is no box": ("42", r"\fbox{42}", "uuuu"),
    "box without braces": ("5", r"\boxed 5", "uuuu"),
    "spaces in the box": ("42", r"\boxed{ 42 }", "cwcc"),
    "inner spaces": ("(3,4]", r"\boxed{(3, 4]}", "cwcc"),
    "trailing full stop": ("42", r"\boxed{42.}", "wwcc"),
    "text after the box": ("42", r"\boxed{42}$$ **Answer**", "cccc"),
    "leading zero": ("33", r"\boxed{033}", "wwcc"),
    "plus sign": ("33", r"\boxed{+33}", "wwcc"),
    "decimal of an integer": ("33", r"\boxed{33.0}", "wwcc"),
    "thousands comma": ("2000", r"\boxed{2,000}", "wwcc"),
    "braced comma": ("2000", r"\boxed{2{,}000}", "wwcc"),
    "thin space": ("10000", r"\boxed{10\,000}", "wwwc"),
    "integers beyond 64 bits": ("12345678901234567890123", r"\boxed{12345678901234567890123}", "cccc"),
    # Both are the same double: the authors' grader compares integers as floats.
    "long integers through a float": ("12345678901234567890123", r"\boxed{12345678901234567890124}", "wwcw"),
    "dfrac": (r"\frac{1}{9}", r"\boxed{\dfrac{1}{9}}", "wwcc"),
    "frac without braces": (r"\frac43", r"\boxed{\frac{4}{3}}", "wwcc"),
    "slash": (r"\frac{14}{3}", r"\boxed{14/3}", "wwcc"),
    "unreduced fraction": (r"\frac{1}{2}", r"\boxed{\frac{2}{4}}", "wwwc"),
    "half as a decimal": (r"\frac{1}{2}", r"\boxed{0.5}", "wwcc"),
    "decimal for a fraction": (r"\frac{3}{4}", r"\boxed{0.75}", "wwcc"),
    "rounded decimal for a fraction": (r"\frac{1}{3}", r"\boxed{0.33}", "wwww"),
    "mixed number": (r"\frac{7}{2}", r"\boxed{3\frac{1}{2}}", "wwcc"),
    "minus before the fraction": (r"\frac{-1}{2}", r"\boxed{-\frac{1}{2}}", "wwcc"),
    "degrees": ("90^\\circ", r"\boxed{90}", "wwcc"),
    "per cent": (r"10\%", r"\boxed{10}", "wwcc"),
    "dollars": (r"\$32", r"\boxed{32}", "wwcc"),
    "unit in text": ("41.8", r"\boxed{41.8 \text{ cm}}", "wwcc"),
    "unit in words": ("5", r"\boxed{5 meters}", "wwcc"),
    "left and right": (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3,\pi/2)}", "wwcc"),
    "interval's brackets": ("(3,4]", r"\boxed{[3,4]}", "wwww"),
    "order in a tuple": ("(1,2)", r"\boxed{(2,1)}", "wwww"),
    "order in a list": ("3, 5, 7", r"\boxed{7,5,3}", "wwwc"),
    "set braces": ("1,2", r"\boxed{\{1,2\}}", "wwcc"),
    "sum in another order": (r"3+2\sqrt{2}", r"\boxed{2\sqrt2+3}", "wwcc"),
    "root reduced": (r"\sqrt{51}", r"\boxed{\frac{\sqrt{204}}{2}}", "wwcc"),
    "product expanded": ("x^2+3x+2", r"\boxed{(x+1)(x+2)}", "wwcc"),
    "three letters": ("(a+5)(b+2)c", r"\boxed{(b+2)(a+5)c}", "wwwc"),
    "power with two digits": ("2^{99}", r"\boxed{633825300114114700748351602688}", "wwwc"),
    "equation": ("x=5", r"\boxed{5}", "wwcc"),
    "function equation": ("f(x)=x+1", r"\boxed{f(x) = x + 1}", "cwcc"),
    "text": (r"\text{Evelyn}", r"\boxed{Evelyn}", "wwcc"),
    "bold letter": (r"\text{(B)}", r"\boxed{\textbf{(B)}}", "wwcc"),
    "base": ("52_8", r"\boxed{52_{8}}", "wwcc"),
    "matrix": (
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
        r"\boxed{\begin{bmatrix} 1 \\ 2 \end{bmatrix}}",
        "wwcc",
    ),
    "plus or minus": (r"1 \pm \sqrt{19}", r"\boxed{1+\sqrt{19}, 1-\sqrt{19}}", "wwwc"),
    "powers of ten": ("4.5e33", r"\boxed{4.5 \times 10^{33}}", "wwwc"),
    "gold in a box": (r"\boxed{204}", r"\boxed{204}", "wwcc"),
    # The index of a root is lost on the way to text, there as here; so is a macro that the converter does not know.
    "cube root for a square root": (r"\sqrt{2}", r"\boxed{\sqrt[3]{2}}", "wwcw"),
    "cotangent lost": (r"\cot x", r"\boxed{x}", "wwcw"),
    "other scripts' digits": ("35", "\\boxed{٣٥}", "wwcu"),
    "full-width digits": ("35", "\\boxed{３５}", "wwcu"),
    "minus sign of typography": ("-2", "\\boxed{\u22122}", "wwwc"),
    "words": ("5", r"\boxed{\text{There is no such number}}", "wwww"),
    "tower of powers": ("5", r"\boxed{9^{9^{9^9}}}", "wwwt"),
    "tower in Python's spelling": (r"\sqrt{5}", r"\boxed{9**9**9**9}", "wwtt"),
    # symbolic: what is no value, though a value stands in it.
    "not equal": ("5", r"\boxed{\neq 5}", "wwwu"),
    "fraction in what is not read": (r"\frac{11}{5}", r"\boxed{\neq \frac{11}{5}}", "wwwu"),
    "formula in what is not read": ("5", r"\boxed{\foo 6 $5$}", "wwwu"),
    "letter not equal": ("5", r"\boxed{x \neq 5}", "wwww"),
    "greater than": ("5", r"\boxed{> 5}", "wwwu"),
    "at least": ("5", r"\boxed{\geq 5}", "wwwu"),
    "not": ("5", r"\boxed{\not 5}", "wwwu"),
    "implied": ("5", r"\boxed{6 \Rightarrow 5}", "wwwu"),
    "unknown command": ("5", r"\boxed{\foo 3 5}", "wwwu"),
    "struck out before": ("5", r"\boxed{\cancel{6} 5}", "wwwu"),
    "false chain": ("5", r"\boxed{x=6=5}", "wwww"),
    "false chain for an equation": ("x=5", r"\boxed{x=6=5}", "wwww"),
    "digit in bold": ("5", r"\boxed{5\mathbf{3}}", "wwww"),
    "digit in bold, counted": ("53", r"\boxed{5\mathbf{3}}", "wwcc"),
    "number in another base": ("52", r"\boxed{52_8}", "wwww"),
    "number in the gold's base": ("52_8", r"\boxed{52_8}", "cccc"),
    "remainder": ("5", r"\boxed{5 \mod 7}", "wwww"),
    "not about equal": ("5", r"\boxed{5\approx{3}}", "wwww"),
    "about equal": (r"\frac{1}{3}", r"\boxed{\frac13 \approx 0.333}", "wwwc"),
    "word of the same letters": ("silent", r"\boxed{listen}", "wwww"),
    "words of the same letters in a list": ("silent, even", r"\boxed{listen, even}", "wwww"),
    "empty interval": ("(5,2]", r"\boxed{(9,2]}", "wwwu"),
    "empty interval, the same": ("(5,2]", r"\boxed{\left( 5, 2 \right]}", "wwcc"),
    "set for a point": ("(5,2)", r"\boxed{\{5,2\}}", "wwww"),
    "other brackets": ("[5,2]", r"\boxed{(5,2)}", "wwww"),
    # ... and what is one.
    "formula in the box": ("5", r"\boxed{$5$}", "wwcc"),
    "formula in the box, in brackets": ("5", r"\boxed{\(5\)}", "wwcc"),
    "formula in bold": (r"\frac{11}{5}", r"\boxed{\mathbf{\frac{11}{5}}}", "wwcc"),
    "letter equals": ("5", r"\boxed{x=5}", "wwcc"),
    "letter equals, with a comma": ("1732", r"\boxed{x=1,732}", "wwwc"),
    "letter equals, both with a comma": ("1,732", r"\boxed{x=1,732}", "wwcc"),
    "sum worked out": ("3", r"\boxed{1+2=3}", "wwwc"),
    "approximately": ("52", r"\boxed{x \approx 52}", "wwwc"),
    "boxed again": ("5", r"\boxed{\boxed{5}}", "cccc"),
    "word in text": ("silent", r"\boxed{\text{Silent}}", "wwcc"),
    "words in another order": ("silent, even", r"\boxed{even, silent}", "wwwc"),
    "product of two letters": ("ab", r"\boxed{ba}", "wwcc"),
    "product in order": ("xyz", r"\boxed{x \cdot y \cdot z}", "wwwc"),
    # Oddities of the authors' grader, kept in paper_rules: what a phantom hides counts, an unknown command vanishes, a
    # short left side of an equation is not looked at, and what follows a text is cut off.
    "phantom digit": ("53", r"\boxed{5\phantom{3}}", "wwcw"),
    "phantom digit before": ("53", r"\boxed{\phantom{5}3}", "wwcw"),
    "phantom beside the answer": ("5", r"\boxed{5\phantom{\frac{1}{2}}}", "wwwc"),
    "phantom sign": ("-5", r"\boxed{\phantom{-}5}", "wwcw"),
    "phantom alone": ("5", r"\boxed{\phantom{5}}", "wwcu"),
    "false equation": ("5", r"\boxed{6=5}", "wwcw"),
    "another letter": ("x=5", r"\boxed{y=5}", "wwcw"),
    "negation lost": ("5", r"\boxed{\neg 5}", "wwcu"),
    "unknown command around": ("5", r"\boxed{\foo{5}}", "wwcu"),
    "struck out": ("5", r"\boxed{\cancel{5}}", "wwcu"),
    "one of two": ("5", r"\boxed{5 \text{ or } 6}", "wwcw"),
    "code": ("5", r"\boxed{__import__('os').system('true')}", "wwwu"),
}


@pytest.fixture(scope="module")
def graders():
    """One of each rule grader, the two with workers limited to one second."""
    made = {"strict": get_grader("strict"), "paper": get_grader("paper")}
    made |= {name: get_grader(name, processes=1, timeout=1.0) for name in ("paper_rules", "symbolic")}
    yield made
    for grader in made.values():
        grader.close()


@pytest.mark.parametrize(("gold", "completion", "outcomes"), ROWS.values(), ids=ROWS)
def test_outcome_of_every_grader(graders, gold, completion, outcomes):
    grades = {name: graders[name].grade(completion, gold) for name in NAMES}
    assert "".join(LETTERS[grades[name].outcome] for name in NAMES) == outcomes, grades
