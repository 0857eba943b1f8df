r"""The two training rewards: strict (last box anywhere) and the paper's (last 100 characters, verbatim)."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from justrl import MathRuleVerifier, PaperVerifier
from justrl.errors import UserError
from justrl.verifiers import get_grader, get_reward
from justrl.verifiers.extraction import final_boxed, last_boxed

# Text in which boxes, braces and their fragments are common.
PIECES = st.sampled_from(
    [
        "\\boxed{",
        "\\boxed",
        "{",
        "}",
        "\\",
        "42",
        " ",
        "\\frac{1}{2}",
        "\n",
        "boxed{",
        "\\boxed{}",
        "é",
        "\x00",
        "\ud800",
    ]
)
BOXY_TEXT = st.lists(PIECES | st.text(max_size=3), max_size=40).map("".join)
BALANCED = st.recursive(
    st.text(alphabet=st.characters(exclude_characters="{}\\"), max_size=5),
    lambda inner: st.lists(inner | inner.map(lambda text: "{" + text + "}"), max_size=3).map("".join),
    max_leaves=10,
)


def boxes_by_brute_force(text: str) -> list[str]:
    """Every balanced box of a text, in order of their beginnings, found in quadratic time."""
    found = []
    for start in range(len(text)):
        if not text.startswith("\\boxed{", start):
            continue
        depth = 0
        for end in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if text[end] == "}" and depth == 0:
                found.append(text[start + 7 : end])
                break
    return found


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{42}.", "42"),
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{ 4 2 }", "4 2"),
        ("\\boxed{\\boxed{3}}", "3"),
        ("\\boxed{1} and \\boxed{2", "1"),
        ("\\boxed{1} and \\boxed{2 \\boxed{3}", "3"),
        ("\\boxed{", None),
        ("\\boxed 5", None),
        ("boxed{5}", None),
        ("\\fbox{5}", None),
        ("", None),
        ("\\boxed{}", ""),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
    ],
)
def test_strict_extracts_the_last_balanced_box(text, answer):
    assert MathRuleVerifier().extract_answer(text) == answer


def test_strict_ignores_spaces_only():
    verifier = MathRuleVerifier()
    assert verifier.normalize("  x + 1\n") == "x+1"
    assert verifier.verify("\\boxed{( 3, 4 )}", "(3,4)") == 1.0
    assert verifier.verify("\\boxed{3}", " 3 ") == 1.0
    assert verifier.verify("\\boxed{3.0}", "3") == 0.0
    assert verifier.verify("\\boxed{\\dfrac12}", "\\frac12") == 0.0
    assert verifier.verify("the answer is 3", "3") == 0.0


@pytest.mark.parametrize(
    ("completion", "gold", "reward", "outcome"),
    [
        ("so \\boxed{42}", "42", 1.0, "correct"),
        ("so \\boxed{42}" + "." * 90, "42", 1.0, "correct"),
        ("so \\boxed{42}" + "." * 91, "42", -1.0, "unparsed"),
        ("\\boxed{42} " + "x" * 200, "42", -1.0, "unparsed"),
        ("so \\boxed{ 42}", "42", -1.0, "wrong"),
        ("so \\boxed{042}", "42", -1.0, "wrong"),
        ("\\boxed{42} or \\boxed{41", "42", -1.0, "unparsed"),
        ("\\boxed{41} or \\boxed{42}", "42", 1.0, "correct"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", 1.0, "correct"),
        ("", "", -1.0, "unparsed"),
        ("\\boxed{}", "", 1.0, "correct"),
    ],
)
def test_paper_reward_to_the_character(completion, gold, reward, outcome):
    assert PaperVerifier().verify(completion, gold) == reward
    assert PaperVerifier().grade(completion, gold).outcome == outcome


@given(BOXY_TEXT)
def test_last_and_final_box_equal_brute_force(text):
    boxes = boxes_by_brute_force(text)
    assert last_boxed(text) == (boxes[-1] if boxes else None)
    last_start = text.rfind("\\boxed{")
    expected = boxes_by_brute_force(text[last_start:]) if last_start >= 0 else []
    assert final_boxed(text) == (expected[0] if expected else None)


@given(BALANCED, st.text(max_size=30))
def test_a_boxed_answer_is_found_again(answer, before):
    before = before.replace("\\boxed{", "")
    # Text before the box, braces and all, cannot reach into it.
    assert MathRuleVerifier().extract_answer(f"{before}\\boxed{{{answer}}}") == answer.strip()
    assert MathRuleVerifier().verify(f"{before}\\boxed{{{answer}}}", answer) == 1.0


@given(st.text() | BOXY_TEXT, st.text() | BOXY_TEXT)
def test_rewards_are_of_their_two_values_on_any_text(completion, gold):
    assert MathRuleVerifier().verify(completion, gold) in (0.0, 1.0)
    assert PaperVerifier().verify(completion, gold) in (-1.0, 1.0)
    for name in ("strict", "paper"):
        grade = get_grader(name).grade(completion, gold)
        assert (grade.outcome == "unparsed") == (grade.extracted is None)
        if grade.extracted is not None:
            grade.extracted.encode("utf-8")


@given(BOXY_TEXT, BOXY_TEXT | st.sampled_from(["42", "42 ", "", "\\frac{1}{2}"]))
def test_the_reward_is_that_of_the_grade(completion, gold):
    """`verify` makes no grade, and a subclass that normalises is heard."""

    class Spaceless(PaperVerifier):
        def normalize(self, answer):
            return answer.replace(" ", "")

    for verifier in (MathRuleVerifier(), PaperVerifier(), Spaceless()):
        expected = 1.0 if verifier.grade(completion, gold).correct else verifier.wrong_reward
        assert verifier.verify(completion, gold) == expected
    assert Spaceless().verify("\\boxed{4 2}", "42") == 1.0


@given(st.text(), st.text(max_size=100))
def test_paper_reward_sees_only_the_last_100_characters(before, tail):
    tail = tail.rjust(100, ".")
    assert PaperVerifier().grade(before + tail, "42") == PaperVerifier().grade(tail, "42")


@pytest.mark.parametrize("hostile", ["\\boxed{", "{", "}", "\\boxed{}", "\\boxed{{", "\\boxed", "{}\\boxed{"])
@pytest.mark.timeout(60)
def test_time_grows_no_faster_than_the_text(hostile):
    """A quadratic extraction would take hours on these two megabytes, and the test's time limit would end it."""
    text = hostile * (2_000_000 // len(hostile))
    assert MathRuleVerifier().verify(text, "1") == 0.0
    assert PaperVerifier().verify(text, "1") == -1.0


@pytest.mark.parametrize("value", [None, b"\\boxed{1}", 1])
def test_what_is_not_text_is_named(value):
    for verifier in (MathRuleVerifier(), PaperVerifier()):
        with pytest.raises(TypeError, match="completion must be a string, got"):
            verifier.verify(value, "1")
        with pytest.raises(TypeError, match="gold must be a string, got"):
            verifier.verify("\\boxed{1}", value)


def test_graders_and_rewards_by_name():
    assert get_reward("paper")("\\boxed{1}", "2") == -1.0
    assert get_reward("strict")("\\boxed{1}", "2") == 0.0
    assert get_grader("strict").grade_many([("\\boxed{1}", "1"), ("", "1")])[1].outcome == "unparsed"
    with pytest.raises(UserError, match="unknown grader 'strikt': choose one of strict, paper"):
        get_grader("strikt")
    with pytest.raises(UserError, match="unknown reward 'mean'"):
        get_reward("mean")
    with pytest.raises(UserError, match="grader 'strict' does not take these options"):
        get_grader("strict", speed=2)


def test_paper_reward_equals_verls_own_function():
    math_dapo = pytest.importorskip(
        "verl.utils.reward_score.math_dapo", reason="verl is not installed in this environment", exc_type=ImportError
    )
    chance = random.Random(0)
    pieces = ["\\boxed{", "\\boxed", "{", "}", "42", " ", "\\frac{1}{2}", "\n", "x" * 30, "é", "\\boxed{42}", "." * 80]
    rewards = set()
    for _ in range(20_000):
        text = "".join(chance.choices(pieces, k=chance.randint(0, 12)))
        gold = chance.choice(["42", "", " ", "\\frac{1}{2}", "é"])
        upstream = math_dapo.compute_score(text, gold, strict_box_verify=True)["score"]
        _, extracted = math_dapo.is_correct_strict_box(text, gold)
        assert PaperVerifier().verify(text, gold) == upstream
        assert PaperVerifier().extract_answer(text) == extracted
        rewards.add(upstream)
    assert rewards == {1.0, -1.0}
