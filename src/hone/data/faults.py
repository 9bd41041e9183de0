"""The catalogue of what can be wrong with training data: one table, from which codes, texts and docs are taken.

Severities:

    refused   the file cannot be used at all
    error     the row cannot be trained on, and is left out
    fixed     hone reads it rightly as it is, and ``--fix`` writes it plainly
    warning   the row is used as it stands; somebody should look

Source: the faults of ``hone data check`` in docs/data.md, which a test holds equal to this table.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from hone.errors import DataError
from hone.types import JsonDict

__all__ = ["FAULTS", "Fault", "FaultKind", "Finding", "RefusedSource", "Severity", "pointer_to"]

Severity = Literal["refused", "error", "fixed", "warning"]
Finding = tuple[str, str, str]
"""Code, JSON pointer and message of something found in one row, before its place in the file is known."""


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One entry of the catalogue.

    Args:
        severity: what follows from it.
        means: what it is, as half a sentence.
        remedy: what to do.
        once: listed at its first place only, with the number of rows or lines in the totals.
    """

    severity: Severity
    means: str
    remedy: str
    once: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault at its place.

    Args:
        code: one of :data:`FAULTS`.
        severity: as in the catalogue.
        row: ordinal of the row, from 1; 0 where the file as a whole is meant.
        line: line of the file, from 1; 0 where the file as a whole is meant.
        offset: bytes before the row's (or line's) first; None where a source has no bytes of its own.
        pointer: RFC 6901 pointer to the place in the row; empty for the whole row.
        message: what is wrong, with the value (secrets masked).
        remedy: what to do.
    """

    code: str
    severity: Severity
    row: int
    line: int
    offset: int | None
    pointer: str
    message: str
    remedy: str

    @classmethod
    def of(
        cls, code: str, message: str, *, row: int = 0, line: int = 0, offset: int | None = None, pointer: str = ""
    ) -> Fault:
        """A fault with what the catalogue says about its code."""
        kind = FAULTS[code]
        return cls(code, kind.severity, row, line, offset, pointer, message, kind.remedy)

    def to_json(self) -> JsonDict:
        """All fields, as ``--json`` prints them."""
        return asdict(self)


class RefusedSource(DataError):
    """A file that is refused whole.

    Args:
        code: one of :data:`FAULTS` with severity ``refused``.
        what: what is wrong with it.
        where: the file, or ``file:line``.
        line: the line, where one is to blame.
        why: why it matters.
        remedy: the next step.
        details: further problems.
    """

    def __init__(
        self,
        code: str,
        what: str,
        *,
        where: str | None = None,
        line: int = 0,
        why: str | None = None,
        remedy: str | None = None,
        details: tuple[str, ...] | list[str] = (),
    ) -> None:
        assert FAULTS[code].severity == "refused", code
        super().__init__(what, where=where, why=why, remedy=remedy, details=details)
        self.code = code
        self.line = line

    def fault(self) -> Fault:
        """The same as a fault of the file."""
        details = f" ({'; '.join(self.details)})" if self.details else ""
        remedy = self.remedy or FAULTS[self.code].remedy
        return Fault(self.code, "refused", 0, self.line, None, "", f"{self.what}{details}", remedy)


def pointer_to(*steps: str | int) -> str:
    """A JSON pointer (RFC 6901) from keys and indices."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def _refused(means: str, remedy: str) -> FaultKind:
    return FaultKind("refused", means, remedy, once=True)


def _error(means: str, remedy: str) -> FaultKind:
    return FaultKind("error", means, remedy)


def _fixed(means: str, remedy: str = "nothing; --fix writes it plainly") -> FaultKind:
    return FaultKind("fixed", means, remedy, once=True)


def _warning(means: str, remedy: str, *, once: bool = False) -> FaultKind:
    return FaultKind("warning", means, remedy, once)


FAULTS: dict[str, FaultKind] = {
    # The file as a whole.
    "bad_header": _refused("a table whose first line does not name the columns", "name each column on the first line"),
    "broken_document": _refused(
        "a JSON document that breaks off or is broken where the next row would begin",
        "mend it there, or write one object a line",
    ),
    "damaged_parquet": _refused("Parquet that cannot be read", "write or download it anew"),
    "empty_file": _refused("no row at all", "give a file with at least one example"),
    "foreign_file": _refused("Excel, PDF, SQLite, Arrow or binary content", "export it as JSON lines or CSV"),
    "lone_cr": _refused("lines that end with a carriage return alone", "convert them: tr '\\r' '\\n' < FILE > NEW"),
    "mixed_formats": _refused("rows of two formats in one file", "put each format into a file of its own"),
    "no_usable_row": _refused("rows, but none that can be used", "mend the rows; the faults say where"),
    "not_rows": _refused("text that is neither JSON nor a table", "give JSON lines, a JSON array, CSV or TSV"),
    "packed_file": _refused("a packed file under the name of data", "unpack it, and give the file inside"),
    "too_few_rows": _refused("fewer than 10 usable examples", "add rows; --allow-few-rows goes on with what there is"),
    "unclear_labels": _refused(
        "labels beside prompts and completions that may judge them, but are neither true nor false",
        "write true or false, or name the columns with --map",
    ),
    "unclosed_quote": _refused("a table in which a quote is never closed", "close the quote"),
    "unknown_format": _refused("rows whose keys are those of no known format", "name the columns with --map"),
    "wrong_name": _refused("a file that is not what its name says", "give it the name of its true kind"),
    # Bytes and JSON of one row.
    "bad_columns": _error("a table row with more or fewer cells than the header", "quote cells that hold a delimiter"),
    "bad_csv": _error("a record whose quotes are not those of CSV", 'write a quote inside a quoted cell as ""'),
    "duplicate_keys": _error("a JSON object that has one key twice", "keep one of the two"),
    "invalid_utf8": _error("bytes that are not UTF-8", "save the file as UTF-8, from the encoding it was written in"),
    "json_comment": _error("a comment, which JSON does not have", "take the comment out"),
    "line_too_long": _error("a line of more than 16 MiB", "split it, or leave the row out"),
    "lone_surrogate": _error("half of a UTF-16 pair, which is no character", "mend the text, or leave the row out"),
    "not_finite": _error("NaN, Infinity, or a number too large to be one", "write null, or a number"),
    "not_json": _error("text that is not JSON", "write one JSON object a line, as json.dumps does"),
    "not_object": _error("JSON that is no object", "write an object with named fields"),
    "nul_byte": _error("a NUL byte", "take it out; it comes of binary data or a wrong encoding"),
    "python_repr": _error("Python's way of printing, not JSON", "write rows with json.dumps, not with str or repr"),
    "too_deep": _error("JSON nested more than 64 levels deep", "flatten the row"),
    "trailing_comma": _error("a comma before a closing bracket", "take the comma out"),
    "truncated": _error("a row that breaks off before its end", "write the file anew, or leave the row out"),
    # The schema of one row.
    "all_weights_zero": _error(
        "every assistant turn has weight 0, so nothing would be learned", "give one turn weight 1"
    ),
    "bad_content": _error(
        "a text that is no text: a number, null, or a part that is not text", "write the text as a string"
    ),
    "bad_ranks": _error(
        "ranks, a label or a margin that do not say which answer is better",
        "give two answers or more and a number for each, 1 the best; a label is true or false, a margin 0 or more",
    ),
    "bad_role": _error("a turn without a role, or with one that nobody knows", "use system, user, assistant or tool"),
    "bad_tool_call": _error("a call without a name, or whose arguments are no JSON object", "mend the call"),
    "bad_tools": _error("tools that are no list of function schemas", "write them as OpenAI does"),
    "bad_turn": _error("a turn that is no object", "write it as an object with role and content"),
    "bad_weight": _error(
        "a weight other than 0 and 1, or on a turn that is not the assistant's", "give 0 or 1, to assistant turns"
    ),
    "empty_assistant": _error(
        "an assistant turn with no text, no call and no reasoning", "give the answer, or leave the row out"
    ),
    "empty_messages": _error("messages that are no list, or an empty one", "give the turns, or leave the row out"),
    "empty_prompt": _error("a prompt column with no text", "give the prompt, or leave the row out"),
    "equal_sides": _error(
        "compared answers that are the same, or are all of one rank, so that nothing is preferred", "leave the row out"
    ),
    "no_assistant": _error("no turn of the assistant", "end the conversation with the answer to be learned"),
    "no_prompt": _error("nothing stands before the assistant's only turn", "put the question before the answer"),
    "orphan_tool_result": _error("a tool's result that answers no call", "put the call before it, with its id"),
    "prompts_differ": _error(
        "a chosen and a rejected conversation with different prompts", "give both the same prompt"
    ),
    "unknown_keys": _error("keys that are not those of the file's format", "rename the keys, or use --map"),
    "unread_context": _error(
        "a column that belongs to the prompt, but that the format does not read", "put it into the prompt column"
    ),
    # What only other rows, a model or another file can show.
    "held_out_copy": _error(
        "its prompt is equal or nearly equal to one of the `--eval` file",
        "leave it out here or there; the comparison would be of memory",
    ),
    "template": _error(
        "the chat template cannot render it with right masks, or no supervised turn fits into the maximum length",
        "mend the row, or raise --max-length",
    ),
    # Read rightly as it is.
    "blank_lines": _fixed("lines with nothing on them"),
    "bom": _fixed("a byte order mark"),
    "crlf": _fixed("lines that end as on Windows"),
    "json_document": _fixed("one JSON array, or objects over several lines, instead of an object a line"),
    "no_final_newline": _fixed("a last line without a line end"),
    "other_encoding": _fixed("UTF-16 or UTF-32 instead of UTF-8"),
    "role_alias": _fixed("another word for a role (human, gpt, bot, ...)"),
    "table": _fixed("CSV or TSV instead of JSON lines"),
    # Used as it stands.
    "ansi": _warning("terminal escapes in a text", "take them out; the model would learn to write them"),
    "class_imbalance": _warning(
        "one label is many times as frequent as another", "add rows of the rare labels", once=True
    ),
    "conflicting_answers": _warning(
        "one prompt with different answers", "keep the right one, or say in the prompt what makes the difference"
    ),
    "conflicting_votes": _warning(
        "two answers to one prompt, each preferred to the other in some row", "keep what most raters say"
    ),
    "control_token": _warning("a text that holds another format's control token", "take it out, or leave the row out"),
    "cut_row": _warning("turns at its end are left out because of the maximum length", "raise --max-length"),
    "duplicate": _warning("a row that stands there already", "keep one; copies count as often as they stand"),
    "html": _warning("HTML in a text", "take the tags out, unless they are what is to be learned"),
    "huge_integer": _warning(
        "an integer beyond 2^53, which other readers round", "write it as text if its digits matter"
    ),
    "label_error": _warning("a label that rows like it do not have", "look at the row; correct the label"),
    "late_system": _warning("a system turn that is not the first", "put it first; many templates refuse it there"),
    "length_bias": _warning(
        "the longer answer is preferred (or the shorter one) far more often than not",
        "a model may learn the length alone: judge it by the length-matched slice of its evaluation",
        once=True,
    ),
    "length_outlier": _warning("an answer many times as long as the others", "look at the row"),
    "loss_outlier": _warning("an answer that the base finds far less likely than the others", "look at the row"),
    "mismatched_pair": _warning(
        "an answer that fits its prompt no better than other rows' prompts", "look at the row; it may be shifted"
    ),
    "mojibake": _warning("letters garbled by a wrong encoding", "decode the source as UTF-8, and write it anew"),
    "near_duplicate": _warning("a prompt nearly equal to another row's", "keep one, unless the difference matters"),
    "near_empty_answer": _warning("an answer without a letter or a digit", "give the answer, or leave the row out"),
    "near_equal_sides": _warning(
        "compared answers that differ in case or white space alone", "leave the row out, unless that is what is judged"
    ),
    "odd_language": _warning(
        "a text in another language than nearly all others", "look at the row; translate it, or leave it out"
    ),
    "odd_prompt": _warning("a prompt with words that no other prompt has", "look at the row; does it belong here?"),
    "one_sided_labels": _warning(
        "judged answers that are all liked, or all not",
        "add answers of the other kind: from one kind alone a model learns what to drift to, not what to prefer",
        once=True,
    ),
    "personal_data": _warning("personal data", "redact it: --fix OUT --redact"),
    "probe_copy": _warning("its prompt stands in a benchmark", "leave it out; the benchmark would measure memory"),
    "refusal": _warning("an answer that refuses", "leave it out, unless refusing is what is to be learned"),
    "role_twice": _warning("two turns in a row of one role", "join them; some templates refuse it"),
    "secret": _warning("a key, token or password", "revoke it, then redact it: --fix OUT --redact"),
    "trailing_turns": _warning("turns behind the assistant's last, which are left out", "end with the answer"),
    "unread_keys": _warning("keys that nothing is read from", "take them out, or name columns with --map", once=True),
}
