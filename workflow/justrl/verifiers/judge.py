r"""A judge model: decides whether a completion's final answer matches the gold answer, if the rules found no match.

The paper sends every completion that its rules reject to `opencompass/CompassVerifier-3B`. The authors' script
(thunlp/JustRL, `evals/grade.py`) looks the question up in the wrong place, so its judge always reads an empty question.
Here the question is filled in; `fill_question=False` gives the authors' prompt. Any Hugging Face chat model can be the
judge.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from justrl.errors import UserError
from justrl.models import load_backend
from justrl.models import sampling as backends
from justrl.models.sampling import Sampling, SamplingRequest, chat_prompt
from justrl.verifiers.extraction import last_boxed
from justrl.verifiers.outcome import Grade, Grader, Outcome, require_text

# The prompt that CompassVerifier was trained on. Its source and licence are in a file next to it.
COMPASS_VERIFIER_PROMPT = Path(__file__).with_name("compass_verifier_prompt.txt").read_bytes().decode("utf-8")

_VERDICT = re.compile(r"\W*(?:(?P<letter>[ABC])\b)?\W*(?P<word>(?i:CORRECT|INCORRECT|INVALID))?\W*")
# A letter, a separator, then the judge's reasons.
_REASONED = re.compile(
    r"[\s*_#>\"'(]*(?P<letter>[ABC])[*_)\"']*\s*[.,:;\-\N{EN DASH}\N{EM DASH}](?P<rest>.*)", re.DOTALL
)
_WORD = re.compile(r"\b(?:not\s+)?(?:CORRECT|INCORRECT|INVALID)\b", re.IGNORECASE)
_LABEL = re.compile(
    r"\b(?:answer|judge?ment|verdict|grade|decision|conclusion|result)\b[*_\s]*(?:is\b|:|=)+[*_\s]*(?P<said>[^\n]*)",
    re.IGNORECASE,
)
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}")
_OUTCOMES = {
    "A": Outcome.CORRECT, "B": Outcome.WRONG, "C": Outcome.UNPARSED,
    "CORRECT": Outcome.CORRECT, "INCORRECT": Outcome.WRONG, "INVALID": Outcome.UNPARSED,
}  # fmt: skip
# Minimum number of tokens reserved for a verdict. A completion that would need them is shortened.
VERDICT_TOKENS = 64
# Largest share of verdicts of a working judge that cannot be parsed.
MOST_NOT_UNDERSTOOD = 0.05


def read_verdict(text: str, exact: bool = False) -> Outcome | None:
    r"""Outcome of a judge's answer: A or CORRECT, B or INCORRECT, C or INVALID; None if it names none of them.

    Only the text after the judge's thoughts counts: the last `\boxed{}`, else the text after the last label such as
    `Judgment:`, else the first or the last line. With `exact`, only the bare letter "A" is correct and everything else
    is wrong, as in the authors' script.
    """
    text = text.strip()
    if exact:
        return Outcome.CORRECT if text == "A" else Outcome.WRONG
    _, thought, said = text.rpartition("</think>")
    if not thought and text.startswith("<think>"):
        return None
    if (boxed := last_boxed(said)) is not None:
        return _named(_TEXT.sub(r"\1", boxed))
    if (outcome := _named(said)) is not None:
        return outcome
    if labels := list(_LABEL.finditer(said)):
        return _named(labels[-1]["said"])
    lines = [line for line in said.splitlines() if line.strip()]
    found = {outcome for line in (lines[:1] + lines[-1:]) if (outcome := _named(line)) is not None}
    return found.pop() if len(found) == 1 else None


def _named(text: str) -> Outcome | None:
    """The outcome if a text names just that, or a letter followed by reasons that name no other outcome. Else None."""
    match = _VERDICT.fullmatch(text)
    if match:
        named = {_OUTCOMES[value.upper()] for value in (match["letter"], match["word"]) if value}
        return named.pop() if len(named) == 1 else None
    if reasoned := _REASONED.fullmatch(text):
        outcome = _OUTCOMES[reasoned["letter"]]
        words = {" ".join(word.upper().split()) for word in _WORD.findall(reasoned["rest"])}
        return outcome if all(_OUTCOMES.get(word) is outcome for word in words) else None
    return None


@dataclass(eq=False)
class ModelGrader(Grader):
    """Grades (completion, gold, question) with a judge model at temperature 0.

    Pass only the completions that the rules rejected. The model is loaded on first use. Equal triples are judged once.

    Args:
        model: a Hugging Face model folder, or a hub id (then `revision` names the commit).
        backend: "vllm" or "transformers".
        max_tokens: longest verdict, in tokens.
        fill_question: False leaves the question empty, as the authors' script does.
        max_model_len: longest prompt plus verdict, in tokens; default: the model's context length. A longer completion
            loses its beginning, never its end.
        prompt: template with the fields question, gold_answer and llm_response; default: CompassVerifier's.
        exact_verdict: count only the bare letter "A" as correct and all else as wrong, as the authors' script does.
        most_not_understood: largest share of verdicts that may be none of A, B and C.
        dtype, tensor_parallel_size, batch_size, engine_options: as in `models.load_backend`.
    """

    name = "model"

    model: str | Path = "opencompass/CompassVerifier-3B"
    revision: str | None = None
    backend: str = "vllm"
    max_tokens: int = 2048
    fill_question: bool = True
    max_model_len: int | None = None
    prompt: str = COMPASS_VERIFIER_PROMPT
    exact_verdict: bool = False
    dtype: str = "auto"
    tensor_parallel_size: int = 1
    batch_size: int | None = None
    engine_options: dict[str, Any] | None = None
    most_not_understood: float = MOST_NOT_UNDERSTOOD

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"a judge's max_tokens must be at least 1, got {self.max_tokens}")
        try:
            self.prompt.format(question="", gold_answer="", llm_response="")
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(
                "a judge's prompt may have the fields {question}, {gold_answer} and {llm_response}, and other braces "
                f"only doubled: {error!r}"
            ) from error
        self._backend: backends.Backend | None = None

    def grade(self, completion: str, gold: str, question: str = "") -> Grade:
        """Judge one completion."""
        return self.grade_many([(completion, gold, question)])[0]

    def grade_many(self, triples: Iterable[tuple[str, ...]]) -> list[Grade]:
        """Judge (completion, gold, question) triples, all in one submission to the backend.

        `extracted` is the content of the last box, for voting. A triple is `timeout` if its question and gold answer
        alone exceed the model's length, or if its verdict cannot be parsed. It is `unparsed` if the judge calls it
        invalid. Raises UserError if `fill_question` is on and a question is missing, or if more verdicts than
        `most_not_understood` allows cannot be parsed.
        """
        triples = [tuple(triple) for triple in triples]
        for triple in triples:
            self._check(triple)
        wanted = list(dict.fromkeys(triples))
        outcomes = dict.fromkeys(wanted, Outcome.TIMEOUT)
        if wanted:
            unclear = []
            for index, text in self._verdicts(wanted):
                outcome = read_verdict(text, self.exact_verdict)
                if outcome is None:
                    unclear.append(text)
                else:
                    outcomes[wanted[index]] = outcome
            self._check_understood(unclear, len(wanted))
        return [Grade.of(outcomes[triple], last_boxed(triple[0])) for triple in triples]

    def _check_understood(self, unclear: list[str], count: int) -> None:
        """Print how many verdicts could not be parsed. Raises UserError if they are too many."""
        if not unclear:
            return
        said = f"{len(unclear)} of {count} verdicts of the judge {self.model} are not understood"
        examples = ", ".join(f"{text[-80:]!r}" for text in unclear[:3])
        if len(unclear) > self.most_not_understood * count:
            raise UserError(
                f"{said}, such as {examples}: use a judge that answers A, B or C, or raise max_tokens "
                f"({self.max_tokens})"
            )
        print(f"{said} and count as timeout, such as {examples}", file=sys.stderr, flush=True)

    def _check(self, triple: tuple) -> None:
        if len(triple) == 2 and not self.fill_question:
            return
        if len(triple) != 3 or (self.fill_question and not triple[2]):
            raise UserError(
                "the model grader needs (completion, gold, question) with the question filled in; set "
                "fill_question=False to judge without it, as the authors' script does"
            )
        require_text(*triple)

    def close(self) -> None:
        """Release the model's memory."""
        if self._backend is not None:
            self._backend.close()
        self._backend = None

    def load(self) -> backends.Backend:
        """Load the model and its tokenizer, unless they are loaded."""
        if self._backend is None:
            self.tokenizer = backends.load_tokenizer(self.model, self.revision)
            self.stop_tokens = backends.stop_token_ids(self.model, self.tokenizer, self.revision)
            self.length = self.max_model_len or backends.model_length(self.model, self.revision)
            self.room = min(self.max_tokens, VERDICT_TOKENS)
            if self.length <= self.room:
                raise UserError(
                    f"the judge {self.model} has a context of {self.length} tokens, too short for a prompt and a "
                    "verdict"
                )
            names = ("revision", "dtype", "tensor_parallel_size", "batch_size", "engine_options")
            options = {name: getattr(self, name) for name in names}
            self._backend = load_backend(self.backend, self.model, max_model_len=self.length, **options)
        return self._backend

    def _verdicts(self, triples: list[tuple]) -> Iterator[tuple[int, str]]:
        """Yield (index, text) as the judge answers.

        Triples that are too long even without their completion are left out.
        """
        from tqdm import tqdm

        backend, every = self.load(), 0.5 if sys.stderr.isatty() else 10.0
        requests = (request for request in map(self._request, range(len(triples)), triples) if request is not None)
        answers = backend.generate(requests)
        for answer in tqdm(answers, total=len(triples), desc="judging", unit="answer", mininterval=every):
            yield int(answer.id), answer.text

    def _request(self, index: int, triple: tuple):
        prompt = self.prompt_tokens(*triple)
        if prompt is None:
            return None
        room = min(self.max_tokens, self.length - len(prompt))
        sampling = Sampling(temperature=0.0, top_p=1.0, top_k=-1, max_tokens=room, stop_token_ids=self.stop_tokens)
        return SamplingRequest(str(index), prompt, seed=0, sampling=sampling)

    def prompt_tokens(self, completion: str, gold: str, question: str = "") -> list[int] | None:
        """Token ids of the prompt; the completion loses its beginning if necessary.

        None if it is too long even then.
        """
        completion, gold, question = (self._plain(text) for text in (completion, gold, question))
        question = question if self.fill_question else ""
        tokens = self._encode(completion, gold, question)
        if len(tokens) <= self.length - self.room:
            return tokens
        kept = self.tokenizer.encode(completion, add_special_tokens=False)
        while kept:
            # Cutting changes the tokenisation at the cut, so the count may be off by a few tokens.
            excess = len(tokens) - (self.length - self.room)
            kept = kept[max(1, excess) :]
            tokens = self._encode(self.tokenizer.decode(kept), gold, question)
            if len(tokens) <= self.length - self.room:
                return tokens
        return None

    def _encode(self, completion: str, gold: str, question: str) -> list[int]:
        content = self.prompt.format(question=question, gold_answer=gold, llm_response=completion)
        return self.tokenizer.encode(chat_prompt(self.tokenizer, content), add_special_tokens=False)

    def _plain(self, text: str) -> str:
        """Make a text safe for the tokenizer: control tokens are broken up, so none can end the judge's turn."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        for token in self.tokenizer.all_special_tokens:
            if len(token) > 1:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text
